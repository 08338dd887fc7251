"""Whether a model answers by what it saw before: a file has no memory, and such a model has no right file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attn_deploy.errors import ExportError
from attn_deploy.exporters.eager_checks import checked_run, run_eager
from attn_deploy.exporters.outside import Outside
from attn_deploy.exporters.writes import WeightWatch
from attn_deploy.fusing.copying import copy_model
from attn_deploy.inputs.samples import example_arrays, verification_seed, verification_sizes
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.parity.reference import EagerReference
from attn_deploy.parity.tolerance import TOLERANCES
from attn_deploy.rules.location import place_of_line
from attn_deploy.rules.rules import rule
from attn_deploy.rules.source import read_source
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.eager import flatten_outputs

_OTHER_SIZES = 2  # at which a copy that has run is compared with one that has not


def first_outputs(
    model: nn.Module, inputs: Sequence[TensorInput], label: str, *, watched: bool = False
) -> tuple[Any, nn.Module]:
    """The outputs of a fresh copy at the traced sizes, after the checks of `checked_run`; and the copy, which ran twice.

    Args:
        model: never run.
        inputs: of the model.
        label: its name in messages.
        watched: stop the first run before it writes to a weight that copies share.

    Raises:
        ExportError: as `checked_run`.
        WeightsWritten: if it would.
    """
    example = tuple(torch.from_numpy(a) for a in example_arrays(inputs).values())
    if watched:
        used = copy_model(model, share_parameters=True)
        with contextlib.suppress(ExportError):  # the watch may be in the way; if it is not, the next run says the same
            return checked_run(used, inputs, example, label, watch=WeightWatch(model)), used
    used = copy_model(model, share_parameters=True)
    return checked_run(used, inputs, example, label), used


def refuse_history(
    model: nn.Module,
    reference: EagerReference,
    inputs: Sequence[TensorInput],
    dynamic: Sequence[str],
    label: str,
    used: nn.Module,
    outside: Outside,
) -> None:
    """Refuse a model that gives other outputs after it has run at another size.

    Args:
        model: never run.
        reference: runs fresh copies of it.
        inputs: of the model.
        dynamic: the symbols that move.
        label: its name in messages.
        used: a copy that has run at the traced sizes, or near them.
        outside: the state around the model before any run.

    Raises:
        ExportError: naming what it keeps, and the line where it does.
    """
    for arrays in _at_other_sizes(inputs, dynamic):
        right = list(run_once(reference.runner, arrays).values())
        example = tuple(torch.from_numpy(a) for a in arrays.values())
        try:
            outputs = [t.detach().cpu() for t in flatten_outputs(run_eager(used, inputs, example, label))]
        except ExportError as error:
            raise _refusal(model, used, label) from error
        if not all(_same(r, o) for r, o in zip(right, outputs, strict=True)):
            raise _refusal(model, used, label)
    _refuse_outside(model, reference, inputs, dynamic, label, outside)


def _at_other_sizes(inputs: Sequence[TensorInput], dynamic: Sequence[str]) -> list[Arrays]:
    """Inputs of the proof, for which the reference remembers the answers."""
    sizes = verification_sizes(inputs, dynamic)[:_OTHER_SIZES]
    return [example_arrays(inputs, s, verification_seed(k)) for k, s in enumerate(sizes, 1)]


def _refuse_outside(
    model: nn.Module,
    reference: EagerReference,
    inputs: Sequence[TensorInput],
    dynamic: Sequence[str],
    label: str,
    outside: Outside,
) -> None:
    """Refuse a model whose outputs depend on what an earlier run left in its classes, globals or functions.

    Raises:
        ExportError: naming what that is.
    """
    changed = outside.changes()
    if not changed:
        return
    try:
        for arrays in _at_other_sizes(inputs, dynamic):
            right = list(run_once(reference.runner, arrays).values())
            outside.restore()
            example = tuple(torch.from_numpy(a) for a in arrays.values())
            fresh = copy_model(model, share_parameters=True)
            outputs = [t.detach().cpu() for t in flatten_outputs(run_eager(fresh, inputs, example, label))]
            if not all(_same(r, o) for r, o in zip(right, outputs, strict=True)):
                entry = rule("cached-by-size")
                names = ", ".join(repr(n) for n in changed[:3])
                raise ExportError(
                    f"{label}: {entry.explanation}: {names}, outside the model's own state, changes in the first run, and "
                    f"the outputs at another size depend on it. {entry.remedy}",
                    rule=entry.id,
                )
    finally:
        outside.restore()


def _same(right: Any, output: Tensor) -> bool:
    values = (output.float() if output.dtype == torch.bfloat16 else output).numpy()
    tolerance = TOLERANCES["float32"]
    scale = max(1.0, float(np.abs(right.astype(np.float64)).max(initial=0.0)))
    if right.shape != values.shape:
        return False
    return bool(np.allclose(values, right, rtol=tolerance.rtol, atol=tolerance.atol * scale, equal_nan=True))


def _refusal(fresh: nn.Module, used: nn.Module, label: str) -> ExportError:
    entry = rule("cached-by-size")
    kept = changed_attributes(fresh, used)
    names = ", ".join(repr(n) for n in kept[:3]) or "something"
    where = ""
    for finding in read_source(fresh):
        if finding.rule in ("cached-by-size", "kept-in-forward") and any(
            n.rpartition(".")[2] in finding.what for n in kept
        ):
            where = place_of_line(fresh, finding.place.file, finding.place.line).phrase
            break
    return ExportError(
        f"{label}: {entry.explanation}: {names} is kept of the first run, and the outputs at another size depend on "
        f"it{where}. {entry.remedy}",
        rule=entry.id,
    )


def changed_attributes(fresh: nn.Module, used: nn.Module) -> list[str]:
    """The attributes of modules, by path, that running changed."""
    before = dict(fresh.named_modules())
    changed = []
    for path, module in used.named_modules():
        twin = before.get(path)
        if twin is None:  # a module that was made in forward: the attribute that holds it is named
            parent, _, name = path.rpartition(".")
            if parent in before or not parent:
                changed.append(f"{parent}.{name}" if parent else name)
            continue
        for name, value in vars(module).items():
            if name.startswith("_") and name in vars(nn.Module()):
                continue
            old = vars(twin).get(name)
            if not _equal(old, value):
                changed.append(f"{path}.{name}" if path else name)
        for name, value in module._buffers.items():
            if not _equal(twin._buffers.get(name), value):
                changed.append(f"{path}.{name}" if path else name)
    return list(dict.fromkeys(changed))


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return old.shape == new.shape and torch.equal(old, new)
    if isinstance(old, Tensor) or isinstance(new, Tensor) or type(old) is not type(new):
        return False
    if isinstance(new, (list, dict, set)):
        return len(old) == len(new)
    if isinstance(new, (bool, int, float, str, tuple, torch.Size)) and not isinstance(new, nn.Module):
        try:
            return bool(old == new)
        except (RuntimeError, ValueError):
            return False
    return True
