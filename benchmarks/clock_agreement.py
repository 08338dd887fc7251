"""Does our clock agree with others? Ours beside torch.utils.benchmark and beside a bare loop, on the same runners.

    python benchmarks/clock_agreement.py [MODEL] [--size 56x56] [--threads 1] [--repeats 5]

Each repeat takes all clocks in random order. A ratio of 1 is agreement; on a busy machine compare its distance from 1
with the spread of the repeats of one and the same clock, which is printed too. torch.utils.benchmark is asked twice:
for blocks of runs, as it does by itself, whose means hold every interruption by other processes, and for single runs.
Where polygraphy is installed, its ONNX Runtime runner is the third opinion, on a session with the same threads. It feeds
arrays and fetches them at each run, so it is put beside our end-to-end time.

Exits with 1 when ours is more than 3 % from torch's single runs or from the bare loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

from attn_deploy import export
from attn_deploy.bench.environment import describe_environment
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.parse import parse_size
from attn_deploy.bench.subject import make_subject
from attn_deploy.bench.timer import EndToEnd, measure
from attn_deploy.inputs import Arrays, example_arrays
from attn_deploy.report.terminal import machine
from attn_deploy.runtimes.eager import EagerRunner
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

AGREEMENT = 0.03


def torch_timer(module: torch.nn.Module, inputs: list[torch.Tensor], threads: int, *, blocks: bool) -> float:
    """Median milliseconds of torch's own timer, which is told of the threads or would take one."""
    with torch.inference_mode():
        timer = Timer("module(*inputs)", globals={"module": module, "inputs": inputs}, num_threads=threads)
        if blocks:
            return timer.blocked_autorange(min_run_time=1.0).median * 1e3
        taken, end = [], time.perf_counter() + 1.0
        while time.perf_counter() < end:
            taken.append(timer.timeit(1).median)
        return statistics.median(taken) * 1e3


def bare_loop(runner: OnnxRuntimeRunner) -> float:
    """Median milliseconds of a loop that anybody would write."""
    session, binding = runner._session, runner._binding
    for _ in range(50):
        session.run_with_iobinding(binding)
    taken, end = [], time.perf_counter() + 1.0
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def polygraphy_timer(runner: OnnxRuntimeRunner, arrays: Arrays) -> float | None:
    """Median milliseconds by polygraphy's runner; None where it is not installed."""
    if importlib.util.find_spec("polygraphy") is None:
        return None
    from polygraphy.backend.onnxrt import OnnxrtRunner

    taken = []
    with OnnxrtRunner(runner._session) as other:
        for _ in range(50):
            other.infer(arrays)
        end = time.perf_counter() + 1.0
        while time.perf_counter() < end:
            other.infer(arrays)
            taken.append(other.last_inference_time())
    return statistics.median(taken) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="cbam")
    parser.add_argument("--size", default="56x56")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()

    subject = make_subject(given.model)
    inputs = subject.at(1, parse_size(given.size))
    arrays = example_arrays(inputs)
    eager = EagerRunner(subject.module, threads=given.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(given.model, path)
        ort = OnnxRuntimeRunner(path, threads=given.threads)
    eager.prepare(arrays)
    ort.prepare(arrays)
    options = BenchOptions(threads=given.threads)
    tensors = [torch.from_numpy(a) for a in arrays.values()]

    def ours(runners: dict[str, Any], name: str) -> float:
        return measure(runners, options)[name].p50_ms

    clocks: dict[str, Callable[[], float]] = {
        "eager, ours alone": lambda: ours({"eager": eager}, "eager"),
        "eager, torch blocks": lambda: torch_timer(subject.module, tensors, given.threads, blocks=True),
        "eager, torch single runs": lambda: torch_timer(subject.module, tensors, given.threads, blocks=False),
        "ort, ours alone": lambda: ours({"ort": ort}, "ort"),
        "ort, bare loop": lambda: bare_loop(ort),
        "ort end to end, ours": lambda: ours({"ort": EndToEnd(ort, arrays)}, "ort"),
    }
    if polygraphy_timer(ort, arrays) is not None:
        clocks["ort end to end, polygraphy"] = lambda: polygraphy_timer(ort, arrays) or 0.0
    taken: dict[str, list[float]] = {n: [] for n in [*clocks, "eager, ours interleaved", "ort, ours interleaved"]}
    for _ in range(given.repeats):
        for name in random.sample([*clocks, "interleaved"], len(clocks) + 1):
            if name != "interleaved":
                taken[name].append(clocks[name]())
                continue
            together = measure({"eager": eager, "ort": ort}, options)
            taken["eager, ours interleaved"].append(together["eager"].p50_ms)
            taken["ort, ours interleaved"].append(together["ort"].p50_ms)

    print(f"{given.model} {'x'.join(map(str, inputs[0].shape()))}, {given.threads} threads, {given.repeats} repeats")
    print(machine(describe_environment()))
    reference = {
        "eager": "eager, torch single runs",
        "ort": "ort, bare loop",
        "ort end to end": "ort end to end, polygraphy" if len(clocks) > 6 else "ort end to end, ours",
    }
    far = []
    for name, values in sorted(taken.items()):
        other = statistics.median(taken[reference[name.split(",")[0]]])
        middle = statistics.median(values)
        spread = (max(values) - min(values)) / middle
        print(f"{name:26} p50 {middle:8.4f} ms   ratio {middle / other:6.3f}   spread of repeats {spread:5.1%}")
        if name.endswith("ours alone") and abs(middle / other - 1) > AGREEMENT:
            far.append(name)
    print(f"more than {AGREEMENT:.0%} away: {', '.join(far)}" if far else f"ours agrees within {AGREEMENT:.0%}")
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
