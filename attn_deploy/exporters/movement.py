"""Which axes of a model's inputs can move, by running it in eager mode at other sizes."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from attn_deploy.errors import DynamicAxisError, ExportError
from attn_deploy.exporters.eager_checks import run_eager
from attn_deploy.fusing.copying import copy_model
from attn_deploy.inputs.samples import example_arrays, verification_seed, verification_sizes
from attn_deploy.inputs.tensors import TensorInput, tied_to_maps
from attn_deploy.parity.reference import EagerReference
from attn_deploy.runtimes.base import run_once

_LARGEST_STEP = 256
_MODULE_FILE = torch.nn.modules.module.__file__
_Origin = tuple[type[Exception], tuple[tuple[str, int], ...]]


@dataclass(frozen=True, slots=True)
class Movement:
    """The axes that move.

    Attributes:
        inputs: with the least extents and the steps that the model needs.
        dynamic: the symbols that move.
        fixed: why others stay, in words.
    """

    inputs: tuple[TensorInput, ...]
    dynamic: tuple[str, ...]
    fixed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prober:
    """Runs a model at sizes, and remembers what came of it.

    Args:
        model: in eval mode, never run itself.
        reference: runs fresh copies of it.
        label: its name in messages.
    """

    model: nn.Module
    reference: EagerReference
    label: str
    _failing: dict[str, bool] = field(default_factory=dict)
    _origins: set[_Origin] = field(default_factory=set)
    _used: list[nn.Module] = field(default_factory=list)

    def fails(self, inputs: Sequence[TensorInput], sizes: Mapping[str, int] | None, seed: int = 0) -> bool:
        """Whether the model does not run at some sizes."""
        key = str([i.shape(sizes) for i in inputs])
        if key not in self._failing:
            after_failure = next(reversed(self._failing.values()), False)
            self._failing[key] = (after_failure and self._fails_as_before(inputs, sizes)) or self._fails_now(
                inputs, sizes, seed
            )
        return self._failing[key]

    def _fails_now(self, inputs: Sequence[TensorInput], sizes: Mapping[str, int] | None, seed: int) -> bool:
        try:
            run_once(self.reference.runner, example_arrays(inputs, sizes, seed))
        except Exception as error:  # whatever a model of the user's raises
            self._origins.add(_origin_of(error))
            return True
        return False

    def _fails_as_before(self, inputs: Sequence[TensorInput], sizes: Mapping[str, int] | None) -> bool:
        """Whether a copy that has run, and failed, fails at a line where a new one did before.

        A network of one size rejects dozens, and a copy for each takes longer than the runs. A copy that has run proves
        nothing else: where it fails elsewhere, or not at all, a new one is asked. Hence no asking here after a success:
        what follows one mostly succeeds, and would run twice.
        """
        if not self._origins:
            return False
        if not self._used:
            self._used.append(copy_model(self.model, share_parameters=True))
        try:
            with torch.inference_mode():
                self._used[0](*(torch.from_numpy(a) for a in example_arrays(inputs, sizes).values()))
        except Exception as error:  # whatever a model of the user's raises
            return _origin_of(error) in self._origins
        self._used.clear()
        return False

    def failure(self, inputs: Sequence[TensorInput], sizes: Mapping[str, int] | None) -> ExportError:
        """Why the model does not run at sizes where it fails."""
        example = tuple(torch.from_numpy(a) for a in example_arrays(inputs, sizes).values())
        try:
            run_eager(copy_model(self.model, share_parameters=True), inputs, example, self.label, advise=False)
        except ExportError as error:
            return error
        return ExportError(f"{self.label}: fails in some runs and not in others.")

    def shapes(
        self, inputs: Sequence[TensorInput], sizes: Mapping[str, int] | None, seed: int = 0
    ) -> list[tuple[int, ...]]:
        """The shapes of the outputs at sizes where the model runs."""
        return [a.shape for a in run_once(self.reference.runner, example_arrays(inputs, sizes, seed)).values()]

    def obstacle(self, inputs: Sequence[TensorInput], symbols: Sequence[str]) -> Mapping[str, int] | None:
        """The first sizes at which some symbols cannot move together; None if they can.

        The inputs are those of the proof, for which the reference then remembers the answers.
        """
        sizes = verification_sizes(inputs, symbols)
        return next((s for k, s in enumerate(sizes, 1) if self.fails(inputs, s, verification_seed(k))), None)


def _origin_of(error: Exception) -> _Origin:
    """The error's type and the lines of the model through which it came."""
    lines = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    calls = [k for k, (file, _) in enumerate(lines) if file == _MODULE_FILE]
    return type(error), tuple(lines[calls[0] :] if calls else lines)


def asked_movement(prober: Prober, inputs: tuple[TensorInput, ...], symbols: tuple[str, ...], *, own: bool) -> Movement:
    """The movement of axes that were asked for by name, or that a registry entry declares.

    Args:
        prober: runs the model.
        inputs: at sizes where the model runs.
        symbols: they must all move.
        own: a model of the user's, whose steps and ties are not declared.

    Raises:
        DynamicAxisError: with the axes that do move together.
    """
    obstacle = prober.obstacle(inputs, symbols)
    readings = [*(tied_to_maps(inputs, symbols) if own else []), inputs]
    if len(readings) > 1 or obstacle is not None:
        together = _first_that_moves(prober, readings, symbols, steps=own)
        if together is not None:
            return Movement(together, symbols)
    if obstacle is None:
        return Movement(inputs, symbols)
    rest = largest_movement(prober, inputs, symbols)
    raise stuck(prober, inputs, symbols, rest.dynamic, prober.failure(inputs, obstacle))


def stuck(
    prober: Prober, inputs: Sequence[TensorInput], symbols: Sequence[str], moving: Sequence[str], error: ExportError
) -> DynamicAxisError:
    """The error of axes that cannot all move."""
    several = [i.name for i in inputs if i.assumed] if len(inputs) > 1 else []
    tie = f" Axes that move together are written as symbols: --input {several[-1]}:1xHxW." if several else ""
    return DynamicAxisError(
        f"{prober.label}: runs at the given size and not at another, so {', '.join(symbols)} cannot all be dynamic. "
        f"{error} Name the axes that may move: --dynamic {','.join(moving) or 'none'}.{tie}",
        rule="fixed-size",
    )


def largest_movement(prober: Prober, inputs: tuple[TensorInput, ...], symbols: tuple[str, ...]) -> Movement:
    """The largest set of axes that the model itself allows, with the steps and the least sizes that it needs.

    All together first; else one after the other, the batch first, H and W as a pair before each alone.
    """
    readings = [*tied_to_maps(inputs, symbols), inputs]
    together = _first_that_moves(prober, readings, symbols, steps=True)
    if together is not None:
        return _with_sequences(prober, Movement(together, symbols))
    current = inputs
    moving: tuple[str, ...] = ()
    fixed: dict[str, str] = {}
    for group in _groups(symbols):
        trial = tuple(s for s in symbols if s in moving or s in group)
        readings = [*tied_to_maps(current, trial), current]
        fitting = _first_that_moves(prober, readings, trial, steps=True)
        if fitting is not None:
            current, moving = fitting, trial
            for symbol in group:
                fixed.pop(symbol, None)
        elif len(group) == 1 and group[0] not in moving:
            obstacle = prober.obstacle(current, trial)
            error = None if obstacle is None else prober.failure(current, obstacle)
            fixed[group[0]] = _cause(error)
    return _with_sequences(prober, Movement(current, moving, fixed))


def _with_sequences(prober: Prober, movement: Movement) -> Movement:
    """The movement with the lengths of sequences, where the model allows them to move.

    A sequence is the second axis of three in ``2x77x16`` and of two in ``2x77:int64``; nobody said whether it moves. Equal
    lengths are one symbol: L for the first, and for another that of its input, as L1.
    """
    lengths: dict[int, str] = {}
    for index, tensor in enumerate(movement.inputs):
        if _is_sequence(tensor) and isinstance(tensor.dims[1], int):
            lengths.setdefault(tensor.dims[1], f"L{index}" if lengths else "L")
    if not lengths or any(s[0] == "L" for s in movement.inputs[0].sizes):
        return movement
    for square in (True, False):
        together = _with_lengths(movement, lengths, square=square)
        if prober.obstacle(together.inputs, together.dynamic) is None:
            return together
    for length, symbol in lengths.items() if len(lengths) > 1 else ():
        longer = _with_lengths(movement, {length: symbol}, square=True)
        if prober.obstacle(longer.inputs, longer.dynamic) is None:
            movement = longer
    return movement


def _with_lengths(movement: Movement, lengths: Mapping[int, str], *, square: bool) -> Movement:
    """The movement with the sequences of some lengths moving too; masks from place to place on all axes if ``square``."""

    def dims(tensor: TensorInput) -> tuple[int | str, ...]:
        if square and tensor.assumed and (tensor.dtype == "bool" or "mask" in tensor.name.lower()):
            return tuple(lengths.get(d, d) if isinstance(d, int) else d for d in tensor.dims)
        if _is_sequence(tensor) and tensor.dims[1] in lengths:
            return (tensor.dims[0], lengths[int(tensor.dims[1])], *tensor.dims[2:])
        return tensor.dims

    sizes = {s: n for n, s in lengths.items()}
    longer = tuple(replace(i, dims=dims(i), sizes={**i.sizes, **sizes}) for i in movement.inputs)
    return replace(movement, inputs=longer, dynamic=(*movement.dynamic, *sizes))


def _is_sequence(tensor: TensorInput) -> bool:
    ids = tensor.dtype in ("int64", "int32", "bool")
    long = len(tensor.dims) == 3 or (len(tensor.dims) == 2 and ids)
    return tensor.assumed and long and isinstance(tensor.dims[1], int) and tensor.dims[1] > 1


def _groups(symbols: Sequence[str]) -> list[tuple[str, ...]]:
    """What is tried one after the other: the batch, H with W, and then each symbol alone."""
    batch = [(s,) for s in symbols if s[0] == "N"]
    space = tuple(s for s in symbols if s[0] in "HW")
    alone = [(s,) for s in symbols if s[0] != "N"]
    return [*batch, *([space] if len(space) > 1 else []), *alone]


def _cause(error: ExportError | None) -> str:
    if error is None:
        return "it does not move together with the others"
    text = str(error.__cause__ or error)
    place = str(error).rpartition(" (")[2].rstrip(").") if error.__cause__ is not None else ""
    words = " ".join(text.split())[:160]
    return f"{words} ({place})" if place and "line" in place else words


def _first_that_moves(
    prober: Prober, readings: Sequence[tuple[TensorInput, ...]], symbols: tuple[str, ...], *, steps: bool
) -> tuple[TensorInput, ...] | None:
    for reading in readings:
        if prober.obstacle(reading, symbols) is None:
            return reading
    if not steps:
        return None
    for reading in (readings[-1], *readings[:-1]):
        stepped = _with_steps(prober, reading, symbols)
        if stepped is not None:
            return stepped
    return None


def _with_steps(
    prober: Prober, inputs: tuple[TensorInput, ...], symbols: tuple[str, ...]
) -> tuple[TensorInput, ...] | None:
    """The inputs with the least step, and the least extent, of the moving axes other than the batch; None if none fits.

    A network that halves a map and doubles it again, cuts it into patches or into windows takes only sizes that divide
    evenly, and may need a map of some size. The step is the least divisor of the traced size by which it can grow.
    """
    space = [s for s in symbols if s[0] != "N"]
    sizes = inputs[0].sizes
    if not space:
        return None
    for step in common_divisors([sizes[s] for s in space]):
        grown = [{s: sizes[s] + step * (1 + (k + j) % 2) for j, s in enumerate(space)} for k in range(2)]
        if any(prober.fails(inputs, g) for g in grown):
            continue
        for least in dict.fromkeys((1, *(max(step, sizes[space[0]] // k // step * step) for k in (4, 2, 1)))):
            limits = {s: max(least, inputs[0].minimum.get(s, 1)) for s in space}
            stepped = tuple(
                replace(i, multiple={**i.multiple, **dict.fromkeys(space, step)}, minimum={**i.minimum, **limits})
                for i in inputs
            )
            if prober.obstacle(stepped, symbols) is None:
                return stepped
    return None


def common_divisors(extents: Sequence[int]) -> list[int]:
    """The numbers that divide all extents, up to a bound, the least first."""
    return [d for d in range(1, min(_LARGEST_STEP, *extents) + 1) if all(n % d == 0 for n in extents)]
