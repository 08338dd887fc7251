"""Time of `attn-deploy diagnose` for an operator that TensorRT-RTX lacks, deep inside a model of twelve blocks.

    python benchmarks/diagnose_speed.py [--runs 3] [-o FILE.json]

Whole processes, from the name of a model in a Python file to the name of its module: export, builds, comparison. The three
cases are an operator that the parser names (DFT), one that only the builder refuses, without a name (NonMaxSuppression),
and one that crashes the builder (Attention of opset 23). The limit is 60 s on two cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attn_deploy.machine.environment import describe_environment

LIMIT_SECONDS = 60.0
_MODEL = Path(__file__).parent.parent / "export_tests" / "exporters" / "user_models" / "deep_blocks.py"
_SCOPES = "pkg.torch.onnx.name_scopes"


def deep_file(path: Path, operator: str, *, blocks: int = 12, at: int = 7) -> Path:
    """Twelve blocks of convolutions with one operator that cannot be built in the eighth."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"

    def add(kind: str, inputs: list[str], output: str, module: str, **attributes: object) -> None:
        made = helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes)
        made.metadata_props.add(key=_SCOPES, value=repr(["", module, kind]))
        nodes.append(made)

    for k in range(blocks):
        for part in ("first", "second"):
            name = f"blocks.{k}.{part}"
            weights.append(numpy_helper.from_array((rng.standard_normal((8, 8, 3, 3)) * 0.1).astype("float32"), name))
            add("Conv", [last, name], f"{part}{k}", name, pads=[1, 1, 1, 1])
            add("Relu", [f"{part}{k}"], f"{part}{k}_relu", f"blocks.{k}")
            last = f"{part}{k}_relu"
        if k == at and operator == "Attention":
            add("Attention", [last, last, last], "mixed", f"blocks.{k}.mixer")
            last = "mixed"
    outputs = [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 8, 32, 32])]
    if operator == "NonMaxSuppression":
        weights += [
            numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("flat", [1, 8, 1024]), ("most", [9]))
        ]
        weights.append(numpy_helper.from_array(np.array([1, 1024, 8], np.int64), "rows"))
        weights.append(numpy_helper.from_array(np.array([0, 1, 2, 3], np.int64), "four"))
        add("Reshape", [last, "rows"], "boxed", f"blocks.{at}.mixer")
        add("Gather", ["boxed", "four"], "boxes", f"blocks.{at}.mixer", axis=2)
        add("Reshape", [last, "flat"], "scores", f"blocks.{at}.mixer")
        add("NonMaxSuppression", ["boxes", "scores", "most"], "kept", f"blocks.{at}.mixer")
        outputs.append(helper.make_tensor_value_info("kept", TensorProto.INT64, ["K", 3]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 32, 32])]
    graph = helper.make_graph(nodes, "deep", inputs, outputs, weights)
    opset = 23 if operator == "Attention" else 20
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


def once(arguments: list[str], folder: Path) -> tuple[float, float, dict]:
    """Seconds of a whole process, those of a processor (its own children's included), and its record."""
    command = [sys.executable, "-c", "from attn_deploy.cli import main; main()", "diagnose", *arguments, "--json"]
    started, before = time.perf_counter(), _processor_seconds()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 1:
        raise SystemExit(f"diagnose ended with {done.returncode}: {done.stderr[-500:]}")
    return seconds, _processor_seconds() - before, json.loads(done.stdout)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = {
            "DFT, from the model's name": [f"{_MODEL}:DeepBlocks:mixer=fourier", "--input", "2x3x32x32"],
            "NonMaxSuppression, from a file": [str(deep_file(folder / "n.onnx", "NonMaxSuppression")), "--no-numbers"],
            "Attention, from a file": [str(deep_file(folder / "a.onnx", "Attention")), "--no-numbers"],
        }
        for case, arguments in cases.items():
            runs = [once(arguments, folder) for _ in range(asked.runs)]
            record = runs[-1][2]
            seconds, processor = ([round(run[k], 2) for run in runs] for k in (0, 1))
            found = record["build"]
            place = f"{found['operator']} in {found['module']}"
            trials = len(record["trials"])
            row = {"case": case, "found": place, "trials": trials, "part": found["operators"]}
            rows.append({**row, "seconds": seconds, "processor_seconds": processor})
            print(
                f"{case:<34}{place:<36}{trials:>3} trials, median {statistics.median(seconds):.1f} s, "
                f"of a processor {statistics.median(processor):.1f} s"
            )
    record = {
        "schema_version": 1,
        "title": "seconds of attn-deploy diagnose as a whole process",
        "environment": {**describe_environment().to_dict(), "cores_of_this_run": len(os.sched_getaffinity(0))},
        "limit_seconds": LIMIT_SECONDS,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "rows": rows,
    }
    if asked.output is not None:
        asked.output.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if any(max(r["seconds"]) >= LIMIT_SECONDS for r in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
