"""A copy of the user's model in which calls that exporters get wrong go to forms that they get right."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attn_deploy.errors import ExportError
from attn_deploy.exporters.safe_forms import SafeForms, Scope
from attn_deploy.parity.tolerance import TOLERANCES, Tolerance
from attn_deploy.runtimes.eager import flatten_outputs


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The model to export, and what was changed in it: (module path, words) for each change, none for the model itself."""

    model: nn.Module
    changes: tuple[tuple[str, str], ...]


def rewrite(
    model: nn.Module, examples: Sequence[tuple[Tensor, ...]], *, batch: bool, space: bool, label: str
) -> Rewriting:
    """Replace what is known to be exported wrong; the model itself is left alone, and returned if nothing is.

    Args:
        model: in eval mode.
        examples: inputs at one or more sizes, at which the copy must equal the model.
        batch: whether the batch moves.
        space: whether any other axis moves.
        label: the model's name in messages.

    Raises:
        ExportError: if the copy gives other numbers than the model.
    """
    recorder = SafeForms(Scope(batch, space), model)
    with torch.no_grad(), recorder:
        model(*(t.clone() for t in examples[0]))
    if recorder.scope.uneven and not space:  # known only at the end of the run: note them in another
        recorder = SafeForms(recorder.scope, model)
        with torch.no_grad(), recorder:
            model(*(t.clone() for t in examples[0]))
    if not recorder.changes:
        return Rewriting(model, ())
    changed = _redirected(model, recorder.scope)
    for example in examples:
        _compare(model, changed, example, label)
    return Rewriting(changed, tuple(recorder.changes))


def _redirected(model: nn.Module, scope: Scope) -> nn.Module:
    """A copy whose forward runs under `SafeForms`; same class name, same module paths, same parameters."""
    made = copy.deepcopy(model)
    cls = type(made)

    @functools.wraps(cls.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with SafeForms(scope):
            return cls.forward(self, *args, **kwargs)

    made.__class__ = type(
        cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__, "__doc__": cls.__doc__}
    )
    return made


def _compare(model: nn.Module, changed: nn.Module, example: tuple[Tensor, ...], label: str) -> None:
    with torch.no_grad():
        expected = flatten_outputs(model(*(t.clone() for t in example)))
        got = flatten_outputs(changed(*(t.clone() for t in example)))
    tolerance = TOLERANCES["float32"]
    for index, (right, result) in enumerate(zip(expected, got, strict=True)):
        if right.shape != result.shape or not _close(right, result, tolerance):
            shapes = ", ".join("x".join(map(str, t.shape)) for t in example)
            raise ExportError(
                f"{label}: the rewritten copy differs from the model in output {index} at {shapes}. Use --no-rewrite, and "
                "report the model.",
                rule="wrong-numbers",
            )


def _close(right: Tensor, result: Tensor, tolerance: Tolerance) -> bool:
    if not right.is_floating_point():
        return torch.equal(right, result)
    scale = float(right.abs().nan_to_num(0, 0, 0).max()) if right.numel() else 0.0
    return torch.allclose(result, right, rtol=tolerance.rtol, atol=tolerance.atol * max(1.0, scale), equal_nan=True)
