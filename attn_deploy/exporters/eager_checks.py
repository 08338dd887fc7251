"""A first look at the model in eager mode: it must run, and give the same result twice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attn_deploy.errors import ExportError
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.resolve.detectors import NETWORK, is_detector, parts_of
from attn_deploy.rules.calls import record_calls
from attn_deploy.rules.location import Place, place_of_error
from attn_deploy.rules.rules import explain, rule
from attn_deploy.runtimes.eager import flatten_outputs


def refuse_batch_statistics(module: nn.Module, label: str) -> None:
    """Refuse norms that have no statistics of their own.

    Raises:
        ExportError: naming the module.
    """
    for path, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is None:
            entry = rule("batch-statistics")
            raise ExportError(
                f"{label}.{path}: {type(child).__name__} keeps no running statistics: {entry.explanation}. {entry.remedy}",
                rule=entry.id,
            )


def refuse_scripted_parts(module: nn.Module, label: str) -> None:
    """Refuse a model with modules of TorchScript in it.

    Raises:
        ExportError: naming the module.
    """
    for path, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            entry = rule("scripted-part")
            name = f"{label}.{path}" if path else label
            raise ExportError(f"{name}: {entry.explanation}. {entry.remedy}", rule=entry.id)


def refuse_detectors(module: nn.Module, label: str) -> None:
    """Refuse a detector of torchvision with its post-processing.

    Raises:
        ExportError: with the networks in it that can be exported, and how.
    """
    if not is_detector(module):
        return
    entry = rule("detector")
    parts = parts_of(module)
    name = label.split(":part=")[0] if label.startswith("torchvision:") else f"torchvision:NAME of {label}"
    by_name = " and ".join(f"part={p}" for p in parts)
    raise ExportError(
        f"{label}: {entry.explanation}. {entry.remedy} By name: {name}:part={NETWORK}; its parts are {by_name}.",
        rule=entry.id,
    )


@torch.no_grad()
def run_eager(
    module: nn.Module, inputs: Sequence[TensorInput], example: tuple[Tensor, ...], label: str, *, advise: bool = True
) -> Any:
    """One forward pass, on copies of the inputs; an error ends with a remedy if ``advise``.

    Raises:
        ExportError: if the model fails, with the line of the user's that did.
    """
    try:
        return module(*(t.clone() for t in example))
    except Exception as error:
        shapes = ", ".join(f"{i.name} {'x'.join(map(str, t.shape))}" for i, t in zip(inputs, example, strict=True))
        text = " ".join(str(error).split())[:400]
        known = explain(error)
        entry = known if known is not None and known.id == "hard-coded-device" else rule("eager-failure")
        remedy = f" {entry.remedy}" if advise else ""
        raise ExportError(
            f"{label}: forward failed in PyTorch itself for {shapes}: {type(error).__name__}: {text}"
            f"{place_of_error(error, module).phrase}.{remedy}",
            rule=entry.id,
        ) from error


def checked_run(
    module: nn.Module,
    inputs: Sequence[TensorInput],
    example: tuple[Tensor, ...],
    label: str,
    *,
    watch: AbstractContextManager[Any] | None = None,
) -> Any:
    """The outputs of a first run, within ``watch``, after a second one that must not differ.

    Raises:
        ExportError: if the model fails, returns no tensor, draws random numbers, or changes its own state.
    """
    before = {name: value.clone() for name, value in module.named_buffers()}
    dice = _random_state()
    with watch or nullcontext():
        first = run_eager(module, inputs, example, label)
    if _random_state() != dice:
        _refuse(label, "random-in-forward", _place(module, example, "random-in-forward"))
    changed = [n for n, v in module.named_buffers() if n in before and not _same(v, before[n])]
    if changed:
        _refuse(label, "state-in-forward", Place(), f"the buffer {changed[0]!r} is not what it was before")
    tensors = flatten_outputs(first)
    if not tensors:
        entry = rule("no-tensor")
        raise ExportError(
            f"{label}: forward returned {type(first).__name__}, which holds no tensor; return tensors.", rule=entry.id
        )
    if any(t.is_complex() for t in tensors) or any(t.is_complex() for t in example):
        _refuse(label, "complex-output", Place())
    second = flatten_outputs(run_eager(module, inputs, example, label))
    if len(second) != len(tensors) or not all(map(_same, tensors, second)):
        _refuse(label, "state-in-forward", Place(), "two runs on the same input differ")
    return first


def refuse_constant(
    module: nn.Module, inputs: Sequence[TensorInput], example: tuple[Tensor, ...], other: tuple[Tensor, ...], label: str
) -> None:
    """Refuse a model that gives the same outputs for two inputs: no comparison could distinguish a right file from a wrong one.

    Raises:
        ExportError: with the remedy.
    """
    first = flatten_outputs(run_eager(module, inputs, example, label))
    second = flatten_outputs(run_eager(module, inputs, other, label))
    if all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        _refuse(label, "constant-output", Place())


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (torch.equal(a, b) or bool(a.is_floating_point() and a.isnan().any()))


def _random_state() -> tuple[bytes, int, bytes]:
    drawn: Any = np.random.get_state(legacy=True)  # (name, keys, position, ...)
    return (
        torch.get_rng_state().numpy().tobytes(),
        hash(random.getstate()),
        drawn[1].tobytes() + bytes(str(drawn[2:]), "ascii"),
    )


def _place(module: nn.Module, example: tuple[Tensor, ...], identifier: str) -> Place:
    return next((f.place for f in record_calls(module, [example]) if f.rule == identifier), Place())


def _refuse(label: str, identifier: str, place: Place, detail: str = "") -> None:
    entry = rule(identifier)
    addition = f" ({detail})" if detail else ""
    raise ExportError(f"{label}: {entry.explanation}{addition}{place.phrase}. {entry.remedy}", rule=identifier)
