"""The ONNX files that a profile times: the user's own, or exported and converted for the occasion."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_deploy import errors
from attn_deploy.bench.subject import ProfileSubject, is_engine
from attn_deploy.errors import AttnDeployError, InvalidRequestError, MissingDependencyError, PrecisionError, WorkerError
from attn_deploy.files import write_atomic
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.reading import read_json, typed

if TYPE_CHECKING:
    import onnx

    from attn_deploy.data import ImageSet

SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "float64": "fp64"}
# By ONNX element type; int8 is how Q/DQ graphs hold their weights, uint8 how some of them do.
_PRECISIONS = {1: "float32", 2: "int8", 3: "int8", 10: "float16", 11: "float64", 16: "bfloat16"}
_COARSEST_FIRST = ("int8", "bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Made:
    """One file, or why there is none.

    Attributes:
        asked: precision asked for; empty for the model as it is.
        fixed: extents that it serves alone: numbers in the file, and the size of the noise that ranges were measured on.
        path: where it lies.
        precision: found in its weights.
        seconds: that it took to make; 0 for the user's own.
        described: for the record.
        error: class and message of what prevented it.
        target: cpu or gpu, of a file that was quantized for one; empty for others, which serve all.
    """

    asked: str
    fixed: Mapping[str, int]
    path: str = ""
    precision: str = ""
    seconds: float = 0.0
    described: Mapping[str, Any] | None = None
    error: tuple[str, str] | None = None
    target: str = ""

    def serves(self, inputs: Sequence[TensorInput], precision: str, target: str = "") -> bool:
        """Whether it takes these inputs in this precision, in the form of this target."""
        fits = self.asked == precision and self.target in ("", target)
        return fits and all(inputs[0].sizes.get(s, n) == n for s, n in self.fixed.items())


class OnnxFiles:
    """Gives the file for a shape and a precision, and makes it when there is none yet that moves that far.

    What is made is noted in the folder, for the other processes of the same profile: one exports, all run it.

    Args:
        subject: what is profiled.
        folder: where exported files go, and the note of them.
        opset: of exported files; None for the exporter's default.
        dynamic: symbols that move in exported files. None: all that a registry model allows, and the batch alone of a
            user's own model, of which nothing is known.
        progress: called with a few words at each step.
        calibration: gives what int8 ranges are measured on.
        own: the user's file, where the subject does not have it.
    """

    def __init__(
        self,
        subject: ProfileSubject,
        folder: Path,
        *,
        opset: int | None,
        dynamic: Sequence[str] | None,
        progress: Callable[[str], None],
        calibration: Callable[[], str | ImageSet | None] = lambda: None,
        own: str | None = None,
    ) -> None:
        self._calibration = calibration
        self._subject, self._folder, self._opset = subject, folder, opset
        if dynamic is None and subject.model is not None and subject.model.spec is None:
            dynamic = [s for s in subject.movable if s[0] == "N"]
        self._dynamic, self._progress = dynamic, progress
        self._raised: dict[int, Exception] = {}  # the errors themselves, where they were raised in this process
        self._made = read_index(folder, subject.onnx or own)

    def made(self, inputs: tuple[TensorInput, ...], precision: str = "", target: str = "cpu") -> Made:
        """A file that takes these inputs, in this precision; where it is quantized for that, in the form of the target.

        Raises:
            ExportError, ParityError, PrecisionError, MissingDependencyError: as `attn_deploy.export`.
        """
        for index, file in enumerate(self._made):
            if file.serves(inputs, precision, target):
                if file.error is not None:  # it would fail again at the next batch size, minutes later
                    raise self._raised.get(index) or _error(file.error)
                return file
        started = time.perf_counter()
        try:
            path, fixed, how = self._make(inputs, precision, target)
        except Exception as error:
            self._raised[len(self._made)] = error
            if not isinstance(error, MissingDependencyError):
                words = (type(error).__name__, " ".join(str(error).split()))
                self._note(Made(precision, {}, error=words, target=target if precision == "int8" else ""))
            raise
        seconds = 0.0 if path == self._subject.onnx else time.perf_counter() - started
        described = self._describe(path, fixed, how, precision, seconds)
        return self._note(replace(described, target=target if precision == "int8" and how != "given" else ""))

    def described(self) -> tuple[Mapping[str, Any], ...]:
        """What was used, for the record."""
        return described_in(self._made)

    def _make(self, inputs: tuple[TensorInput, ...], precision: str, target: str) -> tuple[Path, dict[str, int], str]:
        given = self._subject.onnx
        if given is None:
            return self._exported(inputs, precision, target)
        if is_engine(given) or precision in ("", SHORT[weights_precision(_load(given))]):
            return given, {}, "given"
        suffix = f"-{target}" if precision == "int8" else ""
        source, made = given, self._folder / f"model-{precision}{suffix}-{len(self._made)}.onnx"
        fixed = self._convert(source, made, precision, target, inputs)
        return made, fixed, f"converted to {precision}{suffix.replace('-', ' for ', 1)} for this profile"

    def _exported(
        self, inputs: tuple[TensorInput, ...], precision: str, target: str
    ) -> tuple[Path, dict[str, int], str]:
        if precision == "int8":
            source = self.made(inputs, "fp32" if any(m.asked == "fp32" for m in self._made) else "")
            path = self._folder / f"model-int8-{target}-{len(self._made)}.onnx"
            fixed = self._convert(Path(source.path), path, precision, target, inputs)
            return path, {**source.fixed, **fixed}, f"exported and quantized for {target} for this profile"
        from attn_deploy.exporters.options import ExportOptions
        from attn_deploy.exporters.pipeline import export_prepared
        from attn_deploy.exporters.prepare import prepare

        model = self._subject.model
        if model is None:
            raise ValueError("a subject without a file has a model")
        kind = precision or "fp32"
        options = ExportOptions(
            opset=self._opset if self._opset is not None else ExportOptions.default_opset(kind),
            dynamic=tuple(self._dynamic) if self._dynamic is not None else None,
            precision=kind,
        )
        self._progress(f"exporting the {kind} file to time")
        prepared = prepare(model, inputs=inputs, dynamic=options.dynamic, narrow=kind == "fp16")
        path = self._folder / f"model-{kind}-{len(self._made)}.onnx"
        export_prepared(prepared, path, options, progress=self._progress)
        fixed = {s: n for s, n in inputs[0].sizes.items() if s not in prepared.dynamic}
        return path, fixed, "exported for this profile"

    def _convert(
        self, source: Path, path: Path, precision: str, target: str, inputs: tuple[TensorInput, ...]
    ) -> dict[str, int]:
        """Make the file; the extents that it is good for alone: without images, ranges are those of noise at one size."""
        self._progress(f"converting to {precision}")
        if precision != "int8":
            from attn_deploy.conversion.convert import convert

            convert(source, path, precision=precision, samples=self._subject.samples)
            return {}
        from attn_deploy.conversion.quantize import quantize_file
        from attn_deploy.graph.quantize import QuantOptions

        form = QuantOptions(target="cpu" if target == "cpu" else "gpu")
        owner = self._subject.name if self._subject.onnx is None else None  # a file of ours, of which nobody knows
        calibration = self._calibration()
        quantize_file(
            source,
            path,
            precision=precision,
            calibration=calibration,
            inputs=[f"{i.name}:{'x'.join(map(str, i.shape()))}" for i in inputs] if calibration is None else (),
            samples=self._subject.samples if calibration is None else (),
            form=form,
            owner=owner,
            progress=self._progress,
        )
        return {} if calibration is not None else {s: n for s, n in inputs[0].sizes.items() if s[0] != "N"}

    def _describe(self, path: Path, fixed: dict[str, int], how: str, wanted: str, seconds: float) -> Made:
        if is_engine(path):
            return _engine(path, fixed, wanted)
        from attn_deploy.graph.artifact import read_onnx

        artifact = read_onnx(path)
        model = _load(path)
        precision = weights_precision(model)
        if wanted not in ("", SHORT[precision]) and has_weights(model):
            raise PrecisionError(f"{wanted} was asked for, and the weights of the file that was made are {precision}.")
        described = {
            "path": str(path) if how == "given" else None,
            "made": how,
            "sha256": artifact.sha256,
            "opset": artifact.opset,
            "nodes": artifact.nodes,
            "weights": precision,
            "dynamic_axes": list(artifact.dynamic_axes),
            "exporter": artifact.metadata.get("exporter"),
            "fused": [f"{place or '(model)'} {words}" for place, words in artifact.record.get("fused", ())],
        }
        return Made(wanted, fixed, str(path.absolute()), precision, seconds, described)

    def _note(self, file: Made) -> Made:
        self._made.append(file)
        write_atomic(self._folder / "index.json", json.dumps([asdict(m) for m in self._made], indent=1) + "\n")
        return file


def _engine(path: Path, fixed: dict[str, int], precision_asked: str) -> Made:
    """The user's engine, as its sidecar says."""
    from attn_deploy.engine.artifact import read_engine

    engine = read_engine(path)
    first = engine.precision.split("+")[0]
    described: dict[str, Any] = {
        "path": str(path),
        "made": "given",
        "sha256": engine.sha256,
        "weights": engine.precision,
        "opset": None,
        "nodes": engine.network.layers,
        "fused": [],
        "library": f"{engine.flavor} {engine.version}",
    }
    precision = next((long for long, short in SHORT.items() if short == first), first)
    return Made(precision_asked, fixed, str(path.absolute()), precision, 0.0, described)


def read_index(folder: Path, own: Path | str | None = None) -> list[Made]:
    """What was made in a folder, by this process or another.

    Files elsewhere are left out, but for the user's ``own``: a folder comes from anywhere, and must not say what to load.
    """
    path = folder / "index.json"
    if not path.is_file():
        return []
    try:
        entries = typed(read_json(path), tuple[Made, ...])
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{path} is broken: {error} Remove it; the files are made again.") from error
    places = {str(folder.absolute())} | ({str(Path(own).absolute())} if own is not None else set())
    return [m for m in entries if not m.path or m.path in places or str(Path(m.path).parent) in places]


def described_in(files: Sequence[Made]) -> tuple[Mapping[str, Any], ...]:
    """The descriptions of those that were made."""
    return tuple(m.described for m in files if m.described is not None)


def weights_precision(model: onnx.ModelProto) -> str:
    """The least precise type among the graph's weights; float32 for a graph that has none.

    A graph converted to half precision keeps softmax and norms in float32 and its inputs may be float32 too, so neither
    the inputs nor a majority tells how exact its results can be. Scalars do not count: they are eps and scales. Integers
    count where they are dequantized: elsewhere they are indices.
    """
    dequantized = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    held = {
        _PRECISIONS[i.data_type]
        for i in model.graph.initializer
        if i.data_type in _PRECISIONS and len(i.dims) > 1 and (i.data_type not in (2, 3) or i.name in dequantized)
    }
    return next((p for p in _COARSEST_FIRST if p in held), "float32")


def has_weights(model: onnx.ModelProto) -> bool:
    """Whether the precision of a graph can be told from its weights."""
    return any(i.data_type in _PRECISIONS and len(i.dims) > 1 for i in model.graph.initializer)


def _load(path: Path) -> onnx.ModelProto:
    from attn_deploy.graph.artifact import load_model

    return load_model(path, light=True)


def _error(noted: tuple[str, str]) -> Exception:
    """An error that another process met, with its class where it is one of ours."""
    kind = getattr(errors, noted[0], None)
    if isinstance(kind, type) and issubclass(kind, AttnDeployError):
        return kind(noted[1])
    return WorkerError(f"{noted[0]}: {noted[1]}")
