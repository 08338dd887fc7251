"""A sound record of each kind that the product reads, with every field filled, and what is done with it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import onnx

from attn_deploy.accuracy.result import SCHEMA_VERSION as ACCURACY_VERSION
from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.bench import record as profile_record
from attn_deploy.bench.layers import LayerReport
from attn_deploy.bench.plan import ProfilePlan
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.cli.deploy import driven_commands
from attn_deploy.cli.streams import json_text
from attn_deploy.comparison.collection import named_runs
from attn_deploy.comparison.compare import compare_runs
from attn_deploy.comparison.overview import overview
from attn_deploy.conversion.preprocess import images_of_record
from attn_deploy.deploy.package.evidence import evidence_accuracy_rows, evidence_html, evidence_markdown, latency_rows
from attn_deploy.deploy.package.facts import AccuracyFacts, _Profile, read_accuracy, read_profile
from attn_deploy.deploy.package.make import _manifest, _Source
from attn_deploy.deploy.package.request import PackageRequest
from attn_deploy.diagnosis.contents import inspect
from attn_deploy.engine.artifact import EngineArtifact, _Sidecar
from attn_deploy.graph.artifact import OnnxArtifact, read_onnx
from attn_deploy.graph.evidence import METADATA_PREFIX, write_evidence
from attn_deploy.machine.devices import DeviceProfile, read_device
from attn_deploy.matrix import record as matrix_record
from attn_deploy.matrix.diff import diff_records
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.record import MatrixRecord, _RecordData
from attn_deploy.pipeline.settings import read_settings
from attn_deploy.report.accuracy import accuracy_report, training_text
from attn_deploy.report.accuracy_page import accuracy_html
from attn_deploy.report.engine import engine_text
from attn_deploy.report.inspection import graph_text
from attn_deploy.report.matrix.html import matrix_html
from attn_deploy.report.matrix.tables import matrix_csv, matrix_junit, matrix_markdown
from attn_deploy.report.matrix.terminal import matrix_summary
from attn_deploy.report.matrix.text import matrix_diff_text
from attn_deploy.report.profile.html import profile_html
from attn_deploy.report.profile.tables import profile_csv, profile_json, profile_markdown
from attn_deploy.report.profile.terminal import profile_report
from attn_deploy.report.profile.text import known_text, profile_diff_text
from attn_deploy.report.text import conversion_text, devices_text
from attn_deploy.training.deployed import _DeployedFile, read_deployed
from attn_deploy.training.plan import TablePlan
from attn_deploy.training.record import TrainingRecord
from export_tests.reading.fields import Kind, filled, toml


def of_file(name: str, read: Any) -> Any:
    """A reader of data by way of a file, whose path is removed from messages."""

    def through(data: Any) -> Any:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_text(json.dumps(data))
            return read(path)

    return through


def of_toml(name: str, read: Any) -> Any:
    """As `of_file`, where TOML can say it."""

    def through(data: Any) -> Any:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_text(toml(data))
            return read(path)

    return through


def evidence_reader(data: Any) -> OnnxArtifact:
    """A small file whose metadata are these entries, as text or as JSON."""
    import tempfile

    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 3, "H", "W"]) for n in ("x", "y")]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    for key, value in data.items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=f"{METADATA_PREFIX}{key}", value=text.encode(errors="backslashreplace"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.onnx")
        onnx.save(model, path)
        artifact = read_onnx(path)
        assert graph_text(inspect(path))
    return artifact


def strict(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def use_evidence(artifact: OnnxArtifact) -> None:
    """All that a command shows of evidence that came with a file, or does by it."""
    evidence = artifact.evidence
    assert evidence is not None
    images_of_record(evidence.record)
    further = onnx.ModelProto()
    write_evidence(further, evidence.after("opset", {"from": 17, "to": 18}, opset=18))
    assert json.loads(json_text(artifact.to_dict()), parse_constant=strict)
    source = _Source(artifact, (), (), None, "the float file")  # type: ignore[arg-type]
    manifest = _manifest("m.onnx", source, [], [], PackageRequest())
    manifest["files"]["model.onnx"] = {"size": 1, "sha256": "0"}
    assert evidence_html(manifest)
    assert evidence_markdown(manifest)
    with contextlib.suppress(LookupError):  # what a conversion shows is its own note, which it has just written
        assert conversion_text(artifact)


def use_profile(record: ProfileRecord) -> None:
    runs = named_runs([(Path("a.json"), record, ())])
    whole = overview(runs)
    for show in (profile_html, profile_markdown, profile_csv, profile_json, known_text):
        assert show(whole)
    assert profile_report(record, 120) is not None
    assert profile_diff_text(compare_runs(runs, runs))
    assert record.to_json()


def use_accuracy(result: AccuracyResult) -> None:
    assert accuracy_report([result]) is not None
    assert accuracy_html([result])
    assert json.dumps(result.to_dict(), allow_nan=False)
    assert result.compared_with(result)
    assert 0 <= result.top5 <= 1


def use_matrix(record: MatrixRecord) -> None:
    for show in (matrix_html, matrix_markdown, matrix_csv, matrix_junit):
        assert show(record)
    assert matrix_summary(record) is not None
    assert matrix_diff_text(diff_records(record, record))
    assert record.to_json()


def use_engine(artifact: EngineArtifact) -> None:
    assert engine_text(artifact)
    assert artifact.rebuild_command
    assert json.dumps(artifact.to_dict(), allow_nan=False)


def _sidecar_reader(data: Any) -> EngineArtifact:
    return EngineArtifact.from_dict(data, Path("m.engine"))


COMMANDS = driven_commands()
MATRIX = {
    "models": ["se"], "exporters": ["dynamo"], "opsets": [17], "precisions": ["fp32"], "runtimes": ["ort"], "engine_opset": 17,
    "inputs": [], "dynamic": ["all"],
}  # fmt: skip
KINDS: dict[str, Kind] = {
    "evidence": Kind(
        json.loads(Path(__file__).with_name("evidence.json").read_text("utf-8")),
        evidence_reader,
        use_evidence,
        free=frozenset({"arguments"}),
    ),
    "profile": Kind(
        {
            "schema_version": profile_record.SCHEMA_VERSION,
            **filled(
                ProfileRecord,
                {
                    "status": "ok",
                    "runtime": "ort-cpu",
                    "size": [32, 32],
                    "shapes": {"x": [3, 3, 32, 32]},
                    "correct": 2,
                    "baseline": "eager",
                    "created": "2026-11-23T00:00:00Z",
                    "verdict": "faster",
                    "confidence": 0.95,
                    "schema_version": profile_record.SCHEMA_VERSION,
                    "onnx": [{"sha256": "0", "made": "given", "nodes": 3, "fused": ["x"], "opset": 17, "library": ""}],
                },
            ),
        },
        ProfileRecord.from_dict,
        use_profile,
    ),
    "layers": Kind(filled(LayerReport, {}), LayerReport.from_dict),
    "profile's plan": Kind(
        filled(ProfilePlan, {"values": [], "runtimes": ["eager"], "precisions": ["fp32"]}),
        ProfilePlan.from_dict,
        free=frozenset({"arguments"}),
    ),
    "profile in a package": Kind(
        filled(_Profile, {"status": "ok"}), of_file("record.json", read_profile), latency_rows
    ),
    "accuracy": Kind(
        {
            "schema_version": ACCURACY_VERSION,
            **filled(AccuracyResult, {"labels": [0, 1], "predictions": [0, 0], "classes": ["a", "b"], "in_top5": 2}),
        },
        AccuracyResult.from_dict,
        use_accuracy,
    ),
    "accuracy in a package": Kind(
        filled(AccuracyFacts, {"labels": [0, 1], "predictions": [0, 0]}),
        of_file("accuracy.json", read_accuracy),
        lambda facts: evidence_accuracy_rows([facts]),
    ),
    "matrix": Kind(
        {
            "schema_version": matrix_record.SCHEMA_VERSION,
            **filled(
                _RecordData,
                {
                    "options": filled(MatrixOptions, MATRIX),
                    "checks": [["export", "passed", "", 0.5], ["parity", "failed", "off", 0.5]],
                    "status": "failed",
                    "dynamic": "all",
                    "rule": None,
                    "shard": [1, 1],
                    "found": {},
                    "opset": 17,
                },
            ),
        },
        MatrixRecord.from_dict,
        use_matrix,
        free=frozenset({"found"}),
    ),
    "matrix's options": Kind(filled(MatrixOptions, MATRIX), MatrixOptions.from_dict),
    "training run": Kind(
        filled(TrainingRecord, {"correct": 2, "file": "model.safetensors"}), TrainingRecord.from_dict, training_text
    ),
    "table's plan": Kind(
        {"schema_version": 1, **filled(TablePlan, {})},
        of_file("table.json", lambda path: TablePlan.read(path.parent)),
    ),
    "deployed": Kind({"schema_version": 1, **filled(_DeployedFile, {})}, of_file("deployed.json", read_deployed)),
    "device": Kind(filled(DeviceProfile, {}), DeviceProfile.from_dict, lambda device: devices_text([device])),
    "device's file": Kind(
        filled(
            DeviceProfile,
            {
                "kind": "gpu",
                "precisions": ["fp32"],
                "peaks_tflops": {"fp32": 1.0},
                "compute_capability": "8.9",
                "batch": [1, 2, 3],
            },
        ),
        of_toml("board.toml", read_device),
        lambda device: devices_text([device]),
    ),
    "pipeline's file": Kind(
        {
            "model": "net.py:Net",
            "output": "out",
            "export": {"opset": 17, "dynamic": "N", "simplify": False},
            "quantize": {"images": 3, "keep_accuracy": 0.5, "scores": ["y"]},
            "profile": {"seconds": 0.5, "batch": [1, 8]},
            "build": [{"device": "rtx4090", "tf32": True}],
            "evaluate": {"images": 5},
            "gates": {"max_latency_ms": 1.0, "min_top1": 0.5, "max_size_mb": 3},
        },
        of_toml("deploy.toml", lambda path: read_settings(path, COMMANDS)),
    ),
    "engine": Kind(
        filled(_Sidecar, {"hardware_compat": "none", "targets": ["sm86"], "flavor": "tensorrt-rtx"}),
        _sidecar_reader,
        use_engine,
    ),
}
