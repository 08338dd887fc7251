"""`attn_deploy.package`: from a model's name, or a proven file, to a folder that stands alone."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from attn_deploy._version import __version__
from attn_deploy.deploy.package import standalone
from attn_deploy.deploy.package.docker import dockerfiles
from attn_deploy.deploy.package.evidence import evidence_accuracy_rows, evidence_html, evidence_markdown, latency_rows
from attn_deploy.deploy.package.facts import RowFacts, read_accuracy, read_profile
from attn_deploy.deploy.package.golden import Case, eager_runner, golden_bytes, golden_cases, golden_tolerance
from attn_deploy.deploy.package.labels import class_count, read_labels
from attn_deploy.deploy.package.request import PackageRequest, check_folder, served_name
from attn_deploy.deploy.package.triton import TENSORRT_OF, ServedTensor, TritonModel, check_engine, config_text
from attn_deploy.engine.artifact import EngineArtifact
from attn_deploy.engine.builder import build
from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import scratch_folder, sha256_of, to_disk
from attn_deploy.graph.artifact import OnnxArtifact, TensorInfo, open_model, read_onnx
from attn_deploy.graph.placed import exceeds_one_file
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.parity.graphs import graph_inputs
from attn_deploy.runtimes.base import Runner
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner, import_onnxruntime

Progress = Callable[[str], None]
SCHEMA_VERSION = 1
_CLIENTS = {"triton": ("images.py", "triton_infer.py"), "python": ("images.py", "infer.py")}
_NUMPY = {"float": "float32", "double": "float64"}


@dataclass(frozen=True, slots=True)
class Package:
    """A finished package.

    Attributes:
        path: the folder.
        manifest: what ``manifest.json`` holds.
    """

    path: Path
    manifest: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"path": str(self.path), **self.manifest}


@dataclass(frozen=True, slots=True)
class _Source:
    """The file of a package, and what is right."""

    artifact: OnnxArtifact
    inputs: tuple[TensorInput, ...]
    symbols: tuple[str, ...]
    reference: Runner | None
    words: str


def package(
    model: Path | str,
    path: Path | str,
    *,
    request: PackageRequest | None = None,
    progress: Progress | None = None,
    **export_options: Any,
) -> Package:
    """Make a package: the model with its clients, its server's configuration, golden inputs and its evidence.

    Nothing is written unless all of it is right: the folder is made beside its place and renamed into it.

    Args:
        model: an ONNX file, or the name of a model, which is exported first.
        path: the folder; it must not exist, or be empty.
        request: what goes in.
        progress: called with a few words at each step.
        **export_options: those of `attn_deploy.export`, where ``model`` is a name.

    Raises:
        InvalidRequestError: if the request cannot be used, or the folder is not empty.
        EngineMismatchError: if the server that is asked for cannot load the engine.
        ParityError: if the file is wrong on the golden inputs.
        AttnDeployError: what `attn_deploy.export` and `attn_deploy.build` raise.
    """
    wanted, folder = request or PackageRequest(), Path(path)
    notify = progress or (lambda _: None)
    check_folder(folder)
    import_onnxruntime()
    with scratch_folder(beside=folder.absolute()) as scratch:
        inner = scratch / "package"
        inner.mkdir()
        source = _source(model, inner / "model.onnx", wanted, export_options, notify)
        notify("running golden inputs")
        artifact = source.artifact
        precision = artifact.metadata.get("precision", "fp32")
        owner = str(artifact.record.get("model") or artifact.path.name)
        cases = golden_cases(artifact.path, source.inputs, source.symbols, source.reference, precision, owner)
        (inner / "golden.npz").write_bytes(golden_bytes(cases))
        engines = [_engine(inner, artifact.path, device, wanted, notify) for device in _devices(wanted)]
        manifest = _manifest(model, source, cases, engines, wanted)
        notify("writing clients and configuration")
        _write_parts(inner, manifest, artifact, engines, cases, wanted)
        _write_manifest(inner, manifest)
        for path in inner.rglob("*"):
            to_disk(path)
        try:
            if folder.is_dir():
                folder.rmdir()
            inner.replace(folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise InvalidRequestError(
                    f"{folder} was filled by something else while this package was made, and is left as it is. Choose "
                    "another folder, and run one command for each."
                ) from error
            raise InvalidRequestError(f"{folder} could not be written: {error.strerror or error}.") from error
        to_disk(folder.absolute().parent)
    return Package(folder, manifest)


def _source(
    model: Path | str, path: Path, wanted: PackageRequest, options: Mapping[str, Any], progress: Progress
) -> _Source:
    if str(model).lower().endswith(".onnx"):
        if options:
            raise InvalidRequestError(
                f"--{next(iter(options)).replace('_', '-')} is for models by name, and {model} is a finished file; export the "
                "model with it, and package that."
            )
        return _from_file(Path(model), path, wanted.reference)
    if wanted.reference is not None:
        raise InvalidRequestError("--reference is for files; a model by name is its own reference.")
    return _from_name(str(model), path, dict(options), progress)


def _from_file(source: Path, path: Path, reference: Path | None) -> _Source:
    artifact = read_onnx(source, check=False)
    if artifact.seal == "broken":
        artifact.check_seal()
    model, _ = open_model(source)
    if artifact.data:
        raise InvalidRequestError(
            f"{source} keeps its weights in another file; packages hold files of up to 2 GiB in one."
        )
    shutil.copyfile(source, path)
    inputs = graph_inputs(model)
    symbols = tuple(dict.fromkeys(s for i in inputs for s in i.symbols))
    eight_bits = artifact.metadata.get("precision") in ("int8", "fp8")
    if reference is not None and not eight_bits:
        open_model(reference, light=True)  # what it says of itself is checked before it is run
        runner: Runner | None = OnnxRuntimeRunner(reference)
        words = f"{reference.name} in ONNX Runtime"
    else:
        runner, words = None, "the file itself in ONNX Runtime; what it was made from is in its record"
    return _Source(read_onnx(path), inputs, symbols, runner, words)


def _from_name(model: str, path: Path, options: dict[str, Any], progress: Progress) -> _Source:
    from attn_deploy.exporters.options import ExportOptions
    from attn_deploy.exporters.pipeline import export_prepared
    from attn_deploy.exporters.prepare import prepare
    from attn_deploy.exporters.serving import parse_serving
    from attn_deploy.fusing.copying import bytes_of

    serving = parse_serving(
        options.pop("preprocess", None),
        options.pop("postprocess", None),
        options.pop("input_names", ()),
        options.pop("output_names", ()),
    )
    making = {k: options.pop(k) for k in ("inputs", "weights", "arguments") if k in options}
    precision = options.get("precision", "fp32")
    if options.get("opset") is None:
        options["opset"] = ExportOptions.default_opset(precision)
    settings = ExportOptions(**options)
    progress("preparing the model")
    prepared = prepare(
        model,
        dynamic=settings.dynamic,
        fuse=settings.fuse,
        rewrite=settings.rewrite,
        narrow=precision == "fp16",
        serving=serving,
        **making,
    )
    size = bytes_of(prepared.module)
    if exceeds_one_file(size) or settings.external_data:
        raise InvalidRequestError(
            f"{prepared.label}: its weights take {size / 1e9:.2f} GB, and a package holds a file of up to 2 GiB (2.15 GB) with "
            "its weights in it. Export the model, and deploy the graph with its data file yourself."
        )
    artifact = export_prepared(prepared, path, settings, progress=progress)
    runner = eager_runner(prepared)
    return _Source(artifact, prepared.inputs, prepared.dynamic, runner, "PyTorch in eager mode")


def _devices(wanted: PackageRequest) -> tuple[str | None, ...]:
    return wanted.devices or ((None,) if wanted.target is not None else ())


def _engine(folder: Path, onnx: Path, device: str | None, wanted: PackageRequest, progress: Progress) -> EngineArtifact:
    """An engine in ``engines/``, with its sidecar."""
    progress(f"building an engine for {device or wanted.target}")
    place = folder / "engines"
    place.mkdir(exist_ok=True)
    file = place / f"{Path(device).stem if device else 'target'}.engine"  # a device may be a file, as my/board.toml
    return build(onnx, file, device=device, targets=wanted.target)


def _manifest(
    model: Path | str, source: _Source, cases: list[Case], engines: list[EngineArtifact], wanted: PackageRequest
) -> dict[str, Any]:
    artifact, record = source.artifact, dict(source.artifact.record)
    evidence = artifact.evidence
    profile = () if wanted.profile is None else read_profile(wanted.profile)
    labels = () if wanted.labels is None else read_labels(wanted.labels, _classes(source.artifact))
    return {
        "schema_version": SCHEMA_VERSION,
        "name": wanted.name or served_name(_stem(model)),
        "attn_deploy": __version__,
        "inputs": [_tensor(t) for t in artifact.inputs],
        "outputs": [_tensor(t) for t in artifact.outputs],
        "multiple": dict(record.get("multiple") or {}),
        "opset": artifact.opset,
        "precision": artifact.metadata.get("precision", "fp32"),
        "preprocess": record.get("preprocess"),
        "postprocess": record.get("postprocess"),
        "labels": list(labels),
        "tolerance": golden_tolerance(artifact.metadata.get("precision", "fp32")),
        "golden": len(cases),
        "reference": source.words,
        "runtime": f"onnxruntime {import_onnxruntime().__version__}",
        "versions": dict(record.get("versions") or {}),
        "engines": [_engine_facts(e) for e in engines],
        "latency": latency_rows(profile),
        "accuracy": evidence_accuracy_rows([read_accuracy(p) for p in wanted.accuracy]),
        "record": json.loads(json.dumps(record, default=str)),
        "history": [dict(h) for h in evidence.history] if evidence is not None else [],
        "files": {},
    }


def _stem(model: Path | str) -> str:
    if str(model).lower().endswith(".onnx"):
        return Path(model).stem
    from attn_deploy.resolve.names import parse_name

    return parse_name(str(model)).stem


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    shape = ["?" if d is None else d for d in tensor.shape]
    return {"name": tensor.name, "dtype": _NUMPY.get(tensor.dtype, tensor.dtype), "shape": shape}


def _engine_facts(engine: EngineArtifact) -> dict[str, Any]:
    typed = next((t for t in ("int8", "fp8", "bf16", "fp16") if t in engine.precision), "fp32")
    return {
        "file": f"engines/{engine.path.name}",
        "flavor": engine.flavor,
        "version": engine.version,
        "targets": list(engine.targets),
        "precision": engine.precision,
        "tolerance": golden_tolerance("fp16" if typed == "fp32" and engine.options.tf32 else typed),
    }


def _write_parts(
    folder: Path,
    manifest: dict[str, Any],
    artifact: OnnxArtifact,
    engines: list[EngineArtifact],
    cases: list[Case],
    wanted: PackageRequest,
) -> None:
    scripts = Path(str(standalone.__file__)).parent
    shutil.copyfile(scripts / "verify.py", folder / "verify.py")
    for part in wanted.parts:
        for name in _CLIENTS.get(part, ()):
            (folder / "client").mkdir(exist_ok=True)
            shutil.copyfile(scripts / name, folder / "client" / name)
    if "triton" in wanted.parts:
        _write_repository(folder, manifest, artifact, engines, cases, wanted)
    if "docker" in wanted.parts:
        (folder / "docker").mkdir()
        texts = dockerfiles(manifest["name"], _pins(), (wanted.triton or max(TENSORRT_OF)).partition("=")[0])
        for name, text in texts.items():
            (folder / "docker" / name).write_text(text, encoding="utf-8")
    if manifest["labels"]:
        (folder / "labels.txt").write_text(
            "\n".join(manifest["labels"]) + "\n", encoding="utf-8", errors="backslashreplace"
        )


def _write_repository(
    folder: Path,
    manifest: dict[str, Any],
    artifact: OnnxArtifact,
    engines: list[EngineArtifact],
    cases: list[Case],
    wanted: PackageRequest,
) -> None:
    """``triton/NAME`` for the file, and ``triton/NAME-DEVICE`` for each engine."""
    common: dict[str, Any] = {
        "batch": wanted.max_batch,
        "preferred": () if wanted.profile is None else _preferred(read_profile(wanted.profile)),
        "labels": len(manifest["labels"]),
    }
    shapes = {n: a.shape for n, a in cases[0][0].items()}

    def write(model: TritonModel, file: Path, target: str) -> None:
        skip = 1 if model.max_batch else 0
        warm = {n: tuple(s[skip:]) for n, s in shapes.items()}
        text = config_text(TritonModel(**{**_fields(model), "warmup": warm}))
        place = folder / "triton" / model.name
        (place / "1").mkdir(parents=True)
        (place / "config.pbtxt").write_text(text, encoding="utf-8")
        shutil.copyfile(file, place / "1" / target)
        if manifest["labels"]:
            (place / "labels.txt").write_text(
                "\n".join(manifest["labels"]) + "\n", encoding="utf-8", errors="backslashreplace"
            )

    inputs = tuple(ServedTensor(t["name"], t["dtype"], tuple(t["shape"])) for t in manifest["inputs"])
    outputs = tuple(ServedTensor(t["name"], t["dtype"], tuple(t["shape"])) for t in manifest["outputs"])
    plain = TritonModel(name=manifest["name"], backend="onnxruntime", inputs=inputs, outputs=outputs, **common)
    write(plain, artifact.path, "model.onnx")
    for engine in engines:
        check_engine(engine.flavor, engine.version, wanted.triton)
        write(_plan_model(engine, f"{manifest['name']}-{engine.path.stem}", common), engine.path, "model.plan")


def _plan_model(engine: EngineArtifact, name: str, common: Mapping[str, Any]) -> TritonModel:
    largest = [r.maximum[0] for p in engine.profiles for r in p.ranges if r.maximum]
    return TritonModel(
        name=name,
        backend="tensorrt",
        inputs=tuple(ServedTensor(t.name, t.dtype, t.shape) for t in engine.inputs),
        outputs=tuple(ServedTensor(t.name, t.dtype, t.shape) for t in engine.outputs),
        engine_batch=max(largest, default=None),
        **common,
    )


def _fields(model: TritonModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in TritonModel.__dataclass_fields__}


def _pins() -> dict[str, str]:
    versions = {"numpy": "2.2.6", "pillow": "11.3.0", "onnxruntime": "1.22.1"}  # where this machine has none of them
    for name in versions:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _classes(artifact: OnnxArtifact) -> int | None:
    model, _ = open_model(artifact.path)
    return class_count(model, artifact.record)


def _preferred(rows: Sequence[RowFacts]) -> tuple[int, ...]:
    """The two batch sizes above one with the most items a second, in order of size."""
    speed: dict[int, float] = {}
    for row in rows:
        rate = 0.0 if row.summary is None else row.summary.items_per_second or 0.0
        if row.status == "ok" and rate and row.batch > 1:
            speed[row.batch] = max(rate, speed.get(row.batch, 0.0))
    return tuple(sorted(sorted(speed, key=lambda b: -speed[b])[:2]))


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """The page of evidence, then the manifest, which holds the hash of every other file and a seal over itself."""
    _hash_files(folder, manifest)
    (folder / "EVIDENCE.md").write_text(evidence_markdown(manifest), encoding="utf-8", errors="backslashreplace")
    (folder / "EVIDENCE.html").write_text(evidence_html(manifest), encoding="utf-8", errors="backslashreplace")
    _hash_files(folder, manifest)
    plain = json.loads(json.dumps(manifest))
    seal = sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**plain, "seal": seal}, indent=1), encoding="utf-8")


def _hash_files(folder: Path, manifest: dict[str, Any]) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    manifest["files"] = {
        str(p.relative_to(folder).as_posix()): {"size": p.stat().st_size, "sha256": sha256_of(p)} for p in files
    }
