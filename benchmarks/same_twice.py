"""Does the comparison cry wolf, and does it find a tenth? The same file timed twice, and once slowed by 10 %, under load.

    python benchmarks/same_twice.py [MODEL] [--pairs 100] [--idle] [--output record.json] [--samples samples.npz]

For each pair two new sessions of one file are timed in turn, and a third one whose runs are followed by a wait of a
tenth of their length. Meanwhile another process is busy for random times on the same cores. Counted are the verdicts:
"no difference" is right for the first two, "slower" for the third. ``--samples`` keeps some samples of each round, which
is what the tests of the statistics are made with.

Exits with 1 when fewer than 95 % of either are right.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from attn_deploy import export
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.statistics import compare_rounds
from attn_deploy.bench.subject import make_subject
from attn_deploy.bench.timer import measure
from attn_deploy.files import write_atomic
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.machine.environment import command_line, describe_environment
from attn_deploy.report.profile.caption import machine
from attn_deploy.runtimes.base import RuntimeInfo
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

PLANTED = 0.1
RIGHT = 0.95  # of the pairs, at least
KEPT = 40
_LOAD = """
import random, time
while True:
    end = time.perf_counter() + random.expovariate(1 / 0.2)
    while time.perf_counter() < end:
        pass
    time.sleep(random.expovariate(1 / 0.2))
"""


class Slowed:
    """A runner whose runs take a fixed time longer."""

    def __init__(self, inner: OnnxRuntimeRunner, extra_ns: float) -> None:
        self._inner, self._extra = inner, extra_ns

    @property
    def info(self) -> RuntimeInfo:
        return self._inner.info

    def prepare(self, inputs: Arrays) -> None:
        self._inner.prepare(inputs)

    def enqueue(self) -> None:
        self._inner.enqueue()

    def synchronize(self) -> None:
        self._inner.synchronize()
        end = time.perf_counter_ns() + self._extra
        while time.perf_counter_ns() < end:
            pass

    def outputs(self) -> Arrays:
        return self._inner.outputs()

    def close(self) -> None:
        self._inner.close()


@contextlib.contextmanager
def load(idle: bool) -> Iterator[None]:
    """Another process on the same cores, busy and asleep for random times."""
    if idle:
        yield
        return
    child = subprocess.Popen([sys.executable, "-c", _LOAD])
    try:
        yield
    finally:
        child.kill()
        child.wait()


def one_pair(path: Path, arrays: Arrays, options: BenchOptions) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The rounds of the same file twice, and of the slowed one."""
    runners: dict[str, Any] = {n: OnnxRuntimeRunner(path, threads=options.threads or 1) for n in ("first", "second")}
    third = OnnxRuntimeRunner(path, threads=options.threads or 1)
    third.prepare(arrays)
    alone = measure({"third": third}, options)["third"]
    runners["slowed"] = Slowed(third, PLANTED * alone.p50_ms * 1e6)
    for runner in runners.values():
        runner.prepare(arrays)
    found = {n: r.rounds for n, r in measure(runners, options).items()}
    for runner in runners.values():
        runner.close()
    return found


def evenly(samples: tuple[float, ...]) -> list[float]:
    """As many samples as the fixture of the tests holds for each round, spread over the round."""
    return [samples[i] for i in np.linspace(0, len(samples) - 1, KEPT).astype(int)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="se")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--idle", action="store_true", help="without the load")
    parser.add_argument("--output", type=Path, help="keep the counts and every ratio")
    parser.add_argument("--samples", type=Path, help="keep samples of the first two")
    given = parser.parse_args()

    inputs = make_subject(given.model).at(1, None)
    arrays = example_arrays(inputs)
    verdicts: dict[str, collections.Counter[str]] = {n: collections.Counter() for n in ("second", "slowed")}
    kept: list[list[list[list[float]]]] = []
    ratios: dict[str, list[float]] = {n: [] for n in verdicts}
    with tempfile.TemporaryDirectory() as folder, load(given.idle):
        path = Path(folder) / "model.onnx"
        export(given.model, path)
        for number in range(given.pairs):
            options = BenchOptions(
                threads=1, min_samples=1000, min_seconds=0.1, warmup_seconds=0.05, settle_seconds=0.002, seed=number
            )
            rounds = one_pair(path, arrays, options)
            for name, counter in verdicts.items():
                found = compare_rounds(rounds["first"], rounds[name], seed=number)
                counter[found.verdict] += 1
                ratios[name].append(round(found.speedup, 4))
            kept.append([[evenly(r) for r in rounds[n]] for n in ("first", "second")])
    environment = describe_environment()
    print(f"{given.model}, {given.pairs} pairs, {'idle' if given.idle else 'under random load'}")
    print(machine(environment))
    print(f"the same twice: {dict(verdicts['second'])}")
    print(f"slowed by {PLANTED:.0%}: {dict(verdicts['slowed'])}, median speed-up {np.median(ratios['slowed']):.3f}")
    if given.samples is not None:
        np.savez_compressed(given.samples, nanoseconds=np.array(kept, np.uint32))
    if given.output is not None:
        data = {
            "schema_version": 1,
            "model": given.model,
            "pairs": given.pairs,
            "idle": given.idle,
            "planted": PLANTED,
            "verdicts": {n: dict(c) for n, c in verdicts.items()},
            "speedups": ratios,
            "environment": asdict(environment),
            "argv": command_line(),
        }
        write_atomic(given.output, json.dumps(data, indent=1) + "\n")
    right = min(verdicts["second"]["no difference"], verdicts["slowed"]["slower"])
    return 0 if right >= RIGHT * given.pairs else 1


if __name__ == "__main__":
    sys.exit(main())
