"""The graph that is examined: as a file holds it, or typed here, and the form of it that can be run and looked into."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx

from attn_deploy.errors import InvalidRequestError
from attn_deploy.graph.parts import Parts
from attn_deploy.graph.precision import PRECISIONS as HALVES
from attn_deploy.graph.precision import half_type, rounded
from attn_deploy.graph.precision.rules import QUANTIZED
from attn_deploy.graph.quantize import FORMATS
from attn_deploy.parity.judge import LARGEST_ERROR
from attn_deploy.parity.tolerance import TOLERANCES, Tolerance

KNOWN = ("fp32", *HALVES, *FORMATS)
_HALVES = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
_WORDS: dict[int, str] = {
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.FLOAT8E4M3FN: "fp8",
}


@dataclass(frozen=True, slots=True)
class Specimen:
    """A graph under examination.

    Attributes:
        model: the graph as a runtime or a builder gets it.
        running: what is run in ONNX Runtime: the graph itself, or for half types its float32 form that rounds after
            every operator, since ONNX Runtime hides overflows and lacks kernels.
        precision: fp32, fp16, bf16, int8 or fp8, as the graph has it.
        tolerance: how far its numbers may be from what is right, element by element.
        share: for 8 bits, how large the root mean square of the error may be in units of that of the tensor; this counts
            and not ``tolerance``. None for the others.
        logical: the graph whose modules and tensor names stand for it: the one it was typed from, or itself.
        shown: for a tensor of the graph the one of ``running`` that holds its value, where it has another name.
        overflow: the first value beyond the half type's range and how it was met; empty if there is none.
        converted: whether it was typed here, so that ``logical`` is right, tensor by tensor.
    """

    model: onnx.ModelProto
    running: Parts
    logical: Parts
    precision: str
    tolerance: Tolerance
    shown: Mapping[str, str]
    share: float | None = None
    overflow: str = ""
    converted: bool = False


def as_it_is(model: onnx.ModelProto, logical: Parts | None = None, overflow: str = "") -> Specimen:
    """The candidate that a graph is; ``logical`` is what it was typed from."""
    precision = precision_of(model)
    half = next((word for word in HALVES if word in _kinds(model)), None)
    running = Parts(model if half is None else rounded(model))
    return Specimen(
        model=model,
        running=running,
        logical=logical if logical is not None else Parts(model),
        precision=precision,
        tolerance=TOLERANCES["float32" if half is None else half_type(half).name],
        shown={} if half is None else _rounded_names(running),
        share=LARGEST_ERROR if precision in FORMATS else None,
        overflow=overflow,
        converted=logical is not None,
    )


def precision_of(model: onnx.ModelProto) -> str:
    """fp32, fp16, bf16, int8 or fp8: what the graph holds, the narrowest first."""
    kinds = _kinds(model)
    if any(n.op_type in QUANTIZED for n in model.graph.node):
        return "fp8" if "fp8" in kinds else "int8"
    return next((word for word in HALVES if word in kinds), "fp32")


def _kinds(model: onnx.ModelProto) -> set[str]:
    kinds = {i.data_type for i in model.graph.initializer}
    kinds |= {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    kinds |= {a.i for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    return {word for kind, word in _WORDS.items() if kind in kinds}


def refuse_precision(wanted: str | None, present: str) -> None:
    """Refuse a precision that is unknown, and to convert what is converted already.

    Raises:
        InvalidRequestError: saying what to pass.
    """
    if wanted is None or wanted == present:
        return
    if wanted not in KNOWN:
        raise InvalidRequestError(f"precision {wanted!r} is unknown: choose {', '.join(KNOWN)}.")
    if wanted == "fp32":
        raise InvalidRequestError(
            f"the file is {present}, not fp32: leave out --precision to examine it as it is, and name its fp32 source "
            "with --against."
        )
    if present != "fp32":
        raise InvalidRequestError(
            f"the file is {present} already, and {wanted} is made from fp32: pass the fp32 file, or leave out --precision."
        )


def _rounded_names(running: Parts) -> dict[str, str]:
    """For each tensor that is rounded right behind the node that makes it, the rounded one."""
    names = {}
    for name in running.maker:
        readers = running.readers.get(name, [])
        narrow = running.nodes[readers[0]] if len(readers) == 1 else None
        if narrow is None or narrow.op_type != "Cast" or name in running.outputs or not _casts_to(narrow, _HALVES):
            continue
        behind = running.readers.get(narrow.output[0], [])
        wide = running.nodes[behind[0]] if len(behind) == 1 else None
        if wide is not None and wide.op_type == "Cast" and _casts_to(wide, (onnx.TensorProto.FLOAT,)):
            names[name] = wide.output[0]
    return names


def _casts_to(node: onnx.NodeProto, kinds: Collection[int]) -> bool:
    return any(a.name == "to" and a.i in kinds for a in node.attribute)
