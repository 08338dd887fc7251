"""Does our clock agree with others? Ours beside torch.utils.benchmark and beside a bare loop, on the same runners.

    python benchmarks/clock_agreement.py [MODEL] [--size 56x56] [--threads 1] [--repeats 40] [--output RECORD.json]

Each repeat takes a short burst of every clock, in random order, and what is compared are the medians of one repeat, so
that a busy machine disturbs both sides alike; the ratio is the median over the repeats, with a 95 % interval from a
bootstrap over them. 1 is agreement. torch.utils.benchmark is asked twice: for blocks of runs, as it does by itself, whose
means hold every interruption by other processes, and for single runs. Where polygraphy is installed, its ONNX Runtime
runner is the third opinion, on a session with the same threads; it feeds arrays and fetches them at each run, so it is
put beside our end-to-end time.

The memory allocator is told to keep what it has. Left alone, glibc gives a large freed tensor back to the system and asks
for it again in the next run, or does not, depending on what lies above it in the heap: two loops around one call may then
differ by a tenth, whoever holds the clock.

Exits with 1 when ours is more than 3 % from torch's single runs or from the bare loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.utils.benchmark import Timer

from attn_deploy import export
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.statistics import compare_rounds
from attn_deploy.bench.subject import make_subject
from attn_deploy.bench.timer import EndToEnd, measure
from attn_deploy.cli.parse import parse_size
from attn_deploy.files import write_atomic
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.machine.environment import command_line, describe_environment
from attn_deploy.report.profile.caption import machine
from attn_deploy.runtimes.base import Runner
from attn_deploy.runtimes.eager import EagerRunner
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

AGREEMENT = 0.03
BURST = 0.15  # seconds of one clock in one repeat
Clock = Callable[[], list[float]]


def ours(runner: Runner, threads: int) -> Clock:
    """Our timer, in one round of a burst."""
    options = BenchOptions(
        threads=threads, rounds=1, min_samples=20, min_seconds=BURST, max_seconds=4 * BURST, warmup_seconds=0.02
    )
    return lambda: list(measure({"it": runner}, options)["it"].samples)


def torch_timer(module: torch.nn.Module, inputs: list[torch.Tensor], threads: int, *, blocks: bool) -> Clock:
    """Torch's own timer, which is told of the threads or would take one."""
    timer = Timer("module(*inputs)", globals={"module": module, "inputs": inputs}, num_threads=threads)

    def burst() -> list[float]:
        with torch.inference_mode():
            timer.timeit(10)
            if blocks:
                return [t * 1e9 for t in timer.blocked_autorange(min_run_time=BURST).times]
            taken, end = [], time.perf_counter() + BURST
            while time.perf_counter() < end:
                taken.append(timer.timeit(1).median * 1e9)
            return taken

    return burst


def bare_loop(runner: OnnxRuntimeRunner) -> Clock:
    """A loop that anybody would write."""
    session, binding = runner._session, runner._binding

    def burst() -> list[float]:
        for _ in range(20):
            session.run_with_iobinding(binding)
        taken, end = [], time.perf_counter() + BURST
        while time.perf_counter() < end:
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            taken.append((time.perf_counter() - start) * 1e9)
        return taken

    return burst


def polygraphy_timer(runner: OnnxRuntimeRunner, arrays: dict[str, np.ndarray]) -> Clock:
    """Polygraphy's ONNX Runtime runner, by the time that it gives itself."""
    from polygraphy.backend.onnxrt import OnnxrtRunner

    def burst() -> list[float]:
        taken = []
        with OnnxrtRunner(runner._session) as other:
            for _ in range(20):
                other.infer(arrays)
            end = time.perf_counter() + BURST
            while time.perf_counter() < end:
                other.infer(arrays)
                taken.append(other.last_inference_time() * 1e9)
        return taken

    return burst


def keep_memory() -> None:
    """Start anew with an allocator that gives nothing back."""
    wanted = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}  # the most glibc takes
    if any(os.environ.get(n) != v for n, v in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="cbam")
    parser.add_argument("--size", default="56x56")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--output", type=Path, help="keep the ratios, and every burst's median")
    given = parser.parse_args()

    subject = make_subject(given.model)
    inputs = subject.at(1, parse_size(given.size))
    arrays = example_arrays(inputs)
    eager = EagerRunner(subject.module, threads=given.threads, keep=False)  # the one module: copies differ by layout
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(given.model, path)
        ort = OnnxRuntimeRunner(path, threads=given.threads)
        fed = OnnxRuntimeRunner(path, threads=given.threads)
    for runner in (eager, ort, fed):
        runner.prepare(arrays)
    tensors = [torch.from_numpy(a) for a in arrays.values()]
    clocks = {
        "eager, ours": ours(eager, given.threads),
        "eager, torch blocks": torch_timer(subject.module, tensors, given.threads, blocks=True),
        "eager, torch single runs": torch_timer(subject.module, tensors, given.threads, blocks=False),
        "ort, ours": ours(ort, given.threads),
        "ort, bare loop": bare_loop(ort),
        "ort end to end, ours": ours(EndToEnd(fed, arrays), given.threads),
    }
    pairs = [
        ("eager, ours", "eager, torch single runs"),
        ("eager, ours", "eager, torch blocks"),
        ("ort, ours", "ort, bare loop"),
    ]
    if importlib.util.find_spec("polygraphy") is not None:
        clocks["ort end to end, polygraphy"] = polygraphy_timer(fed, arrays)
        pairs.append(("ort end to end, ours", "ort end to end, polygraphy"))
    taken: dict[str, list[list[float]]] = {n: [] for n in clocks}
    for _ in range(given.repeats):
        for name in random.sample(list(clocks), len(clocks)):
            taken[name].append(clocks[name]())

    print(f"{given.model} {'x'.join(map(str, inputs[0].shape()))}, {given.threads} threads, {given.repeats} repeats")
    environment = describe_environment()
    print(machine(environment))
    for name, bursts in sorted(taken.items()):
        medians = [float(np.median(b)) / 1e6 for b in bursts]
        spread = np.subtract(*np.percentile(medians, [75, 25])) / np.median(medians)
        print(f"{name:26} p50 {np.median(medians):8.4f} ms, its quartiles {spread:.1%} apart")
    far = []
    ratios = {}
    for mine, other in pairs:
        found = compare_rounds(taken[mine], taken[other])  # theirs over ours, as a ratio of times
        low, high = found.interval.low, found.interval.high
        ratios[f"{mine} over {other}"] = {"ratio": found.speedup, "low": low, "high": high}
        print(f"{mine} over {other}: {found.speedup:.3f} ({low:.3f} to {high:.3f})")
        if other in ("eager, torch single runs", "ort, bare loop") and abs(found.speedup - 1) > AGREEMENT:
            far.append(f"{mine} and {other}")
    if given.output is not None:
        data = {
            "schema_version": 1,
            "model": given.model,
            "input": inputs[0].shape(),
            "threads": given.threads,
            "ratios": ratios,
            "p50_ms": {n: [round(float(np.median(b)) / 1e6, 5) for b in bursts] for n, bursts in taken.items()},
            "environment": asdict(environment),
            "argv": command_line(),
        }
        write_atomic(given.output, json.dumps(data, indent=1) + "\n")
    print(f"more than {AGREEMENT:.0%} apart: {'; '.join(far)}" if far else f"agreement within {AGREEMENT:.0%}")
    return 1 if far else 0


if __name__ == "__main__":
    keep_memory()
    sys.exit(main())
