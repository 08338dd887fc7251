"""What each precision costs in accuracy: a trained network's files against its fp32 file, on every test image.

    python benchmarks/precision_accuracy.py RUN [RUN ...] [--data-dir DIR] [--output RECORD.json | --render RECORD.json]

RUN is the folder of a training run. The fp32 file is exported and converted to fp16 and bf16, and quantized to int8 with
each calibration method, with a bound on the loss, and to fp8. All run in ONNX Runtime on the CPU on the same images; bf16
and fp8, for which it lacks kernels, as what the file says: bf16 with every result rounded, fp8 with its pairs computed
one by one. Differences are tested by McNemar's paired test.

Exit code 1: fp16 loses more than 0.1 point, or int8 more than 0.5.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import onnx

import attn_deploy
from attn_deploy.accuracy.predict import run_dataset
from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.data import load_dataset
from attn_deploy.files import write_atomic
from attn_deploy.graph.artifact import OnnxArtifact, load_model
from attn_deploy.graph.precision import rounded
from attn_deploy.machine.environment import describe_environment
from attn_deploy.resolve.names import parse_name
from attn_deploy.resolve.trained import load_trained
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

SCHEMA_VERSION = 1
BOUNDS = {"fp16": 0.1, "int8 auto": 0.5}


@dataclass(frozen=True, slots=True)
class Row:
    """One file on all test images.

    Attributes:
        model, dataset, source: what was trained, on what, and what those images are.
        precision: with the calibration method, for 8 bits.
        arithmetic: how it was computed here.
        correct, images: right answers; ``correct_fp32`` those of the fp32 file.
        same: answers that are those of the fp32 file.
        p_value: of McNemar's test; None for the fp32 file itself.
        bytes: size of the file.
        in_float: products that were left in float because they are sensitive.
    """

    model: str
    dataset: str
    source: str
    precision: str
    arithmetic: str
    correct: int
    images: int
    correct_fp32: int
    same: int
    p_value: float | None
    bytes: int
    in_float: int = 0

    @property
    def lost(self) -> float:
        """Points of top-1 lost against fp32."""
        return 100.0 * (self.correct_fp32 - self.correct) / self.images


def measure(run: Path, folder: Path, data_dir: Path | None) -> list[Row]:
    """All rows of one trained network."""
    trained = load_trained(parse_name(str(run)))
    images = trained.prepared(load_dataset(trained.dataset, "test", data_dir=data_dir))
    training = trained.prepared(load_dataset(trained.dataset, "train", data_dir=data_dir))
    float_file = attn_deploy.export(str(run), folder / "fp32.onnx")
    reference = _result(float_file, images)

    def quantized(precision: str, **options: Any) -> Callable[[Path], OnnxArtifact]:
        return lambda path: attn_deploy.quantize(float_file, path, precision=precision, calibration=training, **options)

    def half(precision: str) -> Callable[[Path], OnnxArtifact]:
        return lambda path: attn_deploy.convert(float_file, path, precision=precision)

    makers: dict[str, Callable[[Path], OnnxArtifact]] = {
        "fp32": lambda _: float_file,
        "fp16": half("fp16"),
        "bf16": half("bf16"),
        **{f"int8 {m}": quantized("int8", method=m) for m in ("minmax", "entropy", "percentile", "auto")},
        "int8 auto, at most 0.1 point": quantized("int8", keep_accuracy=0.1),
        "fp8 auto": quantized("fp8"),
    }
    rows = []
    for name, make in makers.items():
        artifact = make(folder / f"{re.sub(r'[^a-z0-9]+', '-', name)}.onnx")
        result = _result(artifact, images)
        agreement = None if name == "fp32" else result.compared_with(reference)
        found = json.loads(artifact.metadata.get("quantization", "{}"))
        rows.append(
            Row(
                model=trained.name,
                dataset=trained.dataset,
                source=images.source,
                precision=name,
                arithmetic=_arithmetic(name),
                correct=result.correct,
                images=result.count,
                correct_fp32=reference.correct,
                same=result.count if agreement is None else agreement.same,
                p_value=None if agreement is None else agreement.paired.p_value,
                bytes=artifact.size,
                in_float=len(found.get("sensitive", ())),
            )
        )
        print(*columns(rows[-1]), sep="  ", file=sys.stderr, flush=True)
    return rows


def _arithmetic(precision: str) -> str:
    if precision == "bf16":
        return "In float32, every result rounded to bf16"
    if precision.startswith("fp8"):
        return "In float32 between pairs"
    return "As ONNX Runtime runs the file on the CPU"


def _result(artifact: OnnxArtifact, images: Any) -> AccuracyResult:
    model = load_model(artifact.path)
    kinds = {i.data_type for i in model.graph.initializer}
    simulated = kinds & {onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT8E4M3FN}
    if onnx.TensorProto.BFLOAT16 in kinds:
        model = rounded(model)
    runner = OnnxRuntimeRunner(model.SerializeToString(), optimize=not simulated)
    name = artifact.inputs[0].name
    result = run_dataset(runner, images, model=artifact.path.stem, input_name=name)
    runner.close()
    return result


HEADINGS = ("network", "precision", "top-1", "points lost", "changed answers", "McNemar p", "in float", "file KiB")


def columns(row: Row) -> list[str]:
    """A row as text cells."""
    p = "" if row.p_value is None else f"{row.p_value:.3f}"
    return [
        f"{row.model}, {row.dataset}",
        row.precision,
        f"{100 * row.correct / row.images:.2f} %",
        f"{row.lost:+.2f}" if row.precision != "fp32" else "",
        f"{row.images - row.same} of {row.images}" if row.precision != "fp32" else "",
        p,
        str(row.in_float) if row.in_float else "",
        f"{row.bytes / 1024:.0f}",
    ]


def as_markdown(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    rows = [Row(**r) for r in record["rows"]]
    rule = "|" + "|".join(["---"] * 2 + ["---:"] * (len(HEADINGS) - 2)) + "|"
    packages = record["environment"]["packages"]
    return "\n".join(
        [
            "# Accuracy by precision",
            "",
            f"| {' | '.join(HEADINGS)} |",
            rule,
            *(f"| {' | '.join(columns(r))} |" for r in rows),
            "",
            *(f"- {d}: {s}." for d, s in dict.fromkeys((r.dataset, r.source) for r in rows)),
            *(f"- {a}: {', '.join(names)}." for a, names in _by_arithmetic(rows).items()),
            "- Run with session.x64quantprecision, without which 8-bit kernels saturate on CPUs that have no 8-bit dot "
            "product.",
            f"- {record['environment']['cpu']}; onnxruntime {packages['onnxruntime']}; {record['created']}.",
            "",
        ]
    )


def _by_arithmetic(rows: Iterable[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        names = found.setdefault(row.arithmetic, [])
        if row.precision not in names:
            names.append(row.precision)
    return found


def failures(rows: Iterable[Row]) -> list[str]:
    """The rows that lose more than their bound."""
    return [
        f"{r.model}, {r.dataset}: {r.precision} loses {r.lost:.2f} points, of {BOUNDS[r.precision]}"
        for r in rows
        if r.precision in BOUNDS and r.lost > BOUNDS[r.precision]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="folders of training runs")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, help="the record; a .md of the same name comes with it")
    parser.add_argument("--render", type=Path, metavar="RECORD", help="print a record made earlier")
    given = parser.parse_args()
    if given.render:
        print(as_markdown(json.loads(given.render.read_text(encoding="utf-8"))))
        return 0
    rows: list[Row] = []
    for run in given.runs:
        with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
            rows += measure(run, Path(folder), given.data_dir)
    record = {
        "schema_version": SCHEMA_VERSION,
        "rows": [asdict(r) for r in rows],
        "environment": describe_environment().to_dict(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    print(as_markdown(record))
    if given.output:
        write_atomic(given.output, json.dumps(record, indent=1) + "\n")
        write_atomic(given.output.with_suffix(".md"), as_markdown(record))
    for line in failures(rows):
        print(line, file=sys.stderr)
    return 1 if failures(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
