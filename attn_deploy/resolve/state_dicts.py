"""Which of the state dicts in a checkpoint is loaded, and under which names.

Training scripts keep averaged weights beside the raw ones (``ema``, ``params_ema``, ``model_ema``, ``state_dict_ema``), put
dicts into dicts, names behind prefixes (``module.``, ``_orig_mod.``, ``model.`` of Lightning), and tensors of their own
beside the model's (``n_averaged`` of SWA, ``total_ops`` of thop, a loss's weights).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attn_deploy.errors import InvalidRequestError

# The names of dicts of weights, the likeliest first; an averaged one is preferred to all of them.
WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "params", "module", "weights")
_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|shadow|teacher)([._]|$)|ema$|^ema", re.IGNORECASE)
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|callback|loss|criterion|hyper|config|args")
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params")
_WRAPPED = re.compile(r"(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
_TABLE = re.compile(
    r"attn_mask$|relative_(position_index|coords_table)$|position_ids?$|inv_freq$|^anchors?$|^anchor_grid$"
)
_MOST_DEEP = 4


@dataclass(frozen=True, slots=True)
class ChosenState:
    """A state dict, the words of what was chosen where there was a choice, and those for a refusal."""

    state: dict[str, Tensor]
    note: str = ""
    choice: str = ""


@dataclass(frozen=True, slots=True)
class FittedState:
    """A state dict under the model's names, and what of it was left out."""

    state: dict[str, Tensor]
    note: str = ""


def choose_state(content: Any, path: Path, key: str | None) -> ChosenState:
    """The state dict of a checkpoint's content: that of ``key``, else averaged weights, else the likeliest name.

    Raises:
        InvalidRequestError: if there is none, or none of that key.
    """
    candidates = dict(_state_dicts(content, ""))
    if key is not None:
        match = next((n for n in candidates if n == key or n.startswith(f"{key}.")), None)
        part = None if match is not None else _part(candidates, key.removesuffix("."))
        if part is not None:
            return part
        if match is None:
            raise InvalidRequestError(
                f"{path} has no state dict {key!r}; --weights-key can be {', '.join(n for n in candidates if n) or 'left out'}."
            )
        return ChosenState(candidates[match], f"the state dict {match!r}")
    if not candidates:
        holds = (
            f"keys {', '.join(map(repr, list(content)[:6]))}"
            if isinstance(content, Mapping)
            else type(content).__name__
        )
        raise InvalidRequestError(
            f"{path} holds no state dict ({holds}); expected tensors by name, alone or under {', '.join(WRAPPERS[:3])}."
        )
    best = min(candidates, key=_rank)
    if len(candidates) == 1:
        return ChosenState(candidates[best])
    others = ", ".join(repr(n) for n in candidates if n != best)
    why = "averaged weights" if _AVERAGED.search(best) else "the likeliest name"
    note = f"the state dict {best!r} ({why}; also there: {others}, with --weights-key)"
    return ChosenState(candidates[best], note, f" (of the state dict {best!r}; --weights-key can also be {others})")


def _part(candidates: Mapping[str, Mapping[str, Tensor]], key: str) -> ChosenState | None:
    """The tensors of a state dict whose names begin with ``key``, as Lightning keeps ``model_ema.`` beside ``model.``."""
    for state in candidates.values():
        inside = {k[len(key) + 1 :]: v for k, v in state.items() if k.startswith(f"{key}.")}
        if inside:
            return ChosenState(inside, f"the tensors under {key + '.'!r}")
    return None


def _rank(name: str) -> tuple[bool, int, int]:
    parts = name.split(".")
    known = [WRAPPERS.index(p) for p in parts if p in WRAPPERS]
    return (not _AVERAGED.search(name), min(known, default=len(WRAPPERS)), len(parts))


def _state_dicts(content: Any, name: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dict of tensors in a checkpoint with its dotted key; what belongs to optimizers and losses is left out."""
    if not isinstance(content, Mapping) or name.count(".") >= _MOST_DEEP:
        return
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    inner = any(isinstance(v, Mapping) and v for v in content.values())
    if tensors and 2 * len(tensors) >= len(content) and not inner:  # some scripts put counters beside the weights
        yield name, tensors
        return
    for key, value in content.items():
        if not _NO_WEIGHTS.search(str(key).lower()):
            yield from _state_dicts(value, f"{name}.{key}" if name else str(key))


def fit_names(state: Mapping[str, Tensor], expected: set[str]) -> FittedState:
    """The tensors under the model's names.

    Prefixes are taken off where that makes the names the model's. Of several parts that fit whole (``model.`` and
    ``model_ema.``), the averaged one is taken; what stands under other prefixes is left out, and the note lists it.
    """
    kept = {k: v for k, v in state.items() if k in expected or not (k.endswith(_COUNTERS) or k == "n_averaged")}
    kept = _unwrapped(kept, expected)
    needed = {k for k in expected if not k.endswith(_COUNTERS)}
    if not needed:
        return FittedState(kept)
    whole = [p for p in ("", *_prefixes(kept)) if needed <= {k[len(p) :] for k in kept if k.startswith(p)}]
    if whole:
        prefix = min(whole, key=lambda p: (not _AVERAGED.search(p), len(p)))
        if not prefix:
            others = tuple(p for p in whole if p)
            return FittedState({k: v for k, v in kept.items() if not (others and k.startswith(others))})
    elif 2 * len(needed & set(kept)) > len(needed):
        return FittedState(kept)
    else:
        prefix = max(
            _prefixes(kept), key=lambda p: sum(k[len(p) :] in needed for k in kept if k.startswith(p)), default=""
        )
        if not any(k[len(prefix) :] in needed for k in kept if k.startswith(prefix)):
            return FittedState(kept)
    inside = {k[len(prefix) :]: v for k, v in kept.items() if k.startswith(prefix)}
    outside = [k for k in kept if not k.startswith(prefix)]
    note = ""
    if outside:
        some = ", ".join(outside[:3]) + (", ..." if len(outside) > 3 else "")
        note = f"the tensors under {prefix!r}; left out: {len(outside)} others ({some})"
    return FittedState(inside, note)


def _unwrapped(state: Mapping[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """The tensors without what wrappers of a part put into names: of torch.compile, checkpointing and data parallelism."""
    names = {k: _WRAPPED.sub("", k) for k in state} if not any(_WRAPPED.search(k) for k in expected) else {}
    inner = {k: re.sub(r"(?<=\.)module\.", "", names.get(k, k)) for k in state}
    if len(set(inner.values()) & expected) > len({names.get(k, k) for k in state} & expected):
        names = inner
    if len(set(names.values())) < len(names):  # two tensors would have one name
        return dict(state)
    return {names.get(k, k): v for k, v in state.items()}


@dataclass(frozen=True, slots=True)
class Tables:
    """Tensors that constructors make and nobody trains, which a checkpoint lacks or has beside the model's.

    Attributes:
        kept: those that the checkpoint lacks; they stay as the constructor made them.
        left_out: those of the checkpoint that the model has no place for.
        note: both in words.
    """

    kept: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    note: str = ""


def tables_among(
    model: nn.Module, missing: Sequence[str], unexpected: Sequence[str], state: Mapping[str, Tensor]
) -> Tables:
    """Index tables, masks, positions and frequencies among the tensors that do not fit.

    Args:
        model: what is loaded into.
        missing: tensors of the model that the checkpoint lacks.
        unexpected: tensors of the checkpoint that the model lacks.
        state: of the checkpoint.
    """
    buffers = dict(model.named_buffers())
    kept = tuple(k for k in missing if k in buffers and _is_table(k, buffers[k]))
    left_out = tuple(k for k in unexpected if _TABLE.search(k.rpartition(".")[2]))
    words = [
        f"{len(names)} {what} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for names, what in ((kept, "tables as the constructor makes them"), (left_out, "tables of the file left out"))
        if names
    ]
    return Tables(kept, left_out, "; ".join(words))


def _is_table(name: str, tensor: Tensor) -> bool:
    whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel() > 1
    return whole or bool(_TABLE.search(name.rpartition(".")[2]))


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Every dotted beginning of the names, up to three parts."""
    prefixes: dict[str, None] = {}
    for name in state:
        parts = name.split(".")
        for count in range(1, min(_MOST_DEEP, len(parts))):
            prefixes[".".join(parts[:count]) + "."] = None
    return list(prefixes)
