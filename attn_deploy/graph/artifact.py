"""An ONNX file and its contents."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError

from attn_deploy.errors import EvidenceError, FileWarning, GraphError, InvalidGraphError, reason_of
from attn_deploy.files import sha256_of
from attn_deploy.graph.bounds import refuse_unbounded, refuse_undecodable
from attn_deploy.graph.evidence import MISMATCH, Evidence, entries_of, read_evidence, seal_state
from attn_deploy.graph.light import light_model
from attn_deploy.graph.placed import exceeds_one_file, hollow, placed_tensors, weight_bytes
from attn_deploy.graph.repair import constants_for_defaults, has_negative_size, repaired
from attn_deploy.graph.soundness import check_sound


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A graph input or output: name, ONNX element type in lower case, and shape (a string is a symbolic axis)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True, slots=True)
class OnnxArtifact:
    """What was read back from a finished ONNX file.

    Attributes:
        path, sha256, size: the file; size in bytes.
        data: files beside it that hold weights, by name, with their sizes in bytes.
        opset: version of the standard operator set; ``domains`` lists any other domain with its version.
        ir_version: of the file format.
        inputs, outputs: the graph's interface.
        operators: node count by operator type.
        parameters: scalars in initializers.
        metadata: the ``attn_deploy.*`` entries of the file, without the prefix.
        record: the evidence gathered when the file was made (see `attn_deploy.exporters`); empty for a foreign file.
        evidence: everything that the file says of how it was made, typed; None for a foreign file.
        seal: ``whole`` if the graph is the one that was proven, ``broken`` if it changed since, empty without a seal.
    """

    path: Path
    sha256: str
    size: int
    opset: int
    ir_version: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: Mapping[str, int]
    parameters: int
    domains: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    evidence: Evidence | None = field(default=None, repr=False)
    seal: str = ""
    data: Mapping[str, int] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """Number of nodes in the main graph."""
        return sum(self.operators.values())

    @property
    def dynamic_axes(self) -> tuple[str, ...]:
        """The symbolic axes of the inputs, in order of appearance."""
        return tuple(dict.fromkeys(str(d) for i in self.inputs for d in i.shape if not isinstance(d, int)))

    def check_seal(self) -> None:
        """Refuse a file whose graph is not the one that was proven, or that nothing was ever proven of.

        Raises:
            EvidenceError: saying which.
        """
        if self.seal == "broken":
            raise EvidenceError(f"{self.path}: {MISMATCH}.")
        if not self.seal:
            kind = "no evidence" if self.evidence is None else "evidence without a seal"
            raise EvidenceError(f"{self.path}: the file holds {kind}, so nothing can be checked. Export it again.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        data = {**asdict(self), "path": str(self.path)}
        data.pop("evidence")  # in ``metadata`` and ``record`` already
        return data


def load_model(path: Path, *, check_seal: bool = True, light: bool = False) -> onnx.ModelProto:
    """The protobuf of an ONNX file, with external data.

    Args:
        path: the file.
        check_seal: warn with `FileWarning` if the graph is not the one that the evidence in the file was written for.
        light: leave large weights in their files, see `attn_deploy.graph.placed`; without it they are loaded, which ends
            at 2 GiB.

    Raises:
        EvidenceError: if the metadata is damaged.
        GraphError: if the file is missing, not ONNX, truncated or empty, or too large to be run.
    """
    if not path.is_file():
        hint = "" if path.suffix else f" If it is the name of a model, `attn-deploy export {path}` writes its file."
        raise GraphError(f"{path} not found: no such ONNX file.{hint}", exit_code=2)
    try:
        model = light_model(path)
        if not light:
            _refuse_beyond(model, path)
            model = onnx.load(path)
    except DecodeError as error:
        raise GraphError(
            f"{path} cannot be read as ONNX ({path.stat().st_size} bytes): it is another kind of file, or was cut "
            "short. Export or copy it again.",
            exit_code=2,
        ) from error
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise GraphError(f"{path} cannot be loaded: {reason_of(error)}", exit_code=2) from error
    if not model.graph.node or not model.opset_import:
        raise GraphError(
            f"{path} holds no ONNX graph ({path.stat().st_size} bytes, "
            f"{len(model.graph.node)} nodes). Export it again.",
            exit_code=2,
        )
    refuse_undecodable(model, str(path))
    refuse_unbounded(model, str(path))
    try:
        read_evidence(model)
    except EvidenceError as error:
        raise EvidenceError(f"{path}: {error}") from error
    if check_seal and seal_state(model) == "broken":
        warnings.warn(f"{path}: {MISMATCH}.", FileWarning, stacklevel=2)
    return model


def _refuse_beyond(model: onnx.ModelProto, path: Path) -> None:
    """Refuse, before anything is loaded, what protobuf cannot hold in memory.

    Raises:
        GraphError: with the size and what does work.
    """
    if placed_tensors(model) and exceeds_one_file(weight_bytes(model)):
        raise GraphError(
            f"{path}: its weights take {weight_bytes(model) / 1e9:.2f} GB, and this step holds a graph with its weights in "
            "memory, which protobuf ends at 2 GiB (2.15 GB). Files beyond it can be exported, inspected, verified, run, "
            "profiled and converted to another opset; for half precision or 8 bits, export the model in parts.",
            exit_code=2,
        )


def serialised(model: onnx.ModelProto) -> bytes:
    """The bytes of a model.

    Raises:
        GraphError: above the 2 GiB at which protobuf stops.
    """
    try:
        return bytes(model.SerializeToString())
    except (ValueError, EncodeError) as error:
        raise GraphError(f"the graph is larger than 2 GiB, which protobuf cannot hold in one piece: {error}") from error


def check_model(model: onnx.ModelProto, what: str) -> None:
    """Run the full ONNX checker, shape inference included.

    Raises:
        InvalidGraphError: with the checker's message.
    """
    try:
        bare = hollow(model)
        onnx.checker.check_model(bare, full_check=bare.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        message = " ".join(str(error).split())
        shapeless = [v.name for v in (*model.graph.input, *model.graph.output) if _is_shapeless(v)]
        if "shape" in message and shapeless:
            raise InvalidGraphError(
                f"{what} is not a valid ONNX model: {shapeless[0]!r} has no shape, and an input or output needs one, if only of "
                "symbols. Run onnx.shape_inference.infer_shapes on it, or export it again."
            ) from error
        raise InvalidGraphError(f"{what} is not a valid ONNX model: {message}") from error


def open_model(path: Path, *, light: bool = False) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A checked graph from a file, with what had to be repaired in the copy; ``light`` as in `load_model`.

    Inputs that only repeat weights, as files of IR version 3 list them, are left out: weights are constants here. What
    was repaired is said in a `FileWarning` too.

    Raises:
        GraphError: if the file cannot be read, contradicts itself, or fails the checker and cannot be repaired.
    """
    model = load_model(path, light=light)
    check_sound(model, str(path))
    plain = constants_for_defaults(model)
    try:
        if has_negative_size(plain):
            raise InvalidGraphError(f"{path} is not a valid ONNX model: an input or output has an axis of extent -1.")
        check_model(plain, str(path))
    except GraphError:
        fixed = repaired(plain)
        if not fixed.repairs:
            raise
        check_model(fixed.model, str(path))
        warnings.warn(f"{path}: repaired in a copy: {'; '.join(fixed.repairs)}.", FileWarning, stacklevel=2)
        return fixed.model, fixed.repairs
    return plain, ()


def read_onnx(path: Path | str, *, check: bool = True) -> OnnxArtifact:
    """Read back what an ONNX file holds.

    Args:
        path: the file.
        check: also check the graph and its seal, see `open_model`.

    Raises:
        GraphError: if the file cannot be read, or fails the checker.
    """
    path = Path(path)
    return describe(open_model(path, light=True)[0] if check else load_model(path, check_seal=False, light=True), path)


def describe(model: onnx.ModelProto, path: Path) -> OnnxArtifact:
    """The artifact of a loaded model whose bytes lie at ``path``."""
    domains = {o.domain: int(o.version) for o in model.opset_import}
    opset = domains.pop("", domains.pop("ai.onnx", 0))
    used = {n.domain for n in model.graph.node if n.domain not in ("", "ai.onnx")}
    metadata = entries_of(model)
    evidence = read_evidence(model)
    initializers = {i.name for i in model.graph.initializer}
    return OnnxArtifact(
        path=path,
        sha256=sha256_of(path),
        size=path.stat().st_size,
        opset=opset,
        ir_version=int(model.ir_version),
        inputs=tuple(_tensor_info(i) for i in model.graph.input if i.name not in initializers),
        outputs=tuple(_tensor_info(o) for o in model.graph.output),
        operators=dict(sorted(collections.Counter(n.op_type for n in model.graph.node).items())),
        parameters=sum(_count(i.dims) for i in model.graph.initializer),
        domains={d: v for d, v in domains.items() if d in used},
        metadata=metadata,
        record={} if evidence is None else evidence.record,
        evidence=evidence,
        seal=seal_state(model),
        data=_data_files(model, path),
    )


def _data_files(model: onnx.ModelProto, path: Path) -> dict[str, int]:
    """The files beside a graph that hold its weights, with their sizes."""
    files = {Path(e.value) for t in placed_tensors(model) for e in t.external_data if e.key == "location"}
    return {f.name: f.stat().st_size for f in sorted(files) if f != path.absolute() and f.is_file()}


def _is_shapeless(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def _count(dims: Any) -> int:
    total = 1
    for d in dims:
        total *= int(d)
    return total


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    shape: list[int | str | None] = []
    for d in tensor.shape.dim:
        kind = d.WhichOneof("value")
        shape.append(int(d.dim_value) if kind == "dim_value" else (d.dim_param or None) if kind else None)
    return TensorInfo(value.name, onnx.TensorProto.DataType.Name(tensor.elem_type).lower(), tuple(shape))
