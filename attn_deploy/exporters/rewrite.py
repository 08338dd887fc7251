"""A copy of the user's model in which calls that exporters get wrong go to forms that they get right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attn_deploy.errors import ExportError
from attn_deploy.exporters.encoders import patch_encoders_
from attn_deploy.exporters.safe_forms import SafeForms, Scope
from attn_deploy.exporters.whole_windows import common
from attn_deploy.fusing.copying import copy_model
from attn_deploy.parity.reference import EagerReference
from attn_deploy.parity.rounding import is_rounding, moves_as_far
from attn_deploy.parity.tolerance import TOLERANCES
from attn_deploy.runtimes.eager import flatten_outputs

_MANY_PADS = 2  # maps padded by computed amounts, one after the other, that torch still copes with


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The model to export, and what was changed in it.

    Attributes:
        model: the copy, or the model itself if nothing was changed.
        changes: (module path, words) for each change.
        computed_pads: how often a map is padded, where amounts depend on its size.
        window_pads: how many of them are not in front of a convolution: to whole windows.
    """

    model: nn.Module
    changes: tuple[tuple[str, str], ...]
    computed_pads: int = 0
    window_pads: int = 0


def rewrite(
    model: nn.Module,
    examples: Sequence[tuple[Tensor, ...]],
    *,
    batch: bool,
    space: bool,
    label: str,
    expected: Callable[[tuple[Tensor, ...]], Sequence[NDArray[Any]]] | None = None,
) -> Rewriting:
    """Replace what is known to be exported wrong; the model itself is left alone, and returned if nothing is.

    Args:
        model: in eval mode.
        examples: inputs at one or more sizes, at which the copy must equal the model.
        batch: whether the batch moves.
        space: whether any other axis moves.
        label: the model's name in messages.
        expected: gives the model's outputs for an example, where they are known; by default it is run.

    Raises:
        ExportError: if the copy gives other numbers than the model.
    """
    recorder = _recorded(model, Scope(batch, space), examples[0])
    differing = recorder.shifts or len(recorder.pads) > 2
    other = _recorded(model, Scope(batch, space), examples[-1]) if differing else recorder
    pads = len(recorder.pads) if recorder.pads != other.pads else 0
    window_pads = max(0, pads - recorder.same_pads)
    rolls = recorder.shifts != other.shifts
    runs = [recorder]  # what the calls of resizing and pooling have in common at all sizes
    if recorder.nearest_resizes or (space and any(recorder.windows)):
        runs += [_recorded(model, recorder.scope, example) for example in examples[1:]]
    resizes = frozenset(k for run in runs for k, uneven in enumerate(run.uneven_resizes) if uneven)
    windows = common([run.windows for run in runs]) if space and len(runs) > 1 else {}
    if rolls or resizes or windows or (recorder.scope.uneven and not space):
        # This is known only at the end of a run: what it changes is noted in another.
        known = replace(recorder.scope, rolls=rolls, resizes=resizes, windows=windows)
        recorder = _recorded(model, known, examples[0])
    encoder = copy_model(model, share_parameters=True)
    encoders = patch_encoders_(encoder)
    scope = replace(recorder.scope, pads=pads > _MANY_PADS)
    if not recorder.changes and not encoders and not scope.pads:
        return Rewriting(model, (), pads, window_pads)
    changed = _redirected(encoder, scope) if recorder.changes or scope.pads else encoder
    for example in examples:
        right = _outputs(model, example) if expected is None else expected(example)
        _compare(model, right, changed, example, label)
    return Rewriting(changed, (*encoders, *recorder.changes), pads, window_pads)


def _recorded(model: nn.Module, scope: Scope, example: tuple[Tensor, ...]) -> SafeForms:
    """What would be redirected in a run of a copy."""
    twin = copy_model(model, share_parameters=True)
    recorder = SafeForms(scope, twin)
    with torch.no_grad(), recorder:
        twin(*(t.clone() for t in example))
    return recorder


def _redirected(model: nn.Module, scope: Scope) -> nn.Module:
    """A copy whose forward runs under `SafeForms`; same class name, same module paths, same parameters."""
    twin = copy_model(model, share_parameters=True)
    cls = type(twin)

    @functools.wraps(cls.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with SafeForms(scope):
            return cls.forward(self, *args, **kwargs)

    twin.__class__ = type(
        cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__, "__doc__": cls.__doc__}
    )
    return twin


def _outputs(model: nn.Module, example: tuple[Tensor, ...]) -> list[NDArray[Any]]:
    """The outputs of a fresh copy, without what numpy has no type for."""
    with torch.no_grad():
        outputs = flatten_outputs(copy_model(model, share_parameters=True)(*(t.clone() for t in example)))
    return [(t.float() if t.dtype == torch.bfloat16 else t).detach().cpu().numpy() for t in outputs]


def _compare(
    model: nn.Module, right: Sequence[NDArray[Any]], changed: nn.Module, example: tuple[Tensor, ...], label: str
) -> None:
    names = [str(index) for index in range(len(right))]
    expected, got = (dict(zip(names, outputs, strict=True)) for outputs in (right, _outputs(changed, example)))
    far = [n for n in names if expected[n].shape != got[n].shape or not _close(expected[n], got[n])]
    if not far:
        return
    comparable = all(expected[n].dtype.kind == "f" and expected[n].shape == got[n].shape for n in far)
    if comparable and all(t.dtype != torch.bfloat16 for t in example):  # which numpy has not
        arrays = {str(k): t.detach().cpu().numpy() for k, t in enumerate(example)}
        rounding = EagerReference(model, names).rounding
        if is_rounding(rounding, arrays, expected, got, far)[0] or moves_as_far(rounding, arrays, expected, got, far):
            return  # what picks by score picks others after any rounding; the proof of the file says whether all is right
    shapes = ", ".join("x".join(map(str, t.shape)) for t in example)
    raise ExportError(
        f"{label}: the rewritten copy differs from the model in output {far[0]} at {shapes}. Use --no-rewrite, and report "
        "the model.",
        rule="wrong-numbers",
    )


def _close(right: NDArray[Any], result: NDArray[Any]) -> bool:
    if right.dtype.kind not in "fc":
        return bool(np.array_equal(right, result))
    tolerance = TOLERANCES["float32"]
    scale = float(np.abs(np.nan_to_num(right, nan=0.0, posinf=0.0, neginf=0.0)).max(initial=0.0))
    atol = tolerance.atol * max(1.0, scale)
    return bool(np.allclose(result, right, rtol=tolerance.rtol, atol=atol, equal_nan=True))
