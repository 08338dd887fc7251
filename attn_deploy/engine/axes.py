"""How far each axis of a graph may reach, when nobody says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from onnx import ModelProto

from attn_deploy.errors import AttnDeployError, GraphError, InvalidRequestError
from attn_deploy.graph.artifact import OnnxArtifact, TensorInfo, load_model
from attn_deploy.graph.tensors import infer_tensors
from attn_deploy.inputs.expressions import evaluate_expression

Extents = tuple[int, int, int]
"""Least extent, the one to optimize for, and the largest."""

BATCH: Extents = (1, 8, 32)
_SPATIAL: Extents = (32, 224, 448)
_CIFAR: Extents = (32, 32, 224)  # a stem of stride 1
_DETECTOR: Extents = (320, 640, 1280)
_OTHER: Extents = (1, 64, 512)


def named_axes(tensor: TensorInfo) -> tuple[int | str, ...]:
    """A tensor's shape with a name for every dynamic axis."""
    return tuple(f"{tensor.name}_{axis}" if d is None else d for axis, d in enumerate(tensor.shape))


def axes_in(dim: int | str) -> tuple[str, ...]:
    """The symbols in an axis: those of an expression such as ``2*H``, or the axis itself if it is none."""
    if isinstance(dim, int):
        return ()
    names = tuple(dict.fromkeys(re.findall(r"[A-Za-z_]\w*", dim)))
    try:
        evaluate_expression(dim, dict.fromkeys(names, 1))
    except (AttnDeployError, SyntaxError, ZeroDivisionError):
        return (dim,)
    return names


def extents_of(dim: int | str, table: Mapping[str, Extents]) -> Extents:
    """The extents of an axis whose symbols are all in ``table``."""
    if isinstance(dim, int):
        return dim, dim, dim
    if dim in table:
        return table[dim]
    low, best, high = (evaluate_expression(dim, {s: table[s][k] for s in axes_in(dim)}) for k in range(3))
    return low, best, high


def usual_extents(onnx: OnnxArtifact, batch: Extents = BATCH) -> dict[str, Extents]:
    """Extents of every symbol of the inputs: around the sizes that the exporter ran, or what such axes usually are."""
    table: dict[str, Extents] = {}
    ran, images = _sizes_ran(onnx), image_extents(onnx)
    steps = onnx.record.get("multiple") or {}
    for tensor in onnx.inputs:
        for axis, dim in enumerate(named_axes(tensor)):
            for symbol in axes_in(dim):
                table.setdefault(symbol, _usual(symbol, axis, len(tensor.shape), ran.get(symbol, []), batch))
    if images is not None:
        for symbol in table:
            if symbol[0] in "HW":
                step = int(steps.get(symbol, 1))
                low, best, high = (-(-extent // step) * step for extent in images)
                table[symbol] = low, best, high
    return table


def image_extents(onnx: OnnxArtifact) -> Extents | None:
    """Heights and widths that the images of a backbone of this program have; None for anything else.

    A backbone is traced at odd sizes on purpose, and nobody runs it at those.
    """
    arguments = onnx.record.get("arguments")
    spatial = len(onnx.inputs) == 1 and len(onnx.inputs[0].shape) == 4
    if not spatial or onnx.inputs[0].shape[1] != 3 or not isinstance(arguments, Mapping):
        return None
    if ".py:" in str(onnx.record.get("model", "")) or "num_classes" not in arguments:
        return None
    if "decode" in arguments:
        return _DETECTOR
    if arguments.get("stem") == "imagenet":
        return _SPATIAL
    return _CIFAR if "stem" in arguments or "blocks" in arguments else None


# What axes that are no batch may be, the likeliest first: images, features of a sequence, samples of a sound.
_LADDERS: tuple[Extents | None, ...] = (
    None,
    (32, 224, 448),
    (64, 256, 512),
    (128, 640, 1280),
    (1, 64, 512),
    (16, 128, 1024),
    (400, 4000, 32000),
    (1600, 16000, 160000),
)


def fitting_extents(onnx: OnnxArtifact, batch: Extents = BATCH) -> dict[str, Extents]:
    """As `usual_extents`, at which the graph's shapes agree with each other.

    A file of this program says at which sizes it ran. Of another's file the usual extents are tried by shape inference,
    then others.

    Raises:
        InvalidRequestError: if the graph takes none of them, naming the axes that have to be given.
    """
    usual = usual_extents(onnx, batch)
    if any(_shapes_ran(onnx)):
        return usual
    model = load_model(onnx.path, check_seal=False, light=True)
    first: GraphError | None = None
    for ladder in _LADDERS:
        table = {s: e if ladder is None or e == batch else ladder for s, e in usual.items()}
        try:
            for place in range(3):
                _check_sizes(onnx, model, table, place)
        except GraphError as error:
            first = first or error
            continue
        return table
    axes = ", ".join(s for s, e in usual.items() if e != batch) or ", ".join(usual)
    shown = " ".join(
        f"--profile {i.name}:MIN,OPT,MAX" for i in onnx.inputs if any(not isinstance(d, int) for d in i.shape)
    )
    raise InvalidRequestError(
        f"{onnx.path}: no usual range fits the axes {axes} ({first}). Give the shapes with {shown}, or fix axes with --fix "
        f"{axes.split(', ')[0]}=SIZE."
    )


def _check_sizes(onnx: OnnxArtifact, model: ModelProto, table: Mapping[str, Extents], place: int) -> None:
    sizes = {t.name: tuple(extents_of(d, table)[place] for d in named_axes(t)) for t in onnx.inputs}
    tensors = infer_tensors(model, sizes)
    for name, shape in tensors.shapes.items():
        if any(d < 1 for d in shape) and not (len(shape) == 1 and shape[0] == 0):
            raise GraphError(f"{name} would have the shape {'x'.join(map(str, shape))}")


def _usual(symbol: str, axis: int, rank: int, ran: list[int], batch: Extents) -> Extents:
    word = symbol.lower()
    if axis == 0 or word == "n" or word.startswith("batch"):
        return batch
    if ran:  # what all sizes that ran are a multiple of may be what the model needs
        traced, step = ran[0], math.gcd(*ran)
        half = -(-traced // 2 // step) * step
        return max(half, min(ran)), traced, 2 * traced
    if word[0] in "hw" or (rank >= 4 and axis >= 2):
        return _SPATIAL
    return _OTHER


def _sizes_ran(onnx: OnnxArtifact) -> dict[str, list[int]]:
    extents: dict[str, list[int]] = {}
    for shapes in _shapes_ran(onnx):
        for tensor in onnx.inputs:
            shape = shapes.get(tensor.name, ())
            if len(shape) == len(tensor.shape):
                for dim, size in zip(tensor.shape, shape, strict=True):
                    if isinstance(dim, str):
                        extents.setdefault(dim, []).append(int(size))
    return extents


def _shapes_ran(onnx: OnnxArtifact) -> Iterator[Mapping[str, list[int]]]:
    """Input shapes from the record of the export: traced, then verified. A foreign file has none."""
    candidates = [onnx.record.get("traced_shapes"), *(onnx.record.get("verified_shapes") or ())]
    yield from (c for c in candidates if isinstance(c, Mapping))
