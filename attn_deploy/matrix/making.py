"""One cell in this process, through the same steps as `attn_deploy.export` and `attn_deploy.build`.

What a group shares: the prepared model, its trace, the eager outputs that files are compared with, and an exporter's
translation where several opsets come from one. Everything else, from conversion to the comparison of the finished file,
is done for each cell.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attn_deploy.conversion.quantize import quantize_file
from attn_deploy.errors import (
    AttnDeployError,
    DynamicAxisError,
    GraphError,
    InvalidRequestError,
    MissingDependencyError,
    NoDeviceError,
    NothingToConvertError,
    OperatorError,
    OpsetError,
    ParityError,
    exit_error,
)
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.pipeline import export_prepared
from attn_deploy.exporters.prepare import prepare
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.files import scratch_folder
from attn_deploy.graph.artifact import OnnxArtifact, describe, load_model
from attn_deploy.graph.operators import CONTROL_FLOW, all_nodes, unlisted_operators
from attn_deploy.graph.simplify import SIMPLIFIER
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.isolate import call_here
from attn_deploy.matrix.cell import FAILED, PASSED, SKIPPED, Cell, CellId, Check, skipped
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.plan import in_registry
from attn_deploy.resolve.names import parse_name
from attn_deploy.rules.rules import explain

DYNAMIC_AXES: Mapping[str, tuple[str, ...] | None] = {"none": (), "batch": ("N",), "all": None}
_ENGINE_MODULES = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}

_HALVES = ("fp16", "bf16")

_prepared: dict[tuple[str, str, tuple[str, ...], bool], PreparedModel | AttnDeployError] = {}


def make_cell_data(cell: CellId, options: MatrixOptions, key: str, *, timeout: float, careful: bool) -> dict[str, Any]:
    """As `make_cell`, with JSON-ready data as result: what a worker process runs.

    Args:
        cell: what to make.
        options: of the matrix.
        key: what `attn_deploy.matrix.keys.cell_key` gives; noted in the result.
        timeout: seconds for an engine build.
        careful: run the simplifier in a process of its own, as an export does; a worker that can be ended needs that
            only after it died.
    """
    call_here(() if careful else (SIMPLIFIER,))
    try:
        return make_cell(cell, options, key, timeout=timeout).to_dict()
    finally:
        call_here(())


def make_cell(cell: CellId, options: MatrixOptions, key: str = "", *, timeout: float = 300.0) -> Cell:
    """Export, read back, compare and build one cell. Whatever goes wrong is in the result."""
    started = time.perf_counter()
    checks: list[Check] = []
    facts: dict[str, Any] = {}
    kind, rule = "", None
    with scratch_folder() as folder:
        try:
            grey = _make(cell, options, Path(folder), checks, facts, timeout)
        except AttnDeployError as error:
            kind, rule, grey = type(error).__name__, error.rule, ""
            message = str(error).replace(f"{folder}/model.onnx", cell.model)
            checks.append(Check(_check_of(error, checks), FAILED, _short(message)))
        except SystemExit as error:
            kind, grey = type(error).__name__, ""
            checks.append(Check(_next(checks), FAILED, _short(f"{cell.model}: {exit_error(error)}")))
        except Exception as error:  # a defect of ours or of a library: it belongs to this cell, not to the whole run
            kind, grey = type(error).__name__, ""
            checks.append(Check(_next(checks), FAILED, _short(f"{kind}: {error}")))
    if grey:
        return skipped(cell, grey, key)
    seconds = round(time.perf_counter() - started, 3)
    return Cell(id=cell, checks=tuple(checks), kind=kind, rule=rule, seconds=seconds, key=key, found=facts)


def _make(
    cell: CellId, options: MatrixOptions, folder: Path, checks: list[Check], facts: dict[str, Any], timeout: float
) -> str:
    """Fill in what is found; a reason is returned where the cell does not apply."""
    started = time.perf_counter()
    try:
        prepared = _prepare(cell, options)
    except MissingDependencyError as error:
        return _short(str(error))
    except InvalidRequestError as error:
        if not _of_a_pattern(cell, options):
            raise
        return _short(str(error))  # the module does not fit this backbone; nobody asked for the two together
    except DynamicAxisError as error:
        if error.exit_code != 2:
            raise
        return _short(str(error))  # the axis that was asked for is part of the model
    path = folder / "model.onnx"
    half = cell.precision if cell.precision in _HALVES else "fp32"
    export_options = ExportOptions(opset=cell.opset, exporter=cell.exporter, precision=half)
    try:
        artifact = export_prepared(prepared, path, export_options)
    except NothingToConvertError as error:
        return _short(str(error))
    checks.append(Check("export", PASSED, _made(artifact), round(time.perf_counter() - started, 3)))
    started = time.perf_counter()
    if cell.precision == "int8":
        try:
            artifact = quantize_file(artifact, folder / "model-int8.onnx")
        except NothingToConvertError as error:
            return _short(str(error).replace(str(path), cell.model))
    facts.update(_read_back(cell, prepared, artifact, checks))
    if cell.precision != "fp32":
        seconds = round(time.perf_counter() - started, 3)
        checks.append(Check("precision", PASSED, f"converted to {cell.precision} and compared", seconds))
    if options.builds_engine(cell.opset):
        for runtime in options.engine_runtimes:
            _build(runtime, artifact, folder, checks, facts, timeout)
    return ""


def _of_a_pattern(cell: CellId, options: MatrixOptions) -> bool:
    """Whether the model is one of ``resnet18+*``: a backbone and a module that were not named together."""
    return "+" in cell.model and cell.model not in [w.strip() for w in options.models]


def _prepare(cell: CellId, options: MatrixOptions) -> PreparedModel:
    narrow = cell.precision == "fp16"  # the forms that stay within its range
    key = (cell.model, cell.dynamic, options.inputs, narrow)
    if key not in _prepared:
        _prepared.clear()  # groups come one after another, and a large model with its trace is a gigabyte
        try:
            foreign = not in_registry(parse_name(cell.model))
            inputs = parse_inputs(options.inputs) if options.inputs and foreign else None
            axes = DYNAMIC_AXES[cell.dynamic]
            _prepared[key] = prepare(cell.model, inputs=inputs, dynamic=axes, narrow=narrow, strict=True)
        except AttnDeployError as error:
            _prepared[key] = error
    prepared = _prepared[key]
    if isinstance(prepared, AttnDeployError):
        raise prepared.with_traceback(None)
    return prepared


def forget() -> None:
    """Drop the prepared model that is kept between cells."""
    _prepared.clear()


def _made(artifact: OnnxArtifact) -> str:
    record = artifact.record
    written = record["opset_written"]
    text = f"{artifact.nodes} nodes, {artifact.size:,} bytes"
    return text if written == artifact.opset else f"{text}, converted from opset {written}"


def _read_back(cell: CellId, prepared: PreparedModel, artifact: OnnxArtifact, checks: list[Check]) -> dict[str, Any]:
    """The promises of the finished file, each looked up in the file itself."""
    started = time.perf_counter()
    model = load_model(artifact.path)
    again = describe(model, artifact.path)
    if again.sha256 != artifact.sha256:
        raise GraphError(f"{cell.model}: the file changed after it was checked.")
    if again.opset != cell.opset:
        raise OpsetError(f"{cell.model}: asked for opset {cell.opset}, the file has opset {again.opset}.")
    checks.append(Check("opset", PASSED, f"{again.opset}, IR version {again.ir_version}"))
    checks.append(Check("checker", PASSED, "full check with shape inference"))  # by the export, of these bytes
    checks.append(_axes(cell, prepared, again))
    flow = sorted({n.op_type for n in all_nodes(model.graph)} & CONTROL_FLOW)
    unlisted = unlisted_operators(model)
    if flow or unlisted:
        raise OperatorError(
            f"{cell.model}: the file holds {', '.join(flow or unlisted)}, which is "
            + ("control flow." if flow else "not among the operators that runtimes and engines are known to take.")
        )
    checks.append(Check("operators", PASSED, ", ".join(again.operators), round(time.perf_counter() - started, 3)))
    checks.append(_parity(cell, prepared, artifact))
    parity = artifact.record.get("parity") or {}
    return {
        "sha256": again.sha256,
        "bytes": again.size,
        "nodes": again.nodes,
        "opset_written": artifact.record.get("opset_written"),
        "error": parity.get("max_abs_error"),
        "simplifier": artifact.record.get("simplifier"),
    }


def _axes(cell: CellId, prepared: PreparedModel, artifact: OnnxArtifact) -> Check:
    for written, declared in zip(artifact.inputs, prepared.inputs, strict=True):
        for axis, (dim, symbol) in enumerate(zip(written.shape, declared.dims, strict=True)):
            if prepared.moves(symbol) != (not isinstance(dim, int)):
                reason = artifact.record.get("fixed", {}).get(symbol, "")
                cause = explain(reason) if reason else None
                if reason and prepared.moves(symbol):
                    raise DynamicAxisError(
                        f"{cell.model}: {symbol} stays {dim}: {reason}", rule=cause.id if cause is not None else None
                    )
                raise DynamicAxisError(
                    f"{cell.model}: axis {axis} ({symbol}) of input {written.name!r} is {dim} in the file and was asked to "
                    + ("move." if prepared.moves(symbol) else "be fixed.")
                )
    return Check("axes", PASSED, ", ".join(artifact.dynamic_axes) or "none asked for")


def _parity(cell: CellId, prepared: PreparedModel, artifact: OnnxArtifact) -> Check:
    parity, shapes = artifact.record.get("parity"), artifact.record.get("verified_shapes", ())
    if not parity or (prepared.dynamic and len(shapes) < 3):
        raise ParityError(f"{cell.model}: the file was compared at {len(shapes)} shapes that were not traced, of 3.")
    return Check("parity", PASSED, f"error {parity['max_abs_error']:.3g} over {parity['cases']} shapes")


def _build(
    runtime: str, artifact: OnnxArtifact, folder: Path, checks: list[Check], facts: dict[str, Any], timeout: float
) -> None:
    if importlib.util.find_spec(_ENGINE_MODULES[runtime]) is None:
        checks.append(Check("engine", SKIPPED, f"{runtime} is not installed"))
        return
    from attn_deploy.engine.builder import build

    started = time.perf_counter()
    try:
        engine = build(artifact, folder / f"model-{runtime}.engine", flavor=runtime, timeout=timeout)
    except (MissingDependencyError, NoDeviceError) as error:
        checks.append(Check("engine", SKIPPED, _short(str(error))))
        return
    seconds = round(time.perf_counter() - started, 3)
    facts["engine_bytes"] = engine.size
    checks.append(Check("engine", PASSED, f"{runtime} {engine.version}, {engine.precision}", seconds))


def _next(checks: list[Check]) -> str:
    order = ("export", "opset", "checker", "axes", "operators", "parity", "engine")
    return next((n for n in order if n not in {c.name for c in checks}), "export")


def _check_of(error: AttnDeployError, checks: list[Check]) -> str:
    """The check that an error belongs to: the export makes most of the later checks itself, and earlier."""
    return _next(checks) if checks and checks[0].name == "export" else error.check


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 600 else f"{text[:600]}..."
