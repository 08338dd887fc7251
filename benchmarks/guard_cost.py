"""What it costs that a command runs in a process of its own, where native code may die.

    python benchmarks/guard_cost.py [--runs 15]

The same command on the same small file, as the console script runs it (in a child that is watched) and straight in one
process, in turn; the least and the median wall time of each, start-up of Python included. The claim is at most 30 % more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[1]
WAYS = {
    "watched": "from attn_deploy.__main__ import main; main()",
    "direct": "from attn_deploy.cli import app; app()",
}
COMMANDS = (("inspect", "m.onnx"), ("convert", "m.onnx", "--opset", "18", "-o", "out.onnx"))
LIMIT = 1.3


def main() -> int:
    """Measure and print a table; 1 if the watched command takes more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ("N", 4))],
        [value("y", TensorProto.FLOAT, ("N", 4))],
    )
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, Path(folder, "m.onnx"))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        for command in COMMANDS:
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(options.runs):
                for way, code in WAYS.items():
                    began = time.perf_counter()
                    words = [sys.executable, "-c", code, *command]
                    subprocess.run(words, cwd=folder, env=environment, capture_output=True, check=True)
                    times[way].append(time.perf_counter() - began)
            least = {way: min(t) for way, t in times.items()}
            worst = max(worst, least["watched"] / least["direct"])
            for way, measured in times.items():
                print(f"{command[0]:10}{way:10}least {min(measured):.3f} s, median {statistics.median(measured):.3f} s")
    print(f"at most {worst:.2f} times as long; the limit is {LIMIT}")
    return 1 if worst > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
