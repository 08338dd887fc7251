"""Whether eight bits pay on this machine: graphs timed in turn, and layers that cost more time than they save left in float.

A convolution with few channels on a large map has little to multiply and much to convert: what lies between it and the next
one (a SiLU, say) has kernels in 8 bits that are slower than those in float. Such layers share a size of map, so the sizes are
tried from the largest on, as long as the graph gets faster.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from attn_deploy.errors import GraphError
from attn_deploy.graph.quantize import Layer
from attn_deploy.graph.tensors import infer_tensors
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.runtimes.base import Runner
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

ENOUGH = 1.3  # times as fast as in float: no layer is looked for that is not
SHORTEST = 0.0005  # seconds of a run in float, below which its calls are timed and not its products
_GAIN = 1.03  # that a group of layers must bring in float
_SECONDS = 0.6  # of one comparison
_SEARCHING = 0.4  # seconds of one among several
_ROUNDS = (3, 21)
_ROUND_SECONDS = 0.02
_LONG = 1.0  # seconds of one run of each, above which one says enough: what disturbs it is a small part
_MOST_GROUPS = 5
# One thread runs in the caller's, whose own time does not count what else the machine does.
_thread_clock = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-4 else time.perf_counter
_SHARE = 0.05  # of the time that passed: a thread's clock that says less for every run has stood still


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one graph is against another, in ONNX Runtime with one thread.

    Attributes:
        ratio: the first graph's time over the second's: median of the rounds.
        low, high: its lower and upper quartile.
        first_ms, second_ms: medians of one run.
    """

    ratio: float
    low: float
    high: float
    first_ms: float
    second_ms: float

    def to_dict(self) -> dict[str, float]:
        """JSON-ready data."""
        return {k: float(v) for k, v in asdict(self).items()}


def timed_runner(model: onnx.ModelProto, arrays: Arrays) -> Runner:
    """A graph with ONNX Runtime's optimisations and one thread, ready to run on ``arrays``."""
    runner = OnnxRuntimeRunner(model.SerializeToString(), threads=1, optimize=True)
    runner.prepare(arrays)
    return runner


def pace_of(first: Runner, second: Runner, seconds: float = _SECONDS) -> Pace:
    """Time two prepared runners in turn, so that whatever else the machine does meets both."""
    once = _seconds(first, 1), _seconds(second, 1)
    both = sum(once)
    if both < _ROUND_SECONDS:  # a first run is longer, by what it takes of memory: little of a long one
        both = sum(_seconds(r, 1) for r in (first, second))
    if both >= _LONG:
        return Pace(once[0] / once[1], once[0] / once[1], once[0] / once[1], 1e3 * once[0], 1e3 * once[1])
    calls = max(1, math.ceil(_ROUND_SECONDS / max(both, 1e-6)))
    rounds = int(min(_ROUNDS[1], max(_ROUNDS[0], seconds / max(calls * both, 1e-6))))
    pairs = []
    for k in range(rounds):
        order = (first, second) if k % 2 == 0 else (second, first)
        times = {id(r): _seconds(r, calls) for r in order}
        pairs.append((times[id(first)], times[id(second)]))
    ratios = sorted(a / b for a, b in pairs)
    quarter = len(ratios) // 4
    return Pace(
        statistics.median(ratios),
        ratios[quarter],
        ratios[-1 - quarter],
        1e3 * statistics.median(a for a, _ in pairs),
        1e3 * statistics.median(b for _, b in pairs),
    )


def _seconds(runner: Runner, calls: int) -> float:
    """Of one run: the shortest of some, for what disturbs a run only adds to it.

    A virtual machine's clock of a thread may stand still over a whole run, as one has been seen to: what it says then is
    not the time of a run, and where it says so of all, the time that passed is taken.
    """
    own, passed = [], []
    for _ in range(calls):
        began, began_thread = time.perf_counter(), _thread_clock()
        runner.enqueue()
        runner.synchronize()
        spent, wall = _thread_clock() - began_thread, time.perf_counter() - began
        passed.append(wall)
        if spent > _SHARE * wall:
            own.append(spent)
    return max(min(own or passed), 1e-9)


def slow_layers(
    model: onnx.ModelProto,
    prepared: onnx.ModelProto,
    layers: Sequence[Layer],
    write: Callable[[Collection[str]], onnx.ModelProto],
    arrays: Arrays,
    *,
    progress: Callable[[str], None],
) -> frozenset[str]:
    """Names of the layers without which the quantized graph is faster; none where it is fast enough with them.

    Args:
        model: the float graph.
        prepared: the same with the nodes' names of the layers.
        layers: its products.
        write: the quantized graph with these products in float.
        arrays: inputs to run on.
        progress: called with a few words at each step.
    """
    progress("timing it against float")
    floats = timed_runner(model, arrays)
    best = timed_runner(write(()), arrays)
    try:
        pace = pace_of(floats, best, _SEARCHING)
        if pace.first_ms < 1e3 * SHORTEST or pace.ratio >= ENOUGH:
            return frozenset()
        chosen: frozenset[str] = frozenset()
        misses = 0
        groups = _by_map(prepared, layers, {n: tuple(a.shape) for n, a in arrays.items()})
        for group in groups:
            progress(f"timing it with {len(group)} layers in float")
            candidate = timed_runner(write(group), arrays)
            gain = pace_of(best, candidate, _SEARCHING)
            if gain.ratio >= _GAIN and gain.low > 1.0:
                best.close()
                best, chosen, misses = candidate, group, 0
                continue
            candidate.close()
            misses += 1
            if misses == 2:
                break
        return chosen
    finally:
        floats.close()
        best.close()


def _by_map(
    model: onnx.ModelProto, layers: Sequence[Layer], sizes: Mapping[str, tuple[int, ...]]
) -> list[frozenset[str]]:
    """The convolutions on the largest maps; on those and the next smaller; and so on, but never all."""
    try:
        shapes = infer_tensors(model, sizes).shapes
    except GraphError:
        return []
    outputs = {n.name: n.output[0] for n in model.graph.node}
    areas: dict[str, int] = {}
    area = 0
    for layer in layers:
        shape = shapes.get(outputs[layer.node], ())
        if layer.operator != "Conv" or len(shape) < 3:
            continue
        own = math.prod(int(d) for d in shape[2:])
        area = own if own > 1 or not area else area  # gates on pooled maps go with what they gate
        areas[layer.node] = area
    steps = sorted(set(areas.values()), reverse=True)[:-1][:_MOST_GROUPS]
    return [frozenset(n for n, a in areas.items() if a >= step) for step in steps]


def pace_words(pace: Mapping[str, Any]) -> str:
    """A pace of float over 8 bits for people."""
    ratio = float(pace["ratio"])
    spread = f"quartiles {float(pace['low']):.2f} to {float(pace['high']):.2f}"
    what = f"{ratio:.2f}x the speed of float here, with one thread ({spread})"
    if ratio >= 1.0:
        return what
    return f"{what}: SLOWER than float. Keep the float file for this machine, or profile both."
