"""A model made ready for export: a copy in eval mode that runs, is deterministic, and whose axes are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from attn_deploy.errors import ExportError, InvalidRequestError
from attn_deploy.exporters.axes import output_dims
from attn_deploy.exporters.eager_checks import refuse_batch_statistics, refuse_detectors, refuse_scripted_parts
from attn_deploy.exporters.history import first_outputs, refuse_history
from attn_deploy.exporters.movement import Movement, Prober, asked_movement, largest_movement, stuck
from attn_deploy.exporters.outside import Outside
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.exporters.rewrite import rewrite as rewrite_model
from attn_deploy.exporters.serving import Serving, named_inputs, reading_of, with_answers, with_images
from attn_deploy.exporters.writes import WeightsWritten
from attn_deploy.fusing import fuse_with_report
from attn_deploy.fusing.copying import copy_model, is_large, mark_writing
from attn_deploy.inputs.binding import Binding, bind_inputs
from attn_deploy.inputs.samples import example_arrays, verification_batches, verification_seed, verification_sizes
from attn_deploy.inputs.tensors import TensorInput, dynamic_symbols
from attn_deploy.inputs.user_samples import Sample, parse_samples, with_samples
from attn_deploy.parity.reference import EagerReference
from attn_deploy.resolve.checkpoints import load_weights
from attn_deploy.resolve.make import ResolvedModel
from attn_deploy.resolve.resolve import resolve_module, resolve_seeded
from attn_deploy.resolve.seeding import gates_of
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.eager import dropped_outputs, flatten_outputs, output_names


def prepare(
    model: str | nn.Module | ResolvedModel,
    *,
    inputs: Sequence[TensorInput] | None = None,
    dynamic: Sequence[str] | None = None,
    fuse: bool = True,
    rewrite: bool = True,
    weights: Path | str | None = None,
    weights_key: str | None = None,
    samples: Sequence[str | Path | Sample] | None = None,
    arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
    narrow: bool = False,
    strict: bool = False,
    serving: Serving | None = None,
) -> PreparedModel:
    """Make a model ready for export.

    Args:
        model: a name of the grammar, a module, or what `attn_deploy.resolve.resolve.resolve` gives.
        inputs: needed for the user's own models; over the registry's for others.
        dynamic: symbols that move; None for all that may: of a registry entry what it declares, of any other model the
            largest set that it allows.
        fuse: export the deployed form.
        rewrite: replace calls that exporters are known to get wrong, in a copy (see `attn_deploy.exporters.rewrite`).
        weights: a checkpoint to load, ``.safetensors`` or one of PyTorch's.
        weights_key: which of the state dicts in the checkpoint; None for the averaged weights, if there are any.
        samples: the user's own inputs (see `attn_deploy.inputs.user_samples`).
        arguments: constructor arguments when ``model`` is a name.
        seed: of the weights of a registry model made by name; parameters that would start at zero get values.
        narrow: trace the forms that keep products within the range of fp16 (see `attn_deploy.ops.bounded`).
        strict: without ``dynamic``, all axes must move, and none is left out.
        serving: pre- and post-processing that becomes part of the graph, and names of inputs and outputs.

    Raises:
        InvalidRequestError: if the inputs are not known, or the checkpoint does not fit.
        DynamicAxisError: if an axis that was asked for cannot move.
        ExportError: if the model fails in forward, normalises by batch statistics, is not deterministic, or answers by
            what it saw before.
    """
    if isinstance(model, ResolvedModel):
        resolved = model
    elif isinstance(model, str):
        resolved = resolve_seeded(model, arguments, seed=seed, weights=weights)
    else:
        resolved = resolve_module(model)
    label = resolved.name.text
    refuse_detectors(resolved.module, label)
    around = serving or Serving()
    binding = _bound(resolved, inputs)
    module, taken, free = _named(binding, around, samples, label)
    symbols = _wanted(resolved, taken, dynamic, label, free)
    refuse_scripted_parts(binding.module, label)

    # What a name stands for was made for this call; into a module of the user's no checkpoint may be loaded.
    share = is_large(module) and (weights is None or not isinstance(model, nn.Module))
    original = copy_model(module, share_parameters=share).eval()
    loaded = resolved.weights if weights is None else load_weights(original, weights, label, key=weights_key)
    refuse_batch_statistics(original, label)

    own = resolved.spec is None
    flexible = own and dynamic is None and not strict
    outside = Outside(original)
    try:
        first = _first_run(original, taken, symbols, label, flexible=flexible, watched=share)
    except WeightsWritten:
        mark_writing(original)
        original = copy_model(original)
        first = _first_run(original, taken, symbols, label, flexible=flexible)
    declared, used = _declared(resolved, first), first.used
    if around.answers is not None:
        around.answers.check_outputs([tuple(t.shape) for t in flatten_outputs(first.outputs)], label)
        original, used = (with_answers(module, around.answers) for module in (original, used))
        declared = around.answers.outputs
    names = _unlike_inputs(_chosen_names(declared, around.output_names, label), taken)
    reference = EagerReference(original, names, owned=resolved.owned)
    if around.answers is None:
        reference.remember(example_arrays(first.inputs), first.outputs)
    prober = Prober(original, reference, label)
    movement = _moved(prober, first, taken[0].sizes, flexible=flexible, own=own)
    movement = _without_history(
        prober, movement, taken[0].sizes, used, outside, fewer=flexible and resolved.name.package is not None
    )
    prepared = PreparedModel(
        label,
        original,
        original,
        movement.inputs,
        names,
        _output_dims(prober, movement, names),
        movement.dynamic,
        reference,
        dict(taken[0].sizes),
        fixed=movement.fixed,
        arguments=dict(resolved.arguments),
        weights=loaded,
        gates=gates_of(original) if own and weights is None and not resolved.has_weights else (),
        called=binding.note,
        dropped=tuple(dropped_outputs(first.outputs)),
        narrow=narrow,
        flexible=flexible,
        serving=around,
        reading=None if around.answers is None else reading_of(around.answers, names),
        images=None if resolved.images is None else resolved.images.to_dict(),
    )
    return deployed(prepared, fuse=fuse, rewrite=rewrite)


def deployed(prepared: PreparedModel, *, fuse: bool, rewrite: bool) -> PreparedModel:
    """The prepared model with its deployed form: fused, and with calls rewritten that exporters get wrong."""
    module, changes, rewritten = prepared.original, prepared.changes, prepared.rewritten
    free, windows = prepared.free_sizes, prepared.whole_windows
    if fuse:
        fused = fuse_with_report(module, share=is_large(module))
        module, changes = fused.model, fused.changes
    if rewrite:
        space = any(not s.startswith("N") for s in prepared.dynamic)
        # At two sizes of the proof, whose outputs are remembered for it; the proof holds the file to all of them.
        batches = [b for b in verification_batches(prepared.inputs, prepared.dynamic) if not b.extra][:2]
        examples = [tuple(torch.from_numpy(a) for a in b.arrays.values()) for b in batches]

        def expected(example: tuple[torch.Tensor, ...]) -> list[NDArray[Any]]:
            arrays = next(b.arrays for b, e in zip(batches, examples, strict=True) if e is example)
            known = run_once(prepared.reference.runner, arrays)
            return list(known.values())

        rewriting = rewrite_model(
            module,
            examples,
            batch="N" in prepared.dynamic,
            space=space,
            label=prepared.label,
            expected=expected,
        )
        module, rewritten = rewriting.model, rewriting.changes
        free = space and rewriting.computed_pads >= _MANY_PADS
        windows = space and rewriting.window_pads >= _MANY_PADS
    return replace(
        prepared,
        free_sizes=free,
        whole_windows=windows,
        module=module,
        changes=changes,
        rewritten=rewritten,
        work=prepared.work.another(),
    )


def with_fewer_axes(prepared: PreparedModel, dynamic: Sequence[str], reasons: Mapping[str, str]) -> PreparedModel:
    """The same model with fewer axes that move.

    Args:
        prepared: the model.
        dynamic: those that still move.
        reasons: for each axis that no longer does, why.
    """
    fewer = remade(prepared, dynamic)
    return replace(fewer, fixed={**prepared.fixed, **reasons})


def remade(prepared: PreparedModel, dynamic: Sequence[str]) -> PreparedModel:
    """The same model for these axes: what depends on them is made again."""
    movement = _settled(Movement(prepared.inputs, tuple(dynamic)), prepared.sizes)
    prober = Prober(prepared.original, prepared.reference, prepared.label)
    return replace(
        prepared,
        inputs=movement.inputs,
        dynamic=movement.dynamic,
        output_dims=_output_dims(prober, movement, prepared.outputs),
        work=prepared.work.another(),
    )


def _bound(resolved: ResolvedModel, inputs: Sequence[TensorInput] | None) -> Binding:
    """The module that takes the inputs by position, and the inputs in its order."""
    if inputs is not None:
        expected = resolved.inputs if resolved.spec is not None else None
        return bind_inputs(resolved.module, inputs, resolved.name.text, expected=expected)
    if resolved.inputs is None:
        raise InvalidRequestError(
            f"{resolved.name.text}: the shape of its input is not known; give it, as in --input 1x3x224x224 "
            "(in Python: inputs=parse_inputs(['1x3x224x224']))."
        )
    return Binding(resolved.module, resolved.inputs)


def _named(
    binding: Binding, around: Serving, samples: Sequence[str | Path | Sample] | None, label: str
) -> tuple[nn.Module, tuple[TensorInput, ...], tuple[str, ...]]:
    """The module with what serving puts before it, its inputs with the user's samples, and symbols that are free to move."""
    module, taken = binding.module, named_inputs(binding.inputs, around.input_names, label)
    free: tuple[str, ...] = ()
    if around.pixels is not None:
        module, taken, free = with_images(module, taken, around.pixels, label)
    return module, with_samples(taken, parse_samples(samples), label), free


def _declared(resolved: ResolvedModel, first: _FirstRun) -> tuple[str, ...]:
    """Names of the outputs: those declared, unless there are more or fewer (arguments may add levels of a pyramid)."""
    declared = resolved.outputs
    if declared is not None and len(declared) == len(flatten_outputs(first.outputs)):
        return tuple(declared)
    return tuple(output_names(first.outputs))


def _moved(prober: Prober, first: _FirstRun, sizes: Mapping[str, int], *, flexible: bool, own: bool) -> Movement:
    """What moves: the largest set that the model allows, or what was asked for."""
    if not flexible:
        return _settled(asked_movement(prober, first.inputs, first.symbols, own=own), sizes)
    movement = largest_movement(prober, first.inputs, first.symbols)
    return _settled(replace(movement, fixed={**first.fixed, **movement.fixed}), sizes)


def _without_history(
    prober: Prober, movement: Movement, sizes: Mapping[str, int], used: nn.Module, outside: Outside, *, fewer: bool
) -> Movement:
    """The movement at which the answers do not hang on earlier calls.

    Args:
        prober: of the model.
        movement: what is to move.
        sizes: extents of the request.
        used: a copy that has run.
        outside: values that the model keeps outside itself.
        fewer: whether the batch alone may move where more does not hold. What a package keeps by size holds at one size;
            the owner of other code can mend it.

    Raises:
        ExportError: if the model answers by what it saw before.
    """
    model, reference, label = prober.model, prober.reference, prober.label
    try:
        refuse_history(model, reference, movement.inputs, movement.dynamic, label, used, outside)
    except ExportError as error:
        batch = tuple(s for s in movement.dynamic if s[0] == "N")
        if not fewer or batch in ((), movement.dynamic):
            raise
        reason = str(error).removeprefix(f"{label}: ").split(". ")[0][:_LONGEST_REASON]
        stay = {s: reason for s in movement.dynamic if s not in batch}
        movement = _settled(Movement(movement.inputs, batch, {**movement.fixed, **stay}), sizes)
        again = first_outputs(model, movement.inputs, label)[1]
        refuse_history(model, reference, movement.inputs, batch, label, again, outside)
    return movement


def _wanted(
    resolved: ResolvedModel,
    inputs: Sequence[TensorInput],
    dynamic: Sequence[str] | None,
    label: str,
    free: Sequence[str] = (),
) -> tuple[str, ...]:
    """The symbols that are to move, or may; those that are ``free`` may whatever the model says."""
    allowed = tuple(dict.fromkeys((*resolved.dynamic, *free)))
    if resolved.spec is None:  # a symbol that the user has written may move
        allowed = tuple(dict.fromkeys((*allowed, *(s for i in inputs if not i.assumed for s in i.symbols))))
    wanted = allowed if dynamic is None else tuple(dynamic)
    if dynamic is None:  # the default means "all that the model has"
        symbols = {s for i in inputs for s in i.symbols}
        wanted = tuple(d for d in wanted if any(s == d or s[0] == d for s in symbols))
    return dynamic_symbols(inputs, wanted, allowed, label)


_LONGEST_REASON = 240
_MANY_PADS = 3  # maps that are padded by amounts computed from their size, one after the other


@dataclass(frozen=True, slots=True)
class _FirstRun:
    """The inputs at sizes where the model runs, what may still move, why the rest stays, the outputs, and what ran."""

    inputs: tuple[TensorInput, ...]
    symbols: tuple[str, ...]
    fixed: dict[str, str]
    outputs: Any
    used: nn.Module


def _first_run(
    model: nn.Module,
    inputs: tuple[TensorInput, ...],
    symbols: tuple[str, ...],
    label: str,
    *,
    flexible: bool,
    watched: bool = False,
) -> _FirstRun:
    """Run with every moving axis of extent 1 at 2, since torch takes an extent of 1 for a constant.

    Where the model does not run so and the request leaves the choice, such axes stay. A ``watched`` run is stopped by what
    writes to weights that copies share (`WeightsWritten`).
    """
    enlarged = tuple(_enlarged(i, symbols) for i in inputs)
    changed = [s for s in symbols if enlarged[0].sizes[s] != inputs[0].sizes[s]]
    try:
        outputs, used = first_outputs(model, enlarged, label, watched=watched)
        return _FirstRun(enlarged, symbols, {}, outputs, used)
    except ExportError as error:
        if not changed or error.rule != "eager-failure":
            raise
        outputs, used = first_outputs(model, inputs, label, watched=watched)
        rest = tuple(s for s in symbols if s not in changed)
        if not flexible:
            prober = Prober(model, EagerReference(model), label)
            able = largest_movement(prober, inputs, rest).dynamic
            raise stuck(prober, enlarged, symbols, able, error) from error
        reason = " ".join(str(error.__cause__ or error).split())[:160]
        return _FirstRun(inputs, rest, dict.fromkeys(changed, reason), outputs, used)


def _settled(movement: Movement, sizes: Mapping[str, int]) -> Movement:
    """The movement with the axes that stay at the extents of the request."""
    stay = {s: n for s, n in sizes.items() if s not in movement.dynamic}
    return replace(movement, inputs=tuple(replace(i, sizes={**i.sizes, **stay}) for i in movement.inputs))


def _enlarged(tensor: TensorInput, symbols: Sequence[str]) -> TensorInput:
    sizes = {s: (2 if s in symbols and n == 1 else n) for s, n in tensor.sizes.items()}
    return replace(tensor, sizes=sizes)


def _output_dims(prober: Prober, movement: Movement, names: Sequence[str]) -> tuple[tuple[int | str, ...], ...]:
    inputs = movement.inputs
    sizes = [{}, *verification_sizes(inputs, movement.dynamic)]
    # The inputs are those of the proof: the reference has run them, or remembers them for it.
    shapes = [prober.shapes(inputs, s, verification_seed(k)) for k, s in enumerate(sizes)]
    observed = [({**inputs[0].sizes, **s}, o) for s, o in zip(sizes, shapes, strict=True)]
    return output_dims(observed, names)


def _chosen_names(names: Sequence[str], chosen: Sequence[str], label: str) -> tuple[str, ...]:
    if chosen and len(chosen) != len(names):
        raise InvalidRequestError(
            f"{label}: --output-names gives {len(chosen)} names, and there are {len(names)} outputs ({', '.join(names)})."
        )
    return tuple(chosen or names)


def _unlike_inputs(names: Sequence[str], inputs: Sequence[TensorInput]) -> tuple[str, ...]:
    """Output names that no input has: a graph cannot hold two values of one name."""
    taken = {i.name for i in inputs}
    return tuple(f"{n}_out" if n in taken else n for n in names)
