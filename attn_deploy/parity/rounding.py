"""Whether an error is rounding: how far a model in float32 is from itself in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attn_deploy.inputs.tensors import Arrays
from attn_deploy.parity.neighbours import neighbouring_arrays
from attn_deploy.parity.tolerance import MOST_NOISE, NEIGHBOURS, NOISE_FACTOR
from attn_deploy.runtimes.base import Runner, run_once


@dataclass(frozen=True, slots=True)
class Rounding:
    """How to learn what a model in float32 rounds.

    Attributes:
        precise: makes a runner of the model in float64.
        neighbour: makes a runner of the model with weights that differ in the last bit, by a seed; or by so many steps.
    """

    precise: Callable[[], Runner]
    neighbour: Callable[[int, int], Runner]


def is_rounding(
    rounding: Rounding, arrays: Arrays, expected: Arrays, got: Arrays, names: Sequence[str]
) -> tuple[bool, float | None]:
    """Whether a result is as near to the model in float64 as the model in float32 is, or as its neighbours are.

    Args:
        rounding: of the model.
        arrays: its inputs.
        expected: its outputs in float32.
        got: the result, of the same shapes.
        names: of the outputs that are asked about: each must be near by itself.

    Returns:
        The answer, and the largest distance of the model from float64 that was seen; None where the model fixes a type of
        its own inside, which float64 does not fit.
    """
    exact = _outputs(rounding.precise, arrays)
    if exact is None or any(exact[n].shape != got[n].shape for n in names):
        return False, None
    errors = _distances(exact, got, names)
    limits = {n: MOST_NOISE * max(1.0, float(np.abs(exact[n]).max(initial=0.0))) for n in names}
    noise: dict[str, float] = {}
    for noise in _noises(rounding, arrays, exact, expected, names):
        if any(errors[n] > limits[n] for n in names):
            break  # however much the model rounds: nothing would be proven
        if all(errors[n] <= NOISE_FACTOR * noise[n] for n in names):
            return True, max(noise.values(), default=0.0)
    return False, max(noise.values(), default=0.0)


def moves_as_far(rounding: Rounding, arrays: Arrays, expected: Arrays, got: Arrays, names: Sequence[str]) -> bool:
    """Whether the model itself, moved by its last bits, goes as far from where it was as a result is from right.

    A network that keeps the elements with the largest scores keeps others then, and gives other values from there on. Such
    inputs prove nothing, either way. It is moved by as many steps as a right result may be times further from float64 than
    the model is. Arguments as `is_rounding`.
    """
    exact = _outputs(rounding.precise, arrays)
    if exact is None or any(exact[n].shape != got[n].shape for n in names):
        return False
    errors = _distances(exact, got, names)
    noises = _noises(rounding, arrays, exact, expected, names, steps=round(NOISE_FACTOR))
    return any(all(errors[n] <= NOISE_FACTOR * noise[n] for n in names) for noise in noises)


def _noises(
    rounding: Rounding, arrays: Arrays, exact: Arrays, expected: Arrays, names: Sequence[str], steps: int = 1
) -> Iterator[dict[str, float]]:
    """How far the model is from float64 at each output; and then, larger and larger, how far its neighbours are."""
    noise = _distances(exact, expected, names)
    yield noise
    for seed in range(NEIGHBOURS):
        other = _outputs(functools.partial(rounding.neighbour, seed, steps), neighbouring_arrays(arrays, seed, steps))
        if other is None or any(other[n].shape != exact[n].shape or not np.isfinite(other[n]).all() for n in names):
            return  # it decides otherwise there
        further = _distances(exact, other, names)
        noise = {n: max(noise[n], further[n]) for n in names}
        yield noise


def _outputs(make: Callable[[], Runner], arrays: Arrays) -> Arrays | None:
    try:
        return run_once(make(), arrays)
    except (RuntimeError, TypeError):
        return None


def _distances(exact: Arrays, other: Arrays, names: Sequence[str]) -> dict[str, float]:
    """The largest distance at each output."""
    return {n: float(np.abs(exact[n].astype(np.float64) - other[n]).max(initial=0.0)) for n in names}
