"""Optimization profiles: the ranges of shapes that an engine accepts.

TensorRT checks little itself: a malformed range is answered with an index of -1, and two inputs whose common axis has
different ranges are accepted and fail at run time. So the ranges are checked here, against the ONNX graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from attn_deploy.engine.axes import BATCH, Extents, axes_in, extents_of, fitting_extents, image_extents, named_axes
from attn_deploy.errors import InvalidRequestError
from attn_deploy.graph.artifact import OnnxArtifact, TensorInfo

Shape = tuple[int, ...]
GivenProfile = str | Mapping[str, Sequence[Sequence[int]]]
Draft = dict[str, tuple[Shape, Shape, Shape]]

_BOUNDS = ("min", "opt", "max")
_FORM = "NAME:MIN,OPT,MAX, as x:1x3x32x32,8x3x32x32,32x3x32x32"


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The shapes of one input: the least, the one to optimize for, and the largest."""

    name: str
    minimum: Shape
    optimum: Shape
    maximum: Shape

    @property
    def shapes(self) -> tuple[Shape, Shape, Shape]:
        """Minimum, optimum, maximum."""
        return self.minimum, self.optimum, self.maximum

    def __str__(self) -> str:
        return f"{self.name}:" + ",".join("x".join(map(str, s)) for s in self.shapes)


@dataclass(frozen=True, slots=True)
class Profile:
    """The ranges of all dynamic inputs."""

    ranges: tuple[ShapeRange, ...]

    def __str__(self) -> str:
        return " ".join(map(str, self.ranges))

    def to_dict(self) -> dict[str, list[list[int]]]:
        """JSON-ready data, which ``from_dict`` reads."""
        return {r.name: [list(s) for s in r.shapes] for r in self.ranges}

    @classmethod
    def from_dict(cls, data: Mapping[str, Sequence[Sequence[int]]]) -> Profile:
        """The profile that ``to_dict`` wrote."""
        return cls(tuple(ShapeRange(n, *(tuple(int(d) for d in s) for s in shapes)) for n, shapes in data.items()))


def make_profiles(
    onnx: OnnxArtifact, given: GivenProfile | Iterable[GivenProfile] = (), *, batch: Extents | None = None
) -> tuple[Profile, ...]:
    """The profiles of a build: what the user gave, checked against the graph, or else one derived from its axes.

    Args:
        onnx: the graph.
        given: texts ``NAME:MIN,OPT,MAX`` (an input that comes again begins the next profile), or mappings from input
            names to three shapes (each one whole profile). An input that is left out gets its range from the axes that
            it shares with the others.
        batch: least, best and largest batch of a profile that is derived; None for what is usual.

    Returns:
        The profiles; none for a graph without dynamic axes.

    Raises:
        InvalidRequestError: if a range does not fit the graph or itself.
    """
    drafts = _drafts([given] if isinstance(given, (str, Mapping)) else given)
    dynamic = [i for i in onnx.inputs if any(not isinstance(d, int) for d in i.shape)]
    if not drafts:
        return (Profile(_ranges(dynamic, fitting_extents(onnx, batch or BATCH))),) if dynamic else ()
    profiles = tuple(_complete(onnx, draft, dynamic) for draft in drafts)
    return profiles if dynamic else ()


def unusual_sizes(onnx: OnnxArtifact, profiles: Sequence[Profile]) -> tuple[str, ...]:
    """A warning where no profile of a backbone has the size that its images usually are."""
    usual = image_extents(onnx)
    if usual is None or not profiles:
        return ()
    ranges = [r for p in profiles for r in p.ranges if len(r.optimum) == 4]
    if any(a <= usual[1] <= b for r in ranges for a, b in zip(r.minimum[2:3], r.maximum[2:3], strict=True)):
        return ()
    return (
        f"no profile has {usual[1]}x{usual[1]}, the usual size of {onnx.record.get('model')}: the engine refuses such images "
        f"({'; '.join(map(str, profiles))}).",
    )


def _complete(onnx: OnnxArtifact, draft: Draft, dynamic: Sequence[TensorInfo]) -> Profile:
    for name, shapes in draft.items():
        _check_range(name, shapes, onnx)
    table = _shared_extents(onnx, draft)
    ranges = []
    for tensor in dynamic:
        if tensor.name in draft:
            ranges.append(ShapeRange(tensor.name, *draft[tensor.name]))
            continue
        unknown = [s for d in named_axes(tensor) for s in axes_in(d) if s not in table]
        if unknown:
            raise InvalidRequestError(
                f"the profile leaves out the input {tensor.name!r}, and its axis {unknown[0]!r} is not known from the "
                f"other inputs: {tensor}. Add --profile {tensor.name}:MIN,OPT,MAX."
            )
        ranges += _ranges([tensor], table)
    return Profile(tuple(ranges))


def _drafts(given: Iterable[GivenProfile]) -> list[Draft]:
    drafts: list[Draft] = []
    current: Draft | None = None
    for entry in given:
        if isinstance(entry, str):
            name, shapes = _parse(entry)
            if current is None or name in current:
                current = {}
                drafts.append(current)
            current[name] = shapes
        else:
            current = None
            drafts.append({n: _triple(n, s, str(dict(entry))) for n, s in entry.items()})
    return drafts


def _parse(text: str) -> tuple[str, tuple[Shape, Shape, Shape]]:
    name, colon, rest = text.strip().rpartition(":")
    parts = rest.split(",")
    if not (colon and name) or not all(re.fullmatch(r"\d+(x\d+)*", p.strip()) for p in parts):
        raise InvalidRequestError(f"the profile {text!r} cannot be read; write {_FORM}.")
    return name, _triple(name, [[int(d) for d in p.split("x")] for p in parts], text)


def _triple(name: str, shapes: Sequence[Sequence[int]], text: str) -> tuple[Shape, Shape, Shape]:
    extents = [tuple(int(d) for d in s) for s in shapes]
    if len(extents) == 1:
        extents *= 3
    if len(extents) != 3:
        raise InvalidRequestError(
            f"the profile {text!r} gives {len(extents)} shapes for {name!r}; three are needed (least, best, largest), or "
            f"one for a fixed shape: {_FORM}."
        )
    return extents[0], extents[1], extents[2]


def _check_range(name: str, shapes: tuple[Shape, Shape, Shape], onnx: OnnxArtifact) -> None:
    tensor = next((i for i in onnx.inputs if i.name == name), None)
    if tensor is None:
        names = ", ".join(repr(i.name) for i in onnx.inputs)
        raise InvalidRequestError(f"the profile names the input {name!r}; {onnx.path} has {names}.")
    for bound, shape in zip(_BOUNDS, shapes, strict=True):
        if len(shape) != len(tensor.shape):
            raise InvalidRequestError(
                f"the profile's {bound} shape {_x(shape)} of {name!r} has {len(shape)} axes; the graph has "
                f"{len(tensor.shape)}: {tensor}."
            )
        for axis, (size, declared) in enumerate(zip(shape, tensor.shape, strict=True)):
            if isinstance(declared, int) and size != declared:
                raise InvalidRequestError(
                    f"the profile's {bound} shape {_x(shape)} of {name!r} has {size} on axis {axis}, which is fixed to "
                    f"{declared} in the graph: {tensor}. Use {declared}, or export with that axis dynamic."
                )
            if size < 1:
                raise InvalidRequestError(
                    f"the profile's {bound} shape {_x(shape)} of {name!r} has an axis of length 0."
                )
    low, best, high = shapes
    for axis, (a, b, c) in enumerate(zip(low, best, high, strict=True)):
        if not a <= b <= c:
            raise InvalidRequestError(
                f"the profile of {name!r} is not in order on axis {axis}: min {a}, opt {b}, max {c}. "
                f"It must hold that min <= opt <= max; given were {_x(low)}, {_x(best)}, {_x(high)}."
            )


def _shared_extents(onnx: OnnxArtifact, draft: Draft) -> dict[str, Extents]:
    extents: dict[str, Extents] = {}
    owner: dict[str, str] = {}
    for tensor in onnx.inputs:
        for axis, symbol in enumerate(tensor.shape):
            if tensor.name not in draft or not isinstance(symbol, str):
                continue
            low, best, high = (s[axis] for s in draft[tensor.name])
            if extents.setdefault(symbol, (low, best, high)) != (low, best, high):
                a, b = extents[symbol], (low, best, high)
                raise InvalidRequestError(
                    f"the axis {symbol!r} is shared by {owner[symbol]!r} and {tensor.name!r}, and the profile gives it "
                    f"{a[0]},{a[1]},{a[2]} in one and {b[0]},{b[1]},{b[2]} in the other. Give both the same."
                )
            owner.setdefault(symbol, tensor.name)
    return extents


def _ranges(tensors: Iterable[TensorInfo], table: Mapping[str, Extents]) -> tuple[ShapeRange, ...]:
    ranges = []
    for tensor in tensors:
        extents = [extents_of(d, table) for d in named_axes(tensor)]
        low, best, high = (tuple(e[k] for e in extents) for k in range(3))
        ranges.append(ShapeRange(tensor.name, low, best, high))
    return tuple(ranges)


def _x(shape: Shape) -> str:
    return "x".join(map(str, shape))
