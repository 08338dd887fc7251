"""A model made ready for export: a copy in eval mode that runs, is deterministic, and whose output axes are known."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from attn_deploy.errors import DynamicAxisError, ExportError, InvalidRequestError
from attn_deploy.fusing import fuse_with_report
from attn_deploy.inputs import (
    TensorInput,
    dynamic_symbols,
    example_arrays,
    symbols_of,
    verification_sizes,
)
from attn_deploy.models import ResolvedModel, resolve
from attn_deploy.parity.reference import EagerReference
from attn_deploy.runtimes.eager import flatten_outputs, output_names
from attn_deploy.weights import enliven

_LIBRARY = Path(torch.__file__).resolve().parent


@dataclass(slots=True)
class PreparedModel:
    """What both exporters start from. What depends on the model alone is kept, so that it is made once for many opsets.

    Attributes:
        label: the name in messages and records.
        original: the model as given, in eval mode: the reference that a file is verified against.
        module: what is exported; the fused copy, or the original.
        inputs: inputs with their symbols; a batch axis that moves is traced at 2 or more.
        outputs: output names.
        output_dims: for each output its dims as integers, symbols and expressions of them.
        dynamic: symbols that move.
        changes: what fusing did, as (module path, words).
        program: the traced program, once made by `attn_deploy.exporters.program`.
        translations: for each exporter the opset and the graph of its last translation.
        reference: what files are verified against, once made; it remembers its outputs.
    """

    label: str
    original: nn.Module
    module: nn.Module
    inputs: tuple[TensorInput, ...]
    outputs: tuple[str, ...]
    output_dims: tuple[tuple[int | str, ...], ...]
    dynamic: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[tuple[str, str], ...] = ()
    program: ExportedProgram | None = None
    translations: dict[str, tuple[int, onnx.ModelProto]] = field(default_factory=dict)
    reference: EagerReference | None = None

    def moves(self, dim: int | str) -> bool:
        """Whether an input's dim holds a symbol that moves."""
        return any(s in self.dynamic for s in symbols_of(dim))

    def example(self, sizes: Mapping[str, int] | None = None) -> tuple[Tensor, ...]:
        """Input tensors at the traced sizes, or at others."""
        return tuple(torch.from_numpy(a) for a in example_arrays(self.inputs, sizes).values())


def prepare(
    model: str | nn.Module | ResolvedModel,
    *,
    inputs: Sequence[TensorInput] | None = None,
    dynamic: Sequence[str] | None = None,
    fuse: bool = True,
    arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> PreparedModel:
    """Make a model ready for export.

    Args:
        model: a name of the grammar, a module, or what `attn_deploy.models.resolve` gives.
        inputs: needed for the user's own models; over the registry's for others.
        dynamic: symbols that move; None for all that may.
        fuse: export the deployed form.
        arguments: constructor arguments when ``model`` is a name.
        seed: of the weights of a registry model made by name; parameters that would start at zero get values.

    Raises:
        InvalidRequestError: if the inputs are not known.
        DynamicAxisError: if an axis cannot move.
        ExportError: if the model fails in forward, normalises by batch statistics, or is not deterministic.
    """
    if isinstance(model, ResolvedModel):
        resolved = model
    else:
        resolved = _made(model, arguments, seed) if isinstance(model, str) else _resolved_module(model)
    label = resolved.name.text
    taken = _inputs(resolved, inputs)
    allowed = resolved.dynamic
    wanted = allowed if dynamic is None else dynamic
    symbols = {s for i in taken for s in i.symbols}
    if dynamic is None:  # the default means "all that the model has"
        wanted = tuple(d for d in wanted if any(s == d or s[0] == d for s in symbols))
    moving = dynamic_symbols(taken, wanted, allowed, label)
    taken = tuple(_movable_batch(i, moving) for i in taken)

    original = copy.deepcopy(resolved.module).eval()
    _refuse_batch_statistics(original, label)
    prepared = PreparedModel(label, original, original, taken, (), (), moving, dict(resolved.arguments))
    first = _run(prepared, original, None)
    second = _run(prepared, original, None)
    tensors = flatten_outputs(first)
    if not tensors:
        raise ExportError(f"{label}: forward returned {type(first).__name__}, which holds no tensor; return tensors.")
    if not all(
        torch.equal(a, b) or bool(a.isnan().any()) for a, b in zip(tensors, flatten_outputs(second), strict=True)
    ):
        raise ExportError(
            f"{label}: two runs on the same input differ, so there is nothing to verify a file against. Look for "
            "F.dropout without training=self.training, random numbers, or state that forward changes."
        )
    prepared.outputs = tuple(resolved.outputs or output_names(first))
    prepared.output_dims = _output_dims(prepared, tensors)
    if fuse:
        fused = fuse_with_report(original)
        prepared.module, prepared.changes = fused.model, fused.changes
    return prepared


def _made(name: str, arguments: Mapping[str, Any] | None, seed: int) -> ResolvedModel:
    """A model by name, with weights that are the same in every run; those of a user's own file are left as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        resolved = resolve(name, arguments)
    if resolved.spec is not None:
        enliven(resolved.module, seed)
    return resolved


def _resolved_module(module: nn.Module) -> ResolvedModel:
    from attn_deploy.names import ModelName
    from attn_deploy.registry import DEFAULT_DYNAMIC

    name = type(module).__name__
    return ResolvedModel(ModelName(name, name), module, None, None, DEFAULT_DYNAMIC, None)


def _inputs(resolved: ResolvedModel, given: Sequence[TensorInput] | None) -> tuple[TensorInput, ...]:
    if given is None:
        if resolved.inputs is None:
            raise InvalidRequestError(
                f"{resolved.name.text}: the shape of its input is not known; give it, as in --input 1x3x224x224 "
                "(in Python: inputs=parse_inputs(['1x3x224x224']))."
            )
        return resolved.inputs
    if resolved.inputs is None:
        return tuple(given)
    if len(given) != len(resolved.inputs):
        raise InvalidRequestError(
            f"{resolved.name.text}: takes {len(resolved.inputs)} inputs "
            f"({', '.join(i.name for i in resolved.inputs)}), {len(given)} were given."
        )
    return tuple(_at_shape(known, new, resolved.name.text) for known, new in zip(resolved.inputs, given, strict=True))


def _at_shape(known: TensorInput, new: TensorInput, owner: str) -> TensorInput:
    """A registry input traced at the user's shape; only plain symbols can take a new extent."""
    shape = new.shape()
    if len(shape) != len(known.dims):
        raise InvalidRequestError(f"{owner}: input {known.name!r} has {len(known.dims)} axes, {len(shape)} were given.")
    sizes = dict(known.sizes)
    for dim, extent in zip(known.dims, shape, strict=True):
        if isinstance(dim, str) and dim in sizes:
            sizes[dim] = extent
    fixed = TensorInput(known.name, known.dims, known.dtype, sizes, known.minimum, known.multiple)
    if fixed.shape() != shape:
        raise InvalidRequestError(
            f"{owner}: input {known.name!r} must be ({', '.join(map(str, known.dims))}), got {shape}: "
            f"with these sizes it would be {fixed.shape()}."
        )
    return fixed


def _movable_batch(given: TensorInput, moving: Sequence[str]) -> TensorInput:
    """Trace a moving axis of extent 1 at 2: torch treats an extent of 1 as a constant."""
    sizes = {s: (2 if s in moving and n == 1 else n) for s, n in given.sizes.items()}
    return TensorInput(given.name, given.dims, given.dtype, sizes, given.minimum, given.multiple)


def _refuse_batch_statistics(module: nn.Module, label: str) -> None:
    for path, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is None:
            raise ExportError(
                f"{label}.{path}: {type(child).__name__} keeps no running statistics and normalises by the batch even in "
                "eval mode; a deployed file would depend on its neighbours in the batch. Use track_running_stats=True."
            )


@torch.no_grad()
def _run(prepared: PreparedModel, module: nn.Module, sizes: Mapping[str, int] | None) -> Any:
    try:
        return module(*prepared.example(sizes))
    except Exception as error:
        shapes = ", ".join(f"{i.name} {'x'.join(map(str, i.shape(sizes)))}" for i in prepared.inputs)
        text = " ".join(str(error).split())[:400]
        raise ExportError(
            f"{prepared.label}: forward failed in PyTorch itself for {shapes}: {type(error).__name__}: {text}"
            f"{user_line(error)}."
        ) from error


def user_line(error: BaseException) -> str:
    """`` (net.py, line 12)`` for the innermost frame outside torch, or nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if _LIBRARY not in path.parents and path.parent.name not in ("exporters", "parity") and path.is_file():
            return f" ({path.name}, line {frame.lineno})"
    return ""


def _output_dims(prepared: PreparedModel, traced: Sequence[Tensor]) -> tuple[tuple[int | str, ...], ...]:
    """Which output axes move, found by running at other sizes, and as what expression of the input's symbols."""
    observed: list[tuple[Mapping[str, int], list[tuple[int, ...]]]] = [
        (prepared.inputs[0].sizes, [tuple(t.shape) for t in traced])
    ]
    for sizes in verification_sizes(prepared.inputs, prepared.dynamic):
        try:
            outputs = flatten_outputs(_run(prepared, prepared.original, sizes))
        except ExportError as error:
            moving = ", ".join(prepared.dynamic)
            raise DynamicAxisError(
                f"{prepared.label}: runs at the given size and not at another, so {moving} cannot all be dynamic. {error} "
                "Name the axes that may move: --dynamic N, or --dynamic none."
            ) from error
        observed.append(({**prepared.inputs[0].sizes, **sizes}, [tuple(t.shape) for t in outputs]))
    result = []
    for index, tensor in enumerate(traced):
        dims: list[int | str] = []
        for axis in range(tensor.dim()):
            extents = [shapes[index][axis] for _, shapes in observed]
            fallback = f"{prepared.outputs[index]}_{axis}"
            dims.append(
                extents[0] if len(set(extents)) == 1 else _expression([s for s, _ in observed], extents, fallback)
            )
        result.append(tuple(dims))
    return tuple(result)


def _expression(sizes: Sequence[Mapping[str, int]], extents: Sequence[int], fallback: str) -> str:
    """The simplest of n, k*n, n//k and ceil(n/k) over the symbols that gives all observed extents."""
    symbols = list(sizes[0])
    for symbol in symbols:
        if all(s[symbol] == e for s, e in zip(sizes, extents, strict=True)):
            return symbol
    pairs = list(zip(sizes, extents, strict=True))
    for k in (2, 4, 8, 16, 32, 3):
        for symbol in symbols:
            if all(k * s[symbol] == e for s, e in pairs):
                return f"{k}*{symbol}"
            if all(s[symbol] // k == e for s, e in pairs):
                return f"{symbol}//{k}"
            if all(-(-s[symbol] // k) == e for s, e in pairs):
                return f"({symbol} + {k - 1})//{k}"
    return fallback
