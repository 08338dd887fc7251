"""What a CPU can reach at best: arithmetic, bandwidth by size, and the start of a node, each measured here. No torch.

Every figure is the best of many short runs: limits are what a time is compared with, and a neighbour on the machine
only ever makes them look lower than they are.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from attn_deploy.files import write_atomic
from attn_deploy.isolate import run_isolated
from attn_deploy.machine.devices import DeviceLimits, DeviceProfile
from attn_deploy.machine.environment import Environment, describe_environment

Measured = Callable[[str], None]

PRODUCTS = (256, 512, 1024)  # square matrices; the best size counts
WORKING_SETS = (0.125, 0.5, 2.0, 8.0, 32.0)  # MiB held by source and destination together
MEMORY_SET = 512.0  # MiB, beyond every cache
CHAIN = 200  # nodes
SECONDS = 0.25  # of each figure
_TIMEOUT = 300.0
_GAIN = 1.1  # a smaller level of memory is told apart when it is faster by this factor


@dataclass(frozen=True, slots=True)
class Reach:
    """What one number of threads reaches; units as those of a `DeviceProfile`."""

    threads: int
    peaks_tflops: dict[str, float]
    bandwidth_gbs: float
    caches: tuple[tuple[float, float], ...]
    launch_us: float

    @property
    def limits(self) -> DeviceLimits:
        """As a device profile holds them."""
        return DeviceLimits(self.peaks_tflops, self.bandwidth_gbs, self.caches)


def measure_cpu(
    *,
    name: str = "this-machine",
    threads: Sequence[int] | None = None,
    seconds: float = SECONDS,
    progress: Measured | None = None,
) -> DeviceProfile:
    """Measure this machine's processor, each number of threads in a process of its own.

    Args:
        name: of the profile.
        threads: numbers of threads; by default one and all usable cores.
        seconds: of each figure; there are about a dozen for each number of threads.
        progress: called with a few words at each step.

    Raises:
        MissingDependencyError: if onnxruntime is not installed.
        WorkerError: if a measurement crashes or does not end.
    """
    environment = describe_environment()
    counts = sorted(set(threads or (1, environment.usable_cores)))
    report = progress or (lambda _: None)
    reaches = []
    for count in counts:
        report(f"measuring peaks and bandwidths with {count} thread{'s' * (count > 1)}")
        reached = run_isolated(
            "attn_deploy.bench.capability:measure_reach",
            {"threads": count, "seconds": seconds},
            what=f"measuring {count} threads",
            timeout=_TIMEOUT,
        )
        reaches.append(_reach(dict(reached)))
    return _profile(name, environment, reaches)


def measure_reach(emit: Callable[[Any], None], threads: int, seconds: float = SECONDS) -> dict[str, Any]:
    """What this process reaches with a number of threads; the body of the child process."""
    levels = [(mib, _copy_gbs(mib, threads, seconds)) for mib in WORKING_SETS]
    memory = _copy_gbs(MEMORY_SET, threads, 2 * seconds)
    return {
        "threads": threads,
        "peaks_tflops": {
            "fp32": max(_product_tflops(n, threads, seconds, quantized=False) for n in PRODUCTS),
            "int8": max(_product_tflops(n, threads, seconds, quantized=True) for n in PRODUCTS),
        },
        "bandwidth_gbs": memory,
        "caches": cache_levels(levels, memory),
        "launch_us": _launch_us(threads, seconds),
    }


def cache_levels(measured: Sequence[tuple[float, float]], memory: float) -> list[tuple[float, float]]:
    """Those working sets whose bandwidth tells them from the next larger memory, smallest first.

    A larger set that was faster than a smaller one stands for both: what fits into the smaller also fits into it.
    """
    kept: list[tuple[float, float]] = []
    beyond = memory
    for mib, gbs in sorted(measured, reverse=True):
        if gbs > _GAIN * beyond:
            kept.append((mib, gbs))
            beyond = gbs
    return kept[::-1]


def profile_toml(device: DeviceProfile, note: str = "") -> str:
    """A measured profile as the text of its file."""

    def table(limits: DeviceLimits, heading: str) -> list[str]:
        caches = ", ".join(f"[{mib:g}, {gbs:.1f}]" for mib, gbs in limits.caches)
        return [
            f"bandwidth_gbs = {limits.bandwidth_gbs:.1f}",
            f"caches = [{caches}]  # MiB held, 10^9 bytes a second",
            "",
            f"[{heading}]",
            *(f"{p} = {v:.4f}" for p, v in limits.peaks_tflops.items()),
        ]

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = [f"# {line}" for line in note.splitlines()]
    lines += [
        "",
        f"name = {quoted(device.name)}",
        f"title = {quoted(device.title)}",
        f'kind = "{device.kind}"',
        f"processor = {quoted(device.processor or '')}",
        f"cores = {device.cores}",
        "precisions = [" + ", ".join(quoted(p) for p in device.precisions) + "]",
    ]
    lines += [f"memory_gib = {device.memory_gib:.1f}"] if device.memory_gib else []
    lines += [f"launch_us = {device.launch_us:.2f}"] if device.launch_us else []
    lines += table(DeviceLimits(device.peaks_tflops, device.bandwidth_gbs, device.caches), "peaks_tflops")
    for count, limits in device.threads.items():
        lines += ["", f"[threads.{count}]", *table(limits, f"threads.{count}.peaks_tflops")]
    return "\n".join(lines).lstrip("\n") + "\n"


def write_profile(device: DeviceProfile, path: Path, *, make_folder: bool = False) -> None:
    """Write a profile that was just measured on this machine, whole or not at all.

    Raises:
        InvalidRequestError: if the path cannot be written.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, profile_toml(device, measured_note(describe_environment())))


def measured_note(environment: Environment) -> str:
    """Where and when a profile was measured, for the head of its file."""
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    load = f", load {environment.load_average:g}" if environment.load_average is not None else ""
    return (
        f"Measured by `attn-deploy doctor --measure` on {day}: {environment.cpu}, {environment.usable_cores} usable "
        f"cores, {' '.join(environment.isa)}{load}.\n"
        "Best of many short runs: products of square matrices in ONNX Runtime, copies within each size of memory (read\n"
        "and written bytes both count), and a chain of nodes that work on one number."
    )


def _profile(name: str, environment: Environment, reaches: Sequence[Reach]) -> DeviceProfile:
    most = reaches[-1]
    words = f"{environment.cpu}, {most.threads} thread{'s' * (most.threads > 1)}"
    return DeviceProfile(
        name=name,
        title=words,
        kind="cpu",
        precisions=tuple(most.peaks_tflops),
        memory_gib=round(environment.memory / 2**30, 1) if environment.memory else None,
        bandwidth_gbs=most.bandwidth_gbs,
        peaks_tflops=most.peaks_tflops,
        processor=environment.cpu,
        cores=most.threads,
        caches=most.caches,
        launch_us=min(r.launch_us for r in reaches),
        threads={r.threads: r.limits for r in reaches[:-1]},
    )


def _reach(data: dict[str, Any]) -> Reach:
    return Reach(**{**data, "caches": tuple((float(a), float(b)) for a, b in data["caches"])})


def _best(run: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest run."""
    run()
    best, ends = float("inf"), time.perf_counter() + seconds
    while True:
        before = time.perf_counter_ns()
        run()
        best = min(best, (time.perf_counter_ns() - before) / 1e9)
        if time.perf_counter() > ends:
            return best


def _product_tflops(size: int, threads: int, seconds: float, *, quantized: bool) -> float:
    rng = np.random.default_rng(0)
    kind: Any = np.int8 if quantized else np.float32
    weights = rng.integers(-8, 8, (size, size)).astype(kind)
    # The first operand is unsigned, as the kernels for int8 want it.
    first: Any = np.uint8 if quantized else np.float32
    operator = "MatMulInteger" if quantized else "MatMul"
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(np.dtype(first)), [size, size])],
        [helper.make_tensor_value_info("c", TensorProto.INT32 if quantized else TensorProto.FLOAT, [size, size])],
        [numpy_helper.from_array(weights, "b")],
    )
    run = _bound(graph, {"a": rng.integers(0, 8, (size, size)).astype(first)}, threads)
    return 2 * size**3 / _best(run, seconds) / 1e12


def _launch_us(threads: int, seconds: float) -> float:
    nodes = [helper.make_node(("Sin", "Cos")[i % 2], [f"t{i}"], [f"t{i + 1}"]) for i in range(CHAIN)]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info(f"t{CHAIN}", TensorProto.FLOAT, [1])],
    )
    run = _bound(graph, {"t0": np.ones(1, np.float32)}, threads)
    return _best(run, seconds) * 1e6 / CHAIN


def _bound(graph: onnx.GraphProto, inputs: dict[str, NDArray[Any]], threads: int) -> Callable[[], object]:
    from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    runner = OnnxRuntimeRunner(model.SerializeToString(), threads=threads)
    runner.prepare(inputs)
    return runner.enqueue


def _copy_gbs(mib: float, threads: int, seconds: float) -> float:
    """Bytes read and written in a second, by copies within ``mib`` of memory that the threads share out."""
    count = int(mib * 2**20 / 2 / 4 / threads)
    pairs = [(np.ones(count, np.float32), np.zeros(count, np.float32)) for _ in range(threads)]
    # A copy of a few microseconds is shorter than handing it to a thread: each thread makes many.
    repeats = max(1, int(2e-3 * 20e9 / (count * 8)))

    def work(pair: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
        source, target = pair
        for _ in range(repeats):
            np.copyto(target, source)

    moved = threads * count * 8 * repeats
    if threads == 1:
        return moved / _best(lambda: work(pairs[0]), seconds) / 1e9
    with ThreadPoolExecutor(threads) as pool:
        return moved / _best(lambda: list(pool.map(work, pairs)), seconds) / 1e9
