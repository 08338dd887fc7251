"""What a forward pass calls in PyTorch, and from where: the calls that exporters are known to get wrong.

Source code says what might run; this says what did, inside torch's own modules too, with the module path and the line of
the user's that led to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attn_deploy.rules.finding import Finding
from attn_deploy.rules.location import Place, module_paths, place_here

# Of these rules a run tells what the source can only suspect.
SEEN_IN_CALLS = frozenset(
    {
        "adaptive-pooling",
        "data-dependent-branch",
        "data-dependent-size",
        "fft",
        "fold",
        "groups-from-batch",
        "loop-over-batch",
        "multi-head-attention",
        "number-from-tensor",
        "random-in-forward",
    }
)


def record_calls(model: nn.Module, examples: Sequence[tuple[Tensor, ...]]) -> tuple[Finding, ...]:
    """Run a model on each tuple of inputs and note the calls that fall under a rule, each place once.

    Give inputs of different batch sizes to have loops over the batch distinguished from other loops. An error of the
    model ends the run that it happened in.
    """
    runs = []
    for example in examples:
        recorder = _Recorder(model, example)
        # Calls made before an error still count; whoever runs the model reports the error itself.
        with torch.no_grad(), recorder, contextlib.suppress(Exception):
            model(*(t.clone() for t in example))
        runs.append(recorder)
    calls = {(c.rule, c.place): c for recorder in runs for c in recorder.calls}
    if len(runs) > 1:
        for place, counts in _iterations(runs).items():
            if len(set(counts)) > 1:
                what = f"a loop over a tensor ran {counts[0]} times for one input and {counts[1]} for another"
                calls[("loop-over-batch", place)] = Finding("loop-over-batch", what, place)
    return tuple(calls.values())


def _iterations(runs: Sequence[_Recorder]) -> dict[Place, list[int]]:
    places = [p for p in runs[0].iterated if all(p in r.iterated for r in runs)]
    return {p: [r.iterated[p] for r in runs] for p in places}


class _Recorder(TorchFunctionMode):
    """Notes the calls of `_CHECKS` while it is active."""

    def __init__(self, model: nn.Module, example: Sequence[Tensor]) -> None:
        super().__init__()
        self.calls: list[Finding] = []
        self.iterated: dict[Place, int] = {}
        self._paths = module_paths(model)
        self._inputs = {t.data_ptr() for t in example}
        self._batch = example[0].shape[0] if example and example[0].dim() else 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "unbind":
            place = place_here(self._paths)
            self.iterated[place] = self.iterated.get(place, 0) + args[0].shape[args[1] if len(args) > 1 else 0]
        for rule, what in _matches(name, args, keywords, self._batch):
            self.calls.append(Finding(rule, what, place_here(self._paths)))
        return func(*args, **keywords)


def _matches(name: str, args: Sequence[Any], keywords: Mapping[str, Any], batch: int) -> Iterator[tuple[str, str]]:
    check = _CHECKS.get(name)
    if check is not None:
        match = check(name, args, keywords, batch)
        if match is not None:
            yield match
    if name.startswith(("fft_", "stft", "istft")):
        yield "fft", f"torch.{name.replace('_', '.', 1)}"


_Found = tuple[str, str] | None


def _value(args: Sequence[Any], keywords: Mapping[str, Any], index: int, name: str, default: Any = None) -> Any:
    return keywords[name] if name in keywords else args[index] if len(args) > index else default


def _adaptive(name: str, args: Sequence[Any], keywords: Mapping[str, Any], batch: int) -> _Found:
    size = _value(args, keywords, 1, "output_size")
    if size in (1, (1,), (1, 1), [1, 1], (1, 1, 1)):
        return None
    return "adaptive-pooling", f"{name} to {size}"


def _to_number(name: str, args: Sequence[Any], keywords: Mapping[str, Any], batch: int) -> _Found:
    if name == "__bool__":
        return "data-dependent-branch", "a tensor as a condition"
    words = {"__int__": "int()", "__float__": "float()", "__index__": "an index", "__complex__": "complex()"}
    return "number-from-tensor", f"{words.get(name, '.' + name + '()')} of a tensor"


def _convolution(name: str, args: Sequence[Any], keywords: Mapping[str, Any], batch: int) -> _Found:
    groups = _value(args, keywords, 6, "groups", 1)
    x, weight = args[0], _value(args, keywords, 1, "weight")
    if (
        groups > 1
        and x.dim() > 3
        and x.shape[0] == 1
        and groups % batch == 0
        and batch > 1
        and not _is_constant(weight)
    ):
        return "groups-from-batch", f"{name} with groups={groups} for a batch of {batch}"
    return None


def _is_constant(weight: Any) -> bool:
    return isinstance(weight, nn.Parameter)


def _dropout(name: str, args: Sequence[Any], keywords: Mapping[str, Any], batch: int) -> _Found:
    active = bool(_value(args, keywords, 2, "training", True)) and _value(args, keywords, 1, "p", 0.5) > 0
    return ("random-in-forward", f"{name} with training=True") if active else None


def _always(rule: str) -> Callable[..., _Found]:
    return lambda name, args, keywords, batch: (rule, name)


def _where(name: str, args: Sequence[Any], keywords: Mapping[str, Any], batch: int) -> _Found:
    return ("data-dependent-size", "where with one argument") if len(args) + len(keywords) == 1 else None


def _index(name: str, args: Sequence[Any], keywords: Mapping[str, Any], batch: int) -> _Found:
    keys = args[1] if isinstance(args[1], tuple) else (args[1],)
    masked = any(isinstance(k, Tensor) and k.dtype in (torch.bool, torch.uint8) for k in keys)
    return ("data-dependent-size", "a boolean index") if masked else None


_CHECKS: dict[str, Callable[..., _Found]] = {
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _adaptive),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive),
    **dict.fromkeys(("__bool__", "__int__", "__float__", "__index__", "__complex__"), _to_number),
    **dict.fromkeys(("item", "tolist", "numpy"), _to_number),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"), _dropout),
    **dict.fromkeys(("rand", "randn", "rand_like", "randn_like", "bernoulli", "randint"), _always("random-in-forward")),
    **dict.fromkeys(("nonzero", "unique", "masked_select", "argwhere"), _always("data-dependent-size")),
    "fold": _always("fold"),
    "multi_head_attention_forward": _always("multi-head-attention"),
    "where": _where,
    "__getitem__": _index,
}
