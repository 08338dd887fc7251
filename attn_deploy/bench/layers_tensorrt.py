"""TensorRT's own profile, told in the words of the PyTorch model. Runs need a GPU; the rest does not. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attn_deploy.bench.layers import LayerTime, summed
from attn_deploy.engine.scopes import NodePlace, mentioned, read_places


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


def layers_of_report(
    reported: Sequence[tuple[str, float]], places: tuple[NodePlace, ...], runs: int
) -> tuple[LayerTime, ...]:
    """The layers of one run, from the names and milliseconds of several.

    A layer that TensorRT fused from many nodes counts to the module around all that its name tells of.
    """
    found = []
    for name, ms in reported:
        nodes = mentioned(name, places)
        operators = list(dict.fromkeys(n.operator for n in nodes))
        found.append(
            LayerTime(
                module=common_module([n.module for n in nodes]),
                operator="+".join(operators[:3]) + ("+..." if len(operators) > 3 else "") or "layer",
                node=name,
                microseconds=1e3 * ms / runs,
                known=bool(nodes),
            )
        )
    return summed(found)


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
