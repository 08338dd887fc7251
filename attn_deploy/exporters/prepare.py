"""A model made ready for export: a copy in eval mode that runs, is deterministic, and whose output axes are known."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from attn_deploy.errors import DynamicAxisError, ExportError, InvalidRequestError
from attn_deploy.exporters.axes import output_dims, with_multiples
from attn_deploy.exporters.eager_checks import checked_run, refuse_batch_statistics, run_eager
from attn_deploy.exporters.rewrite import rewrite as rewrite_model
from attn_deploy.exporters.serving import BEHIND, Serving, named_inputs, reading_of, with_answers, with_images
from attn_deploy.fusing import fuse_with_report
from attn_deploy.graph.heads import Reading
from attn_deploy.inputs.binding import bind_inputs
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.inputs.tensors import TensorInput, dynamic_symbols, symbols_of, tied_to_maps
from attn_deploy.ops.bounded import half_range
from attn_deploy.parity.reference import EagerReference
from attn_deploy.resolve.checkpoints import load_weights
from attn_deploy.resolve.make import ResolvedModel
from attn_deploy.resolve.resolve import resolve_module, resolve_seeded
from attn_deploy.rules.examine import examine
from attn_deploy.rules.finding import Finding
from attn_deploy.runtimes.eager import dropped_outputs, flatten_outputs, output_names


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
        rewritten: calls that were replaced because exporters get them wrong, as (module path, words).
        weights: the checkpoint that was loaded, as (file name, sha256); empty if none was.
        called: what of the inputs goes to forward by position although it has a name, in words.
        dropped: what among the outputs is no tensor, and in no file: the types.
        program: the traced program, once made by `attn_deploy.exporters.program`.
        decomposed: what `attn_deploy.exporters.torchlib` keeps of the program.
        translations: for each exporter the opset and the graph of its last translation.
        reference: what files are verified against, once made; it remembers its outputs.
        narrow: trace the forms of the modules that keep their products within the range of fp16.
        serving: what stands around the model.
        reading: how choices among the outputs are compared; None where their types decide.
        scored: the model that gives what a choice is made by; None where the outputs are no choice.
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
    rewritten: tuple[tuple[str, str], ...] = ()
    weights: tuple[str, ...] = ()
    called: str = ""
    dropped: tuple[str, ...] = ()
    program: ExportedProgram | None = None
    decomposed: dict[Any, Any] = field(default_factory=dict)
    translations: dict[str, tuple[int, onnx.ModelProto]] = field(default_factory=dict)
    reference: EagerReference | None = None
    narrow: bool = False
    serving: Serving = field(default_factory=Serving)
    reading: Reading | None = None
    scored: nn.Module | None = None
    _findings: tuple[Finding, ...] | None = None

    def moves(self, dim: int | str) -> bool:
        """Whether an input's dim holds a symbol that moves."""
        return any(s in self.dynamic for s in symbols_of(dim))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What in the exported module is known to break exports; looked for when it is first asked for."""
        if self._findings is None:
            sizes = [None, *verification_sizes(self.inputs, self.dynamic)[:2]]
            self._findings = examine(self.module, [self.example(s) for s in sizes])
        return self._findings

    def traced(self) -> AbstractContextManager[None]:
        """What an exporter's trace runs under."""
        return half_range() if self.narrow else contextlib.nullcontext()

    def example(self, sizes: Mapping[str, int] | None = None, *, seed: int = 0) -> tuple[Tensor, ...]:
        """Input tensors at the traced sizes, or at others."""
        return tuple(torch.from_numpy(a) for a in example_arrays(self.inputs, sizes, seed).values())


def prepare(
    model: str | nn.Module | ResolvedModel,
    *,
    inputs: Sequence[TensorInput] | None = None,
    dynamic: Sequence[str] | None = None,
    fuse: bool = True,
    rewrite: bool = True,
    weights: Path | str | None = None,
    arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
    narrow: bool = False,
    serving: Serving | None = None,
) -> PreparedModel:
    """Make a model ready for export.

    Args:
        model: a name of the grammar, a module, or what `attn_deploy.resolve.resolve.resolve` gives.
        inputs: needed for the user's own models; over the registry's for others.
        dynamic: symbols that move; None for all that may.
        fuse: export the deployed form.
        rewrite: replace calls that exporters are known to get wrong, in a copy (see `attn_deploy.exporters.rewrite`).
        weights: a checkpoint to load, ``.safetensors`` or one of PyTorch's.
        arguments: constructor arguments when ``model`` is a name.
        seed: of the weights of a registry model made by name; parameters that would start at zero get values.
        narrow: trace the forms that keep products within the range of fp16 (see `attn_deploy.ops.bounded`).
        serving: pre- and post-processing that becomes part of the graph, and names of inputs and outputs.

    Raises:
        InvalidRequestError: if the inputs are not known, or the checkpoint does not fit.
        DynamicAxisError: if an axis cannot move.
        ExportError: if the model fails in forward, normalises by batch statistics, or is not deterministic.
    """
    if isinstance(model, ResolvedModel):
        resolved = model
    elif isinstance(model, str):
        resolved = resolve_seeded(model, arguments, seed=seed, fresh=weights is None)
    else:
        resolved = resolve_module(model)
    label = resolved.name.text
    module, taken, called = _bound(resolved, inputs)
    around = serving or Serving()
    taken = named_inputs(module, taken, around.input_names, label)
    allowed = resolved.dynamic
    if resolved.spec is None:  # a symbol that the user has written may move
        allowed = tuple(dict.fromkeys((*allowed, *(s for i in taken if not i.assumed for s in i.symbols))))
    if around.pixels is not None:
        module, taken, free = with_images(module, taken, around.pixels, label)
        allowed = tuple(dict.fromkeys((*allowed, *free)))
    wanted = allowed if dynamic is None else dynamic
    symbols = {s for i in taken for s in i.symbols}
    if dynamic is None:  # the default means "all that the model has"
        wanted = tuple(d for d in wanted if any(s == d or s[0] == d for s in symbols))
    moving = dynamic_symbols(taken, wanted, allowed, label)
    given = taken
    taken = tuple(_movable_batch(i, moving) for i in taken)

    original = copy.deepcopy(module).eval()
    loaded = () if weights is None else load_weights(original, weights, label)
    refuse_batch_statistics(original, label)
    prepared = PreparedModel(label, original, original, taken, (), (), moving, dict(resolved.arguments), weights=loaded)
    prepared.narrow, prepared.called, prepared.serving = narrow, called, around
    first = _first_run(prepared, given)
    prepared.dropped = tuple(dropped_outputs(first))
    names = resolved.outputs
    bare, answers = prepared.original, around.answers
    if answers is not None:
        answers.check_outputs([tuple(t.shape) for t in flatten_outputs(first)], label)
        prepared.original = prepared.module = original = with_answers(bare, answers)
        first, names = checked_run(original, prepared.inputs, prepared.example(), label), answers.outputs
    if names is None or len(names) != len(flatten_outputs(first)):  # arguments may add outputs, as levels of a pyramid
        names = tuple(output_names(first))
    prepared.outputs = _unlike_inputs(_output_names(names, around.output_names, label), taken)
    prepared.reading = None if answers is None else reading_of(answers, prepared.outputs)
    if answers is not None and prepared.reading is not None:
        prepared.scored = with_answers(bare, replace(answers, choice=""))
        behind = with_answers(bare, answers, behind=True)
        prepared.reference = EagerReference(behind, (*prepared.outputs, BEHIND))
    _find_axes(prepared, given, flatten_outputs(first), own=resolved.spec is None)
    if fuse:
        fused = fuse_with_report(original)
        prepared.module, prepared.changes = fused.model, fused.changes
    if rewrite:
        space = any(not s.startswith("N") for s in moving)
        sizes = [None, *verification_sizes(prepared.inputs, moving)]
        examples = [prepared.example(s) for s in sizes]
        made = rewrite_model(prepared.module, examples, batch="N" in moving, space=space, label=label)
        prepared.module, prepared.rewritten = made.model, made.changes
    return prepared


def _output_names(names: Sequence[str], chosen: Sequence[str], label: str) -> tuple[str, ...]:
    if chosen and len(chosen) != len(names):
        raise InvalidRequestError(
            f"{label}: --output-names gives {len(chosen)} names, and there are {len(names)} outputs ({', '.join(names)})."
        )
    return tuple(chosen or names)


def _find_axes(prepared: PreparedModel, given: Sequence[TensorInput], traced: Sequence[Tensor], *, own: bool) -> None:
    """Fill in the output dims and, for a model of the user's ``own``, of what the sizes must be multiples."""
    model, label = prepared.original, prepared.label

    def run(inputs: Sequence[TensorInput], sizes: Mapping[str, int] | None) -> list[Tensor]:
        arrays = example_arrays(inputs, sizes).values()
        return flatten_outputs(
            run_eager(model, inputs, tuple(torch.from_numpy(a) for a in arrays), label, advise=False)
        )

    def runs(inputs: Sequence[TensorInput]) -> bool:
        try:
            for sizes in verification_sizes(inputs, prepared.dynamic):
                run(inputs, sizes)
        except ExportError:
            return False
        return True

    readings = [*(tied_to_maps(prepared.inputs, prepared.dynamic) if own else []), prepared.inputs]
    if len(readings) > 1:
        prepared.inputs = next((r for r in readings if runs(r)), prepared.inputs)
    try:
        prepared.output_dims = output_dims(prepared.inputs, prepared.dynamic, prepared.outputs, traced, run)
    except ExportError as error:
        stepped = (with_multiples(r, prepared.dynamic, runs) for r in readings) if own else ()
        found = next((s for s in stepped if s is not None), None)
        if found is None:
            raise _stuck(prepared, given, error) from error
        prepared.inputs = found
        prepared.output_dims = output_dims(prepared.inputs, prepared.dynamic, prepared.outputs, traced, run)


def _first_run(prepared: PreparedModel, given: Sequence[TensorInput]) -> Any:
    """The outputs at the traced sizes; where those fail, it is told whether the sizes that were given run."""
    try:
        return checked_run(prepared.original, prepared.inputs, prepared.example(), prepared.label)
    except ExportError as error:
        if error.rule != "eager-failure" or [i.shape() for i in given] == [i.shape() for i in prepared.inputs]:
            raise
        arrays = example_arrays(given).values()
        run_eager(prepared.original, given, tuple(torch.from_numpy(a) for a in arrays), prepared.label)
        raise _stuck(prepared, given, error) from error


def _stuck(prepared: PreparedModel, given: Sequence[TensorInput], error: ExportError) -> DynamicAxisError:
    """Why not all axes move, with those that do."""
    moving = ", ".join(prepared.dynamic)

    def moves(symbols: Sequence[str]) -> bool:
        sizes = [{}, *verification_sizes(prepared.inputs, symbols, 2)]
        fixed = {s: n for s, n in given[0].sizes.items() if s not in symbols}
        try:
            for s in sizes:
                run_eager(prepared.original, prepared.inputs, prepared.example({**fixed, **s}), "", advise=False)
        except ExportError:
            return False
        return True

    fit = [s for s in prepared.dynamic if moves([s])]
    fit = fit if moves(fit) else fit[:1]
    several = [i.name for i in prepared.inputs if i.assumed] if len(prepared.inputs) > 1 else []
    told = f" Axes that move together are written as symbols: --input {several[-1]}:1xHxW." if several else ""
    return DynamicAxisError(
        f"{prepared.label}: runs at the given size and not at another, so {moving} cannot all be dynamic. {error} "
        f"Name the axes that may move: --dynamic {','.join(fit) or 'none'}.{told}",
        rule="fixed-size",
    )


def _unlike_inputs(names: Sequence[str], inputs: Sequence[TensorInput]) -> tuple[str, ...]:
    """Output names that no input has: a graph cannot hold two values of one name."""
    taken = {i.name for i in inputs}
    return tuple(f"{n}_out" if n in taken else n for n in names)


def _bound(
    resolved: ResolvedModel, given: Sequence[TensorInput] | None
) -> tuple[nn.Module, tuple[TensorInput, ...], str]:
    """The module that takes the inputs by position, the inputs in its order, and what is to be told of that."""
    if given is None:
        if resolved.inputs is None:
            raise InvalidRequestError(
                f"{resolved.name.text}: the shape of its input is not known; give it, as in --input 1x3x224x224 "
                "(in Python: inputs=parse_inputs(['1x3x224x224']))."
            )
        return resolved.module, resolved.inputs, ""
    if resolved.inputs is None or resolved.spec is None:
        bound = bind_inputs(resolved.module, given, resolved.name.text)
        return bound.module, bound.inputs, bound.note
    if len(given) != len(resolved.inputs):
        raise InvalidRequestError(
            f"{resolved.name.text}: takes {len(resolved.inputs)} inputs "
            f"({', '.join(i.name for i in resolved.inputs)}), {len(given)} were given."
        )
    by_name = {i.name: i for i in given}
    same = set(by_name) == {i.name for i in resolved.inputs}
    matched = [by_name[i.name] for i in resolved.inputs] if same else given
    pairs = list(zip(resolved.inputs, matched, strict=True))
    sizes: dict[str, int] = {}
    for known, new in pairs:
        sizes |= _new_sizes(known, new, resolved.name.text)
    shaped = (_at_shape(known, new, sizes, resolved.name.text) for known, new in pairs)
    return resolved.module, tuple(shaped), ""


def _new_sizes(known: TensorInput, new: TensorInput, owner: str) -> dict[str, int]:
    """The extents that the user's shape gives to symbols; only where they stand alone can they be read."""
    shape = new.shape()
    if len(shape) != len(known.dims):
        raise InvalidRequestError(f"{owner}: input {known.name!r} has {len(known.dims)} axes, {len(shape)} were given.")
    return {d: n for d, n in zip(known.dims, shape, strict=True) if isinstance(d, str) and d in known.sizes}


def _at_shape(known: TensorInput, new: TensorInput, new_sizes: Mapping[str, int], owner: str) -> TensorInput:
    """A registry input traced at the user's shape, with the sizes that all inputs together give."""
    shape = new.shape()
    sizes = {s: new_sizes.get(s, n) for s, n in known.sizes.items()}
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
    return replace(given, sizes=sizes)
