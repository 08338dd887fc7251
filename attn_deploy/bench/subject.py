"""What is profiled: a model with its inputs, or a file with its interface; and the shapes it is profiled at."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_deploy.errors import FileWarning, InvalidRequestError
from attn_deploy.inputs.expected import fit_to_expected
from attn_deploy.inputs.tensors import TensorInput, fit_size
from attn_deploy.inputs.user_samples import parse_samples, with_samples
from attn_deploy.specs.spec import DEFAULT_SIZES

if TYPE_CHECKING:
    from torch import nn

    from attn_deploy.resolve.make import ResolvedModel

Size = tuple[int, int]
DEFAULT_SIZE: Size = (32, 32)  # CIFAR's, at which the registry counts multiply-accumulates


@dataclass(frozen=True, slots=True)
class ProfileSubject:
    """What is profiled.

    Attributes:
        name: in records; of a file without its folder, so that runs of one model in several places are of one model.
        inputs: inputs with their symbols; the sizes are those profiled by default.
        movable: symbols whose extent may differ from that.
        model: the resolved model; None for a file.
        onnx: the user's file, if there is one.
        outputs: output names where they are known.
        unsized: symbols of a foreign file whose extent nobody has given yet.
        samples: where the user's own values of the inputs come from.
    """

    name: str
    inputs: tuple[TensorInput, ...]
    movable: tuple[str, ...]
    model: ResolvedModel | None = None
    onnx: Path | None = None
    outputs: tuple[str, ...] | None = None
    unsized: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()

    @property
    def module(self) -> nn.Module | None:
        """The PyTorch module, where there is one."""
        return self.model.module if self.model is not None else None

    def at(self, batch: int | None, size: Size | None) -> tuple[TensorInput, ...]:
        """The inputs at a batch size and a height and width; None leaves an extent as it is.

        Raises:
            InvalidRequestError: if an axis has a fixed extent, or cannot have this one.
        """
        wanted: dict[str, int] = {}
        if batch is not None:
            wanted |= self._extent("N", batch, "batch size")
        if size is not None:
            wanted |= self._extent("H", size[0], "height") | self._extent("W", size[1], "width")
        missing = [s for s in self.unsized if s not in wanted]
        if missing:
            raise InvalidRequestError(
                f"{self.name}: the extent of the axes {', '.join(missing)} is not known; give --size 224x224, or the "
                "whole shape as in --input 1x3x224x224, or real inputs, --sample FILE.npz."
            )
        return tuple(replace(i, sizes={**i.sizes, **wanted}) for i in self.inputs)

    def _extent(self, letter: str, value: int, what: str) -> dict[str, int]:
        if value < 1:
            raise InvalidRequestError(f"{self.name}: the {what} is {value}; it must be at least 1.")
        symbols = [s for s in dict.fromkeys(s for i in self.inputs for s in i.symbols) if s[0] == letter]
        if not symbols:
            fixed = _fixed_extent(self.inputs[0], letter)
            if fixed == value:
                return {}
            raise InvalidRequestError(
                f"{self.name}: the {what} {value} was asked for, and "
                + (f"it is fixed at {fixed}." if fixed is not None else "the inputs have no such axis.")
            )
        if len(symbols) > 1:
            raise InvalidRequestError(
                f"{self.name}: the inputs have {len(symbols)} different axes for the {what} ({', '.join(symbols)}); "
                "give the whole shapes with --input."
            )
        symbol, first = symbols[0], self.inputs[0]
        if symbol not in self.movable and value != first.sizes[symbol]:
            raise InvalidRequestError(
                f"{self.name}: the {what} {value} was asked for, and the model is made for {first.sizes[symbol]}."
            )
        fitted = fit_size(value, symbol, first)
        if fitted != value:
            raise InvalidRequestError(
                f"{self.name}: the {what} {value} was asked for, and the model takes multiples of "
                f"{first.multiple.get(symbol, 1)} from {first.minimum.get(symbol, 1)}; the next is {fitted}."
            )
        return {symbol: value}


def make_subject(
    model: str | Path | nn.Module,
    *,
    inputs: Sequence[TensorInput] | None = None,
    samples: Sequence[Path | str] = (),
    onnx: Path | str | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
) -> ProfileSubject:
    """The subject that a name, a module or a file stands for.

    Args:
        model: a name of the grammar, a module, or the path of an ``.onnx`` or ``.engine`` file.
        inputs: shapes, where they are not known or others are wanted.
        samples: values of the inputs, see `attn_deploy.inputs.user_samples.parse_samples`; without ``inputs`` the shapes are
            those of the first.
        onnx: a file already made from the model.
        arguments: constructor arguments when ``model`` is a name.
        weights: a checkpoint to load; one of `attn_deploy.train` must be of the model that is named.

    Raises:
        InvalidRequestError: if the inputs are not known or do not fit, or the name or the checkpoint cannot be used.
        GraphError: if the file cannot be read.
        EngineMismatchError: if an engine is damaged.
    """
    if isinstance(model, Path) or (isinstance(model, str) and model.lower().endswith((".onnx", ".engine"))):
        if weights is not None:
            raise InvalidRequestError(f"{model} holds its weights; leave --weights out, or name the model.")
        subject = _from_engine(Path(model), inputs) if is_engine(model) else _from_file(Path(model), inputs)
        return _with_samples(subject, samples, sized=inputs is not None)
    resolved = _resolve(model, arguments, weights)
    if resolved.inputs is None and inputs is None:
        raise InvalidRequestError(
            f"{resolved.name.text}: the shape of its input is not known; give it, as in --input 1x3x224x224 "
            "(in Python: inputs=parse_inputs(['1x3x224x224']))."
        )
    tensors = tuple(resolved.inputs or inputs or ())
    if resolved.inputs is not None:
        tensors = (
            fit_to_expected(tensors, inputs, resolved.name.text)
            if inputs is not None
            else _default_sizes(tensors, _movable(tensors, resolved.dynamic))
        )
    else:
        from attn_deploy.inputs.binding import bind_inputs

        bound = bind_inputs(resolved.module, tensors, resolved.name.text)
        tensors, resolved = bound.inputs, replace(resolved, module=bound.module)
    subject = ProfileSubject(
        name=resolved.name.short,
        inputs=tensors,
        movable=_movable(tensors, resolved.dynamic),
        model=resolved,
        outputs=tuple(resolved.outputs) if resolved.outputs else None,
    )
    if onnx is not None:
        subject = _with_file(subject, Path(onnx))
    return _with_samples(subject, samples, sized=inputs is not None)


def _with_samples(subject: ProfileSubject, samples: Sequence[Path | str], *, sized: bool) -> ProfileSubject:
    """The subject with the user's own values, at their sizes unless others were given."""
    if not samples:
        return subject
    inputs = with_samples(subject.inputs, parse_samples(samples), subject.name)
    first = {
        d: n
        for i in inputs
        if i.values
        for d, n in zip(i.dims, i.values[0].shape, strict=True)
        if isinstance(d, str) and d in subject.movable
    }
    sizes = {} if sized else first
    inputs = tuple(replace(i, sizes={**i.sizes, **sizes}) for i in inputs)
    unsized = tuple(s for s in subject.unsized if s not in sizes)
    return replace(subject, inputs=inputs, unsized=unsized, samples=tuple(map(str, samples)))


def _with_file(subject: ProfileSubject, path: Path) -> ProfileSubject:
    """The subject with a file already made from it, under the names of the file."""
    from attn_deploy.graph.artifact import read_onnx

    artifact = read_onnx(path)
    if len(artifact.inputs) != len(subject.inputs):
        raise InvalidRequestError(
            f"{subject.name} takes {len(subject.inputs)} inputs, and {path} takes {len(artifact.inputs)} "
            f"({', '.join(i.name for i in artifact.inputs)}); it looks like the file of another model."
        )
    if {i.name for i in subject.inputs} == {i.name for i in artifact.inputs}:  # in the order of the model's parameters
        return replace(subject, onnx=path, outputs=tuple(o.name for o in artifact.outputs))
    renamed = tuple(replace(i, name=f.name) for i, f in zip(subject.inputs, artifact.inputs, strict=True))
    return replace(subject, inputs=renamed, onnx=path, outputs=tuple(o.name for o in artifact.outputs))


def _resolve(model: str | nn.Module, arguments: Mapping[str, Any] | None, weights: Path | str | None) -> ResolvedModel:
    from attn_deploy.runtimes.table import import_torch

    import_torch()
    from attn_deploy.resolve.resolve import resolve_module, resolve_seeded

    if not isinstance(model, str):
        if weights is not None:
            raise InvalidRequestError("a module already holds its weights; load the checkpoint into it first.")
        return resolve_module(model)
    if weights is None:
        return resolve_seeded(model, arguments)
    trained = _trained(model, Path(weights))
    if trained is not None:
        return trained
    from attn_deploy.resolve.checkpoints import load_weights

    resolved = resolve_seeded(model, arguments, weights=weights)
    load_weights(resolved.module, weights, resolved.name.text)
    return resolved


def _trained(model: str, path: Path) -> ResolvedModel | None:
    """The model with its weights, where the path is a checkpoint of `attn_deploy.train`."""
    from attn_deploy.resolve.names import parse_name
    from attn_deploy.resolve.trained import load_trained

    name = parse_name(str(path)) if path.is_dir() else None
    if name is None or name.checkpoint is None:
        return None
    wanted = parse_name(model)
    trained = load_trained(name, model if wanted.file or wanted.package else None)
    if trained.name != wanted.text:
        raise InvalidRequestError(
            f"{path} was trained as {trained.name}, not {model}; name {trained.name}, or the folder alone."
        )
    return trained.resolved


def _from_file(path: Path, inputs: Sequence[TensorInput] | None) -> ProfileSubject:
    from attn_deploy.graph.artifact import open_model, read_onnx
    from attn_deploy.parity.graphs import graph_inputs

    artifact = read_onnx(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FileWarning)  # read_onnx has warned of it
        model, _ = open_model(path, light=True)
    tensors = graph_inputs(model)
    symbols = tuple(dict.fromkeys(s for i in tensors for s in i.symbols))
    unsized: tuple[str, ...] = ()
    if inputs is not None:
        tensors = fit_to_expected(tensors, inputs, str(path))
    else:
        tensors = _default_sizes(tensors, symbols)
        # Files of this project take small images; of a foreign one nobody knows.
        ours = {s for s in symbols if s[0] in "HW"} if artifact.metadata else set()
        unsized = tuple(s for s in symbols if s[0] != "N" and s not in ours)
    return ProfileSubject(path.name, tensors, symbols, None, path, tuple(o.name for o in artifact.outputs), unsized)


def is_engine(model: object) -> bool:
    """Whether a model is given as an engine file."""
    return isinstance(model, (str, Path)) and str(model).lower().endswith(".engine")


def _from_engine(path: Path, inputs: Sequence[TensorInput] | None) -> ProfileSubject:
    """An engine at the shapes that its first profile is made for; the runner refuses those of no profile."""
    from attn_deploy.engine.artifact import read_engine

    engine = read_engine(path)
    best = {r.name: r.optimum for p in engine.profiles[:1] for r in p.ranges}
    dims = {i.name: tuple(f"D{a}" if d is None else d for a, d in enumerate(i.shape)) for i in engine.inputs}
    sizes: dict[str, int] = {}
    for name, shape in dims.items():
        for dim, extent in zip(shape, best.get(name, ()), strict=False):
            if isinstance(dim, str) and dim.isidentifier():
                sizes.setdefault(dim, extent)
    tensors = tuple(TensorInput(i.name, dims[i.name], i.dtype, sizes, {}, {}) for i in engine.inputs)
    if inputs is not None:
        tensors = fit_to_expected(tensors, inputs, str(path))
    return ProfileSubject(path.name, tensors, tuple(sizes), None, path, tuple(o.name for o in engine.outputs))


def _movable(inputs: Sequence[TensorInput], dynamic: Sequence[str]) -> tuple[str, ...]:
    symbols = dict.fromkeys(s for i in inputs for s in i.symbols)
    return tuple(s for s in symbols if s in dynamic or s[0] in dynamic)


def _default_sizes(inputs: Sequence[TensorInput], movable: Sequence[str]) -> tuple[TensorInput, ...]:
    """Batch 1, and `DEFAULT_SIZE` in place of the extents of the trace, which are odd on purpose."""
    first = inputs[0]
    sizes = dict(first.sizes)
    plain = {"H": DEFAULT_SIZE[0], "W": DEFAULT_SIZE[1]}
    image = len(inputs) == 1 and first.dims == ("N", 3, "H", "W")
    for symbol in movable:
        if symbol[0] == "N":
            sizes[symbol] = fit_size(1, symbol, first)
        elif symbol[0] in plain and (image or sizes[symbol] == DEFAULT_SIZES[symbol[0]]):
            sizes[symbol] = fit_size(plain[symbol[0]], symbol, first)
    return tuple(replace(i, sizes={**i.sizes, **sizes}) for i in inputs)


def _fixed_extent(tensor: TensorInput, letter: str) -> int | None:
    axis = {"N": 0, "H": 2, "W": 3}[letter]
    if axis >= len(tensor.dims) or (letter != "N" and len(tensor.dims) != 4):
        return None
    dim = tensor.dims[axis]
    return dim if isinstance(dim, int) else None
