"""Values with structure, as masks, indices, boxes, time steps and sizes have them in use. No torch here.

Random bits are no mask that anybody uses: with them a model never takes the path for padding, and a file that is wrong
there passes. What an input is, its type and its name say.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_Shape = tuple[int, ...]
_Values = NDArray[np.generic]
Draw = Callable[[np.random.Generator, _Shape], _Values]

_MASK = re.compile(r"mask|padding|(^|_)bias($|_)", re.IGNORECASE)
_BOX = re.compile(r"box|roi|proposal", re.IGNORECASE)
_TIME = re.compile(r"time|(^|_)(t|ts|step|steps|sigma)($|_)", re.IGNORECASE)
_SIZE = re.compile(r"(^|_)(size|sizes|shape|shapes|height|width)($|_)", re.IGNORECASE)
_LENGTH = re.compile(r"len|count", re.IGNORECASE)
_LOWEST = float(np.finfo(np.float32).min)
_STEPS, _PIXELS = 1000, 64
_IDS = 8  # below this are the indices of a test tensor, unless its input says more


def usual(name: str, dtype: str, bound: int | None) -> Draw | None:
    """How values of an input are drawn first, where its name says what they are; None for the ordinary way.

    A mask of numbers is of zeros and ones, boxes have their corners in order, sizes and lengths are above 0: a model may give
    NaN for anything else.

    Args:
        name: of the input.
        dtype: of its values.
        bound: integers are below this; None for what is usual.
    """
    kind = np.dtype(dtype)
    if bound is not None or kind.kind not in "if" or kind.itemsize < 2:
        return None
    if re.search("mask|padding", name, re.IGNORECASE):
        return _as_number(_scattered, kind)
    if kind.kind == "f":
        return _boxes(kind, 1) if _BOX.search(name) else None
    if _SIZE.search(name):
        return lambda rng, shape: rng.integers(_PIXELS // 4, _PIXELS + 1, shape).astype(kind)
    return (lambda rng, shape: rng.integers(1, _IDS, shape).astype(kind)) if _LENGTH.search(name) else None


def structures(name: str, dtype: str, bound: int | None) -> tuple[Draw, ...]:
    """How values of an input are drawn beside the ordinary way.

    Args:
        name: of the input.
        dtype: of its values.
        bound: integers are below this; None for what is usual.
    """
    kind = np.dtype(dtype)
    if kind == np.bool_:
        return (*_MASKS, _first)
    if kind.kind == "i" and kind.itemsize >= 4:
        most = _IDS if bound is None else bound
        ids = [_below(d, kind, most) for d in (_sorted, _repeated, _counting)]
        masks = [_as_number(d, kind) for d in (_right_padding, _left_padding, _everything)]
        steps = [_steps(kind)] if bound is None and _TIME.search(name) else []
        return (*ids, *(masks if bound is None or bound >= 2 else []), *steps)
    if kind.kind != "f":
        return ()
    if _MASK.search(name):
        kept = [_as_number(_inverted(d), kind) for d in (_right_padding, _left_padding)]
        lowest = _LOWEST if kind.itemsize >= 4 else float(np.finfo(kind).min)
        added = [_added(d, kind, v) for d, v in ((_causal, -np.inf), (_right_padding, lowest), (_left_padding, -1e4))]
        return (*kept, *added, _added(_nothing, kind, 0.0))
    if _BOX.search(name):
        return (_boxes(kind, 1), _boxes(kind, _PIXELS))
    if _TIME.search(name):
        return (_steps(kind),)
    return ()


def _lengths(rng: np.random.Generator, shape: _Shape) -> NDArray[np.int64]:
    """For each row of a mask how many places are kept: all in the first, at least one in the others, not all the same."""
    last = shape[-1] if shape else 1
    lengths = rng.integers(1, last + 1, (*shape[:-1], 1))
    if lengths.size > 1:
        lengths.reshape(-1)[0] = last
    elif last > 1:
        lengths[...] = rng.integers(1, last)
    return lengths


def _right_padding(rng: np.random.Generator, shape: _Shape) -> _Values:
    places = np.arange(shape[-1] if shape else 1) >= _lengths(rng, shape)
    return np.broadcast_to(places, shape or (1,)).reshape(shape)


def _left_padding(rng: np.random.Generator, shape: _Shape) -> _Values:
    return np.ascontiguousarray(_right_padding(rng, shape)[..., ::-1]) if shape else _right_padding(rng, shape)


def _scattered(rng: np.random.Generator, shape: _Shape) -> _Values:
    """Half of the places are kept, the first always: a row without any has no softmax."""
    mask = rng.random(shape) < 0.5
    mask[..., :1] = True
    return mask


def _causal(rng: np.random.Generator, shape: _Shape) -> _Values:
    if len(shape) < 2:
        return _right_padding(rng, shape)
    return np.ascontiguousarray(np.broadcast_to(np.triu(np.ones(shape[-2:], bool), 1), shape))


def _nothing(rng: np.random.Generator, shape: _Shape) -> _Values:
    return np.zeros(shape, bool)


def _everything(rng: np.random.Generator, shape: _Shape) -> _Values:
    return np.ones(shape, bool)


def _first(rng: np.random.Generator, shape: _Shape) -> _Values:
    mask = np.zeros(shape, bool)
    mask[..., :1] = True
    return mask


def _inverted(draw: Draw) -> Draw:
    return lambda rng, shape: ~draw(rng, shape).astype(bool)


_MASKS: tuple[Draw, ...] = (_right_padding, _left_padding, _causal, _inverted(_causal), _nothing, _everything)


def _sorted(rng: np.random.Generator, shape: _Shape) -> _Values:
    return np.sort(rng.integers(0, _IDS, shape), axis=-1) if shape else rng.integers(0, _IDS, shape)


def _repeated(rng: np.random.Generator, shape: _Shape) -> _Values:
    return np.full(shape, int(rng.integers(0, _IDS)))


def _counting(rng: np.random.Generator, shape: _Shape) -> _Values:
    return (np.arange(int(np.prod(shape))) % _IDS).reshape(shape)


def _below(draw: Draw, kind: np.dtype[np.generic], bound: int) -> Draw:
    return lambda rng, shape: (draw(rng, shape).astype(np.int64) % bound).astype(kind)


def _as_number(draw: Draw, kind: np.dtype[np.generic]) -> Draw:
    return lambda rng, shape: draw(rng, shape).astype(kind)


def _added(draw: Draw, kind: np.dtype[np.generic], value: float) -> Draw:
    """A mask that is added to scores: 0 where a place is kept, and ``value`` where it is not."""
    return lambda rng, shape: np.where(draw(rng, shape), value, 0.0).astype(kind)


def _boxes(kind: np.dtype[np.generic], side: int) -> Draw:
    """Boxes by their corners, left below right and top below bottom; of five numbers the first is the image's index."""

    def draw(rng: np.random.Generator, shape: _Shape) -> _Values:
        values = rng.uniform(0, side, shape)
        if shape and shape[-1] in (4, 5):
            corners = np.sort(values[..., -4:].reshape(*shape[:-1], 2, 2), axis=-2)
            values[..., -4:] = corners.reshape(*shape[:-1], 4)
            if shape[-1] == 5:
                values[..., 0] = 0
        return values.astype(kind)

    return draw


def _steps(kind: np.dtype[np.generic]) -> Draw:
    return lambda rng, shape: rng.integers(0, _STEPS, shape).astype(kind)
