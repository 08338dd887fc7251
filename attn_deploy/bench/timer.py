"""One clock for all runtimes.

A sample is the host clock around ``enqueue`` and ``synchronize``, with the inputs already resident. Runtimes that are
compared are timed together: in each round every one of them has a turn, in random order, so that whatever happens to
the machine happens to all. Every sample is kept.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.record import ColdStart, LatencyResult
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.processes import no_collection
from attn_deploy.runtimes.base import Bracketed, DeviceClock, Runner, RuntimeInfo

Clock = Callable[[], int]

_WARMUP_RUNS = 10
_WARMUP_STRETCH = 4  # warm-up may last so many times longer until the median is stable
_STABLE = 0.05
_CLOCK_SHARE = 50  # a sample is at least so many times longer than the clock's own cost
_MAX_CALLS = 64
_LEAST_ROUNDS = 3


@dataclass(slots=True)
class _Turns:
    """One runner's state between its turns."""

    runner: Runner
    warmup_runs: int = 0
    warmup_ns: int = 0
    steady: bool = False
    run_ns: float = 0.0
    calls: int = 1
    count: int = 1
    rounds: list[list[float]] = field(default_factory=list)
    device_rounds: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Measured:
    """Samples of one runner by the host's clock and, where its device has one, of the same runs by the device's."""

    host: LatencyResult
    device: LatencyResult | None


def cold_start(
    make: Callable[[], Runner], inputs: Arrays, *, clock: Clock = time.perf_counter_ns
) -> tuple[Runner, ColdStart]:
    """Make a runner and run it once, both timed.

    Args:
        make: makes the runner; libraries it needs should be imported before, or their import is in the load time. What
            it builds or compiles it tells by ``build_seconds``, which is not in the other times.
        inputs: of the first run.
        clock: nanoseconds.
    """
    start = clock()
    runner = make()
    loaded = clock()
    built = float(getattr(runner, "build_seconds", 0.0))  # an engine, made while the runner was
    try:
        runner.prepare(inputs)
        runner.enqueue()
        runner.synchronize()
    except BaseException:
        runner.close()
        raise
    ended = clock()
    compiled = float(getattr(runner, "build_seconds", 0.0)) - built  # code, made for these inputs
    load, first = (loaded - start) / 1e9 - built, (ended - loaded) / 1e9 - compiled
    return runner, ColdStart(max(0.0, load), max(0.0, first), build_seconds=(built + compiled) or None)


def measure(
    runners: Mapping[str, Runner], options: BenchOptions, *, clock: Clock = time.perf_counter_ns
) -> dict[str, LatencyResult | Exception]:
    """As `measure_both`, by the host's clock alone."""
    results = measure_both(runners, options, clock=clock)
    return {n: m.host if isinstance(m, Measured) else m for n, m in results.items()}


def measure_both(
    runners: Mapping[str, Runner],
    options: BenchOptions,
    *,
    clock: Clock = time.perf_counter_ns,
    on_turn: Callable[[str], None] = lambda _: None,
) -> dict[str, Measured | Exception]:
    """Time runners whose inputs are prepared, together.

    Args:
        runners: by name.
        options: settings.
        clock: nanoseconds.
        on_turn: is told whose turn begins, outside of any sample.

    Returns:
        For each name its samples, or what it raised; one that fails does not end the others.
    """
    overhead = clock_overhead_ns(clock)
    turns: dict[str, _Turns] = {}
    failed: dict[str, Exception] = {}
    gc.collect()
    with no_collection():  # it would run inside whichever sample happens to trigger it
        for name, runner in runners.items():
            state = _Turns(runner)
            on_turn(name)
            try:
                with _bracket(runner):
                    _warm_up(state, options, clock)
            except Exception as error:  # a runtime raises what it likes, and its row says so
                failed[name] = error
                continue
            _plan(state, options, overhead)
            turns[name] = state
        _sample(turns, failed, options, clock, on_turn)
    return {name: failed[name] if name in failed else _result(turns[name], overhead) for name in runners}


def _result(state: _Turns, overhead: float) -> Measured:
    host = LatencyResult(
        rounds=tuple(tuple(r) for r in state.rounds),
        calls_per_sample=state.calls,
        clock_overhead_ns=overhead,
        warmup_runs=state.warmup_runs,
        warmup_seconds=state.warmup_ns / 1e9,
        steady=state.steady,
    )
    if not any(state.device_rounds):
        return Measured(host, None)
    rounds = tuple(tuple(r) for r in state.device_rounds)
    return Measured(host, replace(host, rounds=rounds, calls_per_sample=1, clock_overhead_ns=0.0))


def clock_overhead_ns(clock: Clock = time.perf_counter_ns, repeats: int = 200) -> float:
    """Median cost of what a sample holds besides the run: a reading of the clock and two calls of methods."""
    empty = _Empty()
    samples = []
    for _ in range(repeats):
        start = clock()
        empty.enqueue()
        empty.synchronize()
        samples.append(clock() - start)
    return float(np.median(samples))


class _Empty:
    def enqueue(self) -> None:
        """Nothing."""

    def synchronize(self) -> None:
        """Nothing."""


def _warm_up(state: _Turns, options: BenchOptions, clock: Clock) -> None:
    """Run until both the time and the count are reached, then until the median stands still or patience ends."""
    runner, taken = state.runner, []
    start = clock()
    limit = options.warmup_seconds * 1e9
    while True:
        before = clock()
        runner.enqueue()
        runner.synchronize()
        now = clock()
        taken.append(now - before)
        elapsed = now - start
        if elapsed >= options.max_seconds * 1e9 and len(taken) >= 2:
            break  # a run of many seconds is not repeated ten times for nothing
        if elapsed < limit or len(taken) < _WARMUP_RUNS:
            continue
        state.steady = _is_stable(taken)
        if state.steady or elapsed >= _WARMUP_STRETCH * limit:
            break
    state.warmup_runs, state.warmup_ns = len(taken), now - start
    state.run_ns = float(np.median(taken[-max(5, len(taken) // 4) :]))


def _is_stable(taken: list[int]) -> bool:
    window = max(5, len(taken) // 4)
    recent, earlier = np.median(taken[-window:]), np.median(taken[-2 * window : -window])
    return bool(abs(recent - earlier) <= _STABLE * earlier)


def _plan(state: _Turns, options: BenchOptions, overhead: float) -> None:
    """Runs in a sample, and samples in a turn."""
    run_ns = max(state.run_ns, 1.0)
    state.calls = min(_MAX_CALLS, max(1, math.ceil(_CLOCK_SHARE * overhead / run_ns)))
    sample_ns = run_ns * state.calls
    # A tenth more than asked: the sampled runs may be quicker than those of the warm-up.
    wanted = max(options.min_samples, 1.1 * options.min_seconds * 1e9 / sample_ns)
    affordable = options.max_seconds * 1e9 / sample_ns
    total = min(wanted, affordable, options.max_samples)
    state.count = max(1, math.ceil(total / options.rounds))


def _sample(
    turns: dict[str, _Turns],
    failed: dict[str, Exception],
    options: BenchOptions,
    clock: Clock,
    on_turn: Callable[[str], None],
) -> None:
    rng = np.random.default_rng(options.seed)
    start = clock()
    limit = options.max_seconds * 1e9 * max(1, len(turns))
    for number in range(options.rounds):
        if number >= _LEAST_ROUNDS and clock() - start > limit:
            break
        for name in rng.permutation(sorted(turns)):
            state = turns[str(name)]
            on_turn(str(name))
            try:
                with _bracket(state.runner):
                    state.rounds.append(_turn(state, options, clock))
            except Exception as error:  # as in the warm-up
                failed[str(name)] = error
                del turns[str(name)]


def _turn(state: _Turns, options: BenchOptions, clock: Clock) -> list[float]:
    enqueue, synchronize = state.runner.enqueue, state.runner.synchronize
    settle = options.settle_seconds * 1e9
    if state.run_ns < settle:
        start = clock()
        while clock() - start < settle:
            enqueue()
            synchronize()
    samples: list[float] = []
    device_samples: list[float] = []
    elapsed_ms = device_clock(state.runner)
    calls, turn_ends = range(state.calls), clock() + options.max_seconds * 1e9 / options.rounds
    for _ in range(state.count):
        if state.calls == 1:
            before = clock()
            enqueue()
            synchronize()
            after = clock()
        else:
            before = clock()
            for _ in calls:
                enqueue()
                synchronize()
            after = clock()
        samples.append((after - before) / state.calls if state.calls > 1 else after - before)
        if elapsed_ms is not None:
            device_samples.append(elapsed_ms() * 1e6)  # of the last run of the sample
        if after > turn_ends:
            break
    state.device_rounds.append(device_samples)
    return samples


def device_clock(runner: Runner) -> Callable[[], float] | None:
    """The clock of the runner's device; None where it has none."""
    if isinstance(runner, DeviceClock) and getattr(runner, "has_device_clock", True):
        return runner.elapsed_ms
    return None


def _bracket(runner: Runner) -> AbstractContextManager[Any]:
    """What the runner's users set up once around many runs."""
    return runner.bracket() if isinstance(runner, Bracketed) else contextlib.nullcontext()


class EndToEnd:
    """A runner whose run is all that a caller waits for: upload, run and download.

    Args:
        inner: the runner.
        inputs: uploaded anew for each run.
    """

    def __init__(self, inner: Runner, inputs: Arrays) -> None:
        self._inner, self._inputs = inner, inputs

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        return self._inner.info

    def bracket(self) -> AbstractContextManager[Any]:
        """That of the runner."""
        return _bracket(self._inner)

    def prepare(self, inputs: Arrays) -> None:
        """Keep ``inputs`` for the runs to come."""
        self._inputs = inputs

    def enqueue(self) -> None:
        """Upload, and start one run."""
        self._inner.prepare(self._inputs)
        self._inner.enqueue()

    def synchronize(self) -> None:
        """Wait, and download."""
        self._inner.synchronize()
        self._inner.outputs()

    def outputs(self) -> Arrays:
        """The outputs by name."""
        return self._inner.outputs()

    def close(self) -> None:
        """Nothing: the runner is another's to close."""
