"""TensorRT's own profile, told in the words of the PyTorch model. Runs need a GPU; the rest does not. No torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attn_deploy.bench.layers import LayerReport, LayerTime, summed
from attn_deploy.engine.scopes import NodePlace, mentioned, read_places
from attn_deploy.inputs.tensors import Arrays


def profiled_layers(trt: Any, context: Any, run: Callable[[], None], onnx: Path, runs: int) -> tuple[LayerTime, ...]:
    """Profile runs of an execution context.

    Args:
        trt: the TensorRT module of the context's flavor.
        context: an execution context whose inputs are set.
        run: starts one run on it and waits for its end.
        onnx: the file that the engine was built from.
        runs: that are profiled, after one that is not counted.
    """
    reported: list[tuple[str, float]] = []

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            reported.append((layer_name, ms))

    profiler = Profiler()
    context.profiler = profiler  # from here on each run waits for its own end, which is what makes the times
    run()
    reported.clear()
    for _ in range(runs):
        run()
    return layers_of_report(reported, read_places(onnx), runs)


def engine_layers(
    engine: Path,
    onnx: Path,
    inputs: Arrays,
    *,
    name: str,
    runtime: str,
    precision: str = "fp32",
    runs: int = 50,
) -> LayerReport:
    """Run an engine under TensorRT's profiler, and put each layer's time under the module that it came from.

    Args:
        engine: the plan file, with its sidecar beside it.
        onnx: the file that it was built from.
        inputs: arrays by input name.
        name: of the model, for the report; ``runtime`` and ``precision`` too.
        runtime: tensorrt or tensorrt-rtx.
        precision: of the graph.
        runs: that are profiled.

    Raises:
        NoDeviceError: if there is no GPU.
        EngineMismatchError: if engine, sidecar, library and GPU do not belong together.
    """
    from attn_deploy.runtimes.tensorrt import TensorRTRunner

    contexts: list[Any] = []
    libraries: list[Any] = []

    class Observed(TensorRTRunner):
        def _create_context(self, specialization: str) -> Any:
            libraries.append(self._flavor.trt)
            contexts.append(super()._create_context(specialization))
            return contexts[-1]

    runner = Observed(engine)
    try:
        runner.prepare(inputs)
        took: list[float] = []

        def run() -> None:
            started = time.perf_counter_ns()
            runner.enqueue()
            runner.synchronize()
            took.append((time.perf_counter_ns() - started) / 1e3)

        layers = profiled_layers(libraries[0], contexts[0], run, onnx, runs)
        info = runner.info
    finally:
        runner.close()
    return LayerReport(
        name=name,
        runtime=runtime,
        precision=precision,
        shapes={n: tuple(a.shape) for n, a in inputs.items()},
        source=f"{info.version} profiler",
        runs=runs,
        layers=layers,
        whole_us=statistics.median(took[1:]),
    )


def layers_of_report(
    reported: Sequence[tuple[str, float]], places: tuple[NodePlace, ...], runs: int
) -> tuple[LayerTime, ...]:
    """The layers of one run, from the names and milliseconds of several.

    A layer that TensorRT fused from many nodes counts to the module around all that its name tells of.
    """
    layers = []
    for name, ms in reported:
        nodes = mentioned(name, places)
        operators = list(dict.fromkeys(n.operator for n in nodes))
        layers.append(
            LayerTime(
                module=common_module([n.module for n in nodes]),
                operator="+".join(operators[:3]) + ("+..." if len(operators) > 3 else "") or "layer",
                node=name,
                microseconds=1e3 * ms / runs,
                known=bool(nodes),
            )
        )
    return summed(layers)


def common_module(modules: Sequence[str]) -> str:
    """The innermost module around all of them."""
    if not modules or not all(modules):
        return ""
    shared = []
    for parts in zip(*(m.split(".") for m in modules), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
