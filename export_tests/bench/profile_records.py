"""Profile records with samples drawn from a seeded generator, shaped like real ones, for tests of what is made from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attn_deploy.bench.evidence import AccuracyRow, GraphCost, MemoryPeak
from attn_deploy.bench.layers import LayerReport, LayerTime
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.record import ColdStart, LatencyResult, ProfileRecord, ProfileRow
from attn_deploy.bench.statistics import compare_rounds
from attn_deploy.machine.environment import Environment, GpuDescription
from attn_deploy.runtimes.base import RuntimeInfo

PROVIDERS = {"eager": "CPU", "compile": "CPU", "ort-cpu": "CPUExecutionProvider", "tensorrt": "NVIDIA H100 80GB HBM3"}
CPU = Environment(
    "AMD EPYC", 8, 2, ("avx", "avx2", "fma"), 2445.0, None, 0.1, 16 << 30, "Linux 6.1 x86_64", "CPython 3.11.7",
    {"torch": "2.13.0", "onnxruntime": "1.31.1"}, git_commit="0" * 40,
)  # fmt: skip
GPU = replace(CPU, gpus=(GpuDescription("NVIDIA H100 80GB HBM3", "580.1", "9.0", 81559, 1980, 1980, 40),), cuda="13.0")
OPTIONS = BenchOptions(threads=1)


def latency(p50_ms, *, seed=0, rounds=20, per_round=15, spread=0.03, drift=0.0):
    """Samples around a median, with a tail and noise that a whole round shares."""
    rng = np.random.default_rng(seed)
    shared = 1 + 0.01 * rng.standard_normal(rounds) + drift * np.linspace(-0.5, 0.5, rounds)
    samples = p50_ms * 1e6 * shared[:, None] * (1 + spread * rng.gamma(1.5, 1.0, (rounds, per_round)))
    return LatencyResult(tuple(tuple(float(v) for v in r) for r in samples), 1, 30.0, 20, 0.3, True)


def accuracy(top1, images=360, reference="eager"):
    correct = round(top1 * images)
    given = {"same": images - 4, "only_reference": 3, "only_this": 1, "p_value": 0.625} if reference else {}
    return AccuracyRow("digits", "test", "d" * 64, images, correct, reference, **given)


def row(runtime, p50_ms, *, batch=1, precision="fp32", size=(32, 32), seed=0, channels=3, **changes):
    graph = GraphCost(
        "a" * 64,
        20,
        60,
        555_000_000 * batch * size[0] // 32 * size[1] // 32,
        45_100_000,
        60_600_000 + 1_000_000 * batch,
    )
    made = ProfileRow(
        runtime=runtime,
        batch=batch,
        shapes={"x": (batch, channels, *size)},
        status="ok",
        info=RuntimeInfo(runtime, f"{runtime} 1.0", PROVIDERS[runtime], "float32", 1),
        cold=ColdStart(0.1, 0.05),
        latency=latency(p50_ms, seed=seed),
        precision=precision,
        size=size,
        memory=MemoryPeak(300 << 20, 200 << 20),
        graph=None if runtime in ("eager", "compile") else graph,
    )
    return replace(made, **changes)


def failed(runtime, reason, status="failed", **changes):
    made = row(runtime, 1.0, **changes)
    return replace(made, status=status, reason=reason, latency=None, info=None, cold=None, memory=None)


def record(*rows, name="resnet18+se", environment=CPU, created="2026-11-23T00:00:00Z", **changes):
    """A record whose rows have their speed-ups against eager at the same shape."""
    eager = {(r.batch, r.size): r for r in rows if r.runtime == "eager" and r.latency}
    done = []
    for r in rows:
        base = eager.get((r.batch, r.size))
        if r.latency and base and r.runtime != "eager":
            r = replace(r, speedup=compare_rounds(base.latency.rounds, r.latency.rounds))
        done.append(r)
    return ProfileRecord(
        name, environment, OPTIONS, tuple(done), "eager" if eager else None, created=created,
        argv=("attn-deploy", "profile", name), load_after=0.2, **changes,
    )  # fmt: skip


def full(name="resnet18+se", environment=CPU, seed=0, scale=1.0):
    """Three runtimes, two precisions, three batches, two sizes, accuracy, one refused row and one that failed."""
    rng = np.random.default_rng(seed)
    rows = []
    for size, work in (((32, 32), 1.0), ((64, 64), 3.6)):
        for batch in (1, 8, 64) if size == (32, 32) else (1,):
            time = scale * work * (8 + 24 * batch)
            for index, (runtime, precision, factor, top1) in enumerate(
                (
                    ("eager", "fp32", 1.0, 0.9806),
                    ("compile", "fp32", 0.8, 0.9806),
                    ("ort-cpu", "fp32", 0.62, 0.9806),
                    ("ort-cpu", "int8", 0.41, 0.9722),
                )
            ):
                found = accuracy(top1, reference="" if runtime == "eager" else "eager")
                jitter = float(rng.uniform(0.95, 1.05))
                rows.append(
                    row(
                        runtime,
                        time * factor * jitter,
                        batch=batch,
                        precision=precision,
                        size=size,
                        seed=seed + index + 10 * batch,
                        accuracy=found,
                    )
                )
    rows.append(failed("compile", "no C++ compiler: <g++> is not installed", batch=128))
    rows.append(failed("ort-cpu", "ran on CPU & not where it was asked", status="invalid", batch=128))
    return record(*rows, name=name, environment=environment)


def layer_report(name="resnet18+se"):
    times = {
        "conv1": [("Conv", 310.0), ("ReorderOutput", 29.0)],
        "layer1.0.conv1": [("Conv", 1293.0)],
        "layer1.0.conv2": [("Conv", 1866.0), ("ReorderOutput", 26.0)],
        "layer1.0.slot": [("ReduceMean", 16.0), ("Mul", 27.0)],
        "layer1.0.slot.reduce": [("Conv", 9.0)],
        "layer1.0": [("Add", 25.0)],
        "layer2.0.conv1": [("Conv", 1240.0)],
        "layer2.0.conv2": [("Conv", 1948.0)],
        "fc": [("Gemm", 17.0)],
        "": [("Flatten", 2.0)],
    }
    found = [LayerTime(m, op, f"{op}_{m}_{i}", us) for m, ops in times.items() for i, (op, us) in enumerate(ops)]
    return LayerReport(name, "ort-cpu", "fp32", {"x": (1, 3, 32, 32)}, "onnxruntime profiler", 50, tuple(found), 7000.0)
