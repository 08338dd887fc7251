"""What it costs that a command, or a public function, runs in a process of its own, where native code may die.

    python benchmarks/guard_cost.py [--runs 15] [--save FILE.json]

Functions: `attn_deploy.convert` and its like on a small file, guarded and within `unguarded`, in turn in one process
that has called each before; the claim is that the median takes at most 30 % more where ONNX Runtime runs the file.
`inspect`, which runs nothing, shows what a call costs in itself. Commands: the same command on the same small file, as the
console script runs it (in a child that is watched) and straight in one process, in turn; the least and the median wall
time of each, start-up of Python included. The claim is at most 30 % more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import onnx
from hostile_inputs.graphs import conv_graph
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
WAYS = {
    "watched": "from attn_deploy.__main__ import main; main()",
    "direct": "from attn_deploy.cli import app; app()",
}
COMMANDS = (("inspect", "m.onnx"), ("convert", "m.onnx", "--opset", "18", "-o", "out.onnx"))
LIMIT = 1.3
SESSIONS = ("convert", "verify_files", "run_file")


Rows = dict[str, dict[str, dict[str, float]]]


def noted(rows: Rows, name: str, times: dict[str, list[float]]) -> None:
    """Keep least and median milliseconds of each way."""
    rows[name] = {
        way: {"least_ms": round(1000 * min(t), 1), "median_ms": round(1000 * statistics.median(t), 1)}
        for way, t in times.items()
    }


def functions(runs: int, folder: Path, rows: Rows) -> float:
    """Measure functions and print a table; how many times as long the worst takes that runs the file."""
    import attn_deploy

    path, other, data = folder / "net.onnx", folder / "other.onnx", folder / "x.npz"
    onnx.save(conv_graph(hidden=32), path)
    np.savez(data, x=np.ones((2, 3, 64, 64), np.float32))
    calls: dict[str, Callable[[], object]] = {
        "convert": lambda: attn_deploy.convert(path, other, opset=20),
        "verify_files": lambda: attn_deploy.verify_files(path, other),
        "run_file": lambda: attn_deploy.run_file(path, data),
        "inspect": lambda: attn_deploy.inspect(path),
    }
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "guarded": contextlib.nullcontext,
        "direct": attn_deploy.unguarded,
    }
    worst = 0.0
    for name, call in calls.items():
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(runs + 2):  # the first two set up libraries
            for way, within in ways.items():
                with within():
                    began = time.perf_counter()
                    call()
                    times[way] += [time.perf_counter() - began] if number > 1 else []
        middle = {way: statistics.median(t) for way, t in times.items()}
        noted(rows, name, times)
        more = 1000 * (middle["guarded"] - middle["direct"])
        for way, measured in times.items():
            print(f"{name:14}{way:10}least {1000 * min(measured):7.1f} ms, median {1000 * middle[way]:7.1f} ms")
        print(f"{name:14}guarded takes {middle['guarded'] / middle['direct']:.2f} times as long, {more:+.1f} ms")
        if name in SESSIONS:
            worst = max(worst, middle["guarded"] / middle["direct"])
    return worst


def main() -> int:
    """Measure and print a table; 1 if the watched command takes more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ("N", 4))],
        [value("y", TensorProto.FLOAT, ("N", 4))],
    )
    rows: Rows = {}
    load = os.getloadavg()[0]
    print(f"load {load:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        worst = functions(options.runs, Path(folder), rows)
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
            noted(rows, f"attn-deploy {command[0]}", times)
            least = {way: min(t) for way, t in times.items()}
            worst = max(worst, least["watched"] / least["direct"])
            for way, measured in times.items():
                print(f"{command[0]:10}{way:10}least {min(measured):.3f} s, median {statistics.median(measured):.3f} s")
    print(f"load {os.getloadavg()[0]:.1f}")
    if options.save:
        data = {
            "runs": options.runs, "load": [load, os.getloadavg()[0]], "python": platform.python_version(),
            "machine": platform.machine(), "worst_ratio": round(worst, 3), "limit": LIMIT, "rows": rows,
        }  # fmt: skip
        options.save.write_text(json.dumps(data, indent=1) + "\n")
    print(f"at most {worst:.2f} times as long; the limit is {LIMIT}")
    return 1 if worst > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
