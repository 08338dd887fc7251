"""Statistics against numpy and against planted differences, and the timer against scripted durations."""

from __future__ import annotations

import contextlib
import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_deploy.bench import environment as env
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.record import LatencyResult
from attn_deploy.bench.statistics import (
    MIN_ROUNDS,
    coefficient_of_variation,
    compare_rounds,
    drift,
    interquartile_range,
    median_interval,
    percentile,
    pooled,
    throughput,
)
from attn_deploy.bench.timer import EndToEnd, clock_overhead_ns, cold_start, measure, measure_both
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs import example_arrays, parse_inputs
from attn_deploy.runtimes.base import RuntimeInfo
from attn_deploy.runtimes.eager import EagerRunner

times = st.lists(st.floats(1.0, 1e9), min_size=1, max_size=40)
rounds = st.lists(times, min_size=1, max_size=20)
QUICK = BenchOptions(min_samples=40, min_seconds=0, warmup_seconds=0.01, max_seconds=5, settle_seconds=0.001, threads=1)


def noisy_rounds(rng, count, factor=1.0, shared=None):
    """Rounds of 15 samples that share what happens to the machine: drift, a neighbour, and a tail of slow runs."""
    shared = np.ones(count) if shared is None else shared
    made = []
    for weight in shared:
        jitter = 1 + 0.02 * rng.standard_normal()
        tail = 1 + (rng.random(15) < 0.03) * rng.exponential(2, 15)
        made.append(1e6 * factor * weight * jitter * (1 + 0.05 * np.abs(rng.standard_normal(15))) * tail)
    return made


def machine(rng, count):
    return (1 + 0.3 * np.linspace(0, 1, count)) * (1 + (rng.random(count) < 0.15) * rng.random(count))


@given(times)
def test_percentiles_are_numpys(values):
    for q in (50, 90, 95, 99):
        assert percentile(values, q) == np.percentile(values, q)
    assert interquartile_range(values) == np.subtract(*np.percentile(values, [75, 25]))
    assert throughput(values, 4) == pytest.approx(4 / (np.mean(values) * 1e-9))
    if len(values) > 1:
        assert coefficient_of_variation(values) == pytest.approx(np.std(values, ddof=1) / np.mean(values))


@settings(max_examples=40)
@given(rounds)
def test_the_interval_of_the_median_is_ordered_within_the_samples_and_repeats(values):
    found = median_interval(values, resamples=100, seed=3)
    assert min(pooled(values)) <= found.low <= found.high <= max(pooled(values))
    assert found == median_interval(values, resamples=100, seed=3)


@settings(max_examples=40)
@given(rounds, st.sampled_from([0.5, 2.0, 8.0]))
def test_the_interval_scales_with_the_samples(values, factor):
    found = median_interval(values, resamples=100)
    scaled = median_interval([[factor * v for v in r] for r in values], resamples=100)
    assert (scaled.low, scaled.high) == (factor * found.low, factor * found.high)


def test_the_bootstrap_of_single_samples_agrees_with_a_plain_one():
    rng = np.random.default_rng(5)
    samples = rng.lognormal(0, 0.4, 301)
    found = median_interval([samples], resamples=4000)
    plain = np.median(rng.choice(samples, (4000, 301)), axis=1)
    assert [found.low, found.high] == pytest.approx(np.percentile(plain, [2.5, 97.5]), rel=0.02)


def test_the_interval_covers_the_median_when_rounds_differ():
    """Drawing single samples would take the rounds for independent evidence and miss far too often."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        made = [(1 + 0.03 * rng.standard_normal()) * (1 + 0.01 * rng.standard_normal(30)) for _ in range(20)]
        found = median_interval(made, resamples=300)
        hits += found.low <= 1 <= found.high
    assert hits >= 175


def test_a_runtime_does_not_differ_from_itself():
    rng = np.random.default_rng(2)
    verdicts = []
    for _ in range(200):
        shared = machine(rng, 20)
        verdicts.append(
            compare_rounds(noisy_rounds(rng, 20, 1, shared), noisy_rounds(rng, 20, 1, shared), resamples=300).verdict
        )
    assert verdicts.count("no difference") >= 190


@pytest.mark.parametrize(("factor", "verdict"), [(1.1, "slower"), (1 / 1.1, "faster")])
def test_a_planted_tenth_is_found_on_a_drifting_machine(factor, verdict):
    rng = np.random.default_rng(3)
    found = []
    for _ in range(50):
        shared = machine(rng, 20)
        found.append(
            compare_rounds(noisy_rounds(rng, 20, 1, shared), noisy_rounds(rng, 20, factor, shared), resamples=300)
        )
    assert sum(f.verdict == verdict for f in found) >= 49
    assert np.median([f.speedup for f in found]) == pytest.approx(1 / factor, rel=0.02)


@pytest.fixture(scope="module")
def same_twice():
    """100 pairs of one file timed twice in turn under random load, by ``benchmarks/same_twice.py --samples``."""
    with np.load(Path(__file__).parent / "data" / "same_twice.npz") as file:
        made = file["nanoseconds"].astype(np.float64)
    assert made.shape == (100, 2, 20, 40)
    return made


def test_what_was_recorded_under_load_differs_in_no_pair_beyond_chance(same_twice):
    verdicts = [compare_rounds(a, b, seed=i).verdict for i, (a, b) in enumerate(same_twice)]
    assert verdicts.count("no difference") >= 95


@pytest.mark.parametrize(("factor", "verdict"), [(1.1, "slower"), (1 / 1.1, "faster")])
def test_a_tenth_planted_into_what_was_recorded_is_found(same_twice, factor, verdict):
    found = [compare_rounds(a, factor * b, seed=i) for i, (a, b) in enumerate(same_twice)]
    assert [f.verdict for f in found].count(verdict) >= 95
    assert np.median([f.speedup for f in found]) == pytest.approx(1 / factor, rel=0.02)


def test_the_recorded_load_was_no_idle_machine(same_twice):
    """Medians of single rounds jump by more than the tenth that is looked for; only the comparison of pairs finds it."""
    medians = np.median(same_twice, axis=3)
    spread = medians.max(axis=2) / medians.min(axis=2)
    assert np.median(spread) > 1.1


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_swapping_the_sides_inverts_the_comparison(seed):
    rng = np.random.default_rng(seed)
    a, b = noisy_rounds(rng, 12), noisy_rounds(rng, 12, 1.2)
    one, two = compare_rounds(a, b, resamples=200), compare_rounds(b, a, resamples=200)
    assert one.speedup == pytest.approx(1 / two.speedup)
    assert one.interval.low == pytest.approx(1 / two.interval.high)
    assert {one.verdict, two.verdict} in ({"faster", "slower"}, {"no difference"})


def test_few_rounds_decide_nothing():
    few = [[1e6] * 50] * (MIN_ROUNDS - 1)
    assert compare_rounds(few, [[2e6] * 50] * (MIN_ROUNDS - 1)).verdict == "undecided"


def test_nothing_to_describe_is_refused():
    with pytest.raises(InvalidRequestError, match="no samples"):
        median_interval([])
    with pytest.raises(InvalidRequestError, match="no round in common"):
        compare_rounds([], [[1.0]])
    with pytest.raises(InvalidRequestError, match="confidence"):
        median_interval([[1.0]], confidence=95)


def test_drift_is_last_third_over_first():
    assert drift([[10.0]] * 5 + [[15.0]] * 5) == pytest.approx(0.5)
    assert drift([[10.0]]) == 0.0


class Scripted:
    """A runner whose runs take what a script says, on a clock of its own."""

    info = RuntimeInfo("scripted", "1", "CPU", "float32", 1)

    def __init__(self, clock, durations, log=None, name=""):
        self.clock, self.durations, self.log, self.name = clock, durations, log, name
        self.started, self.finished = 0, 0

    def prepare(self, inputs):
        self.clock.now += 7_000

    def enqueue(self):
        assert self.started == self.finished, "a run was started before the last was waited for"
        self.started += 1
        if self.log is not None:
            self.log.append(self.name)

    def synchronize(self):
        self.clock.now += self.durations(self.started)
        self.finished += 1

    def outputs(self):
        return {}

    def close(self):
        pass


class Clock:
    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


def scripted(durations, **changes):
    clock = Clock()
    options = BenchOptions(**{"warmup_seconds": 0.05, "min_seconds": 0.5, "settle_seconds": 0.005, **changes})
    log: list[str] = []
    runners = {n: Scripted(clock, d, log, n) for n, d in durations.items()}
    return measure(runners, options, clock=clock), log, runners


def test_samples_are_exactly_the_durations():
    results, _, _ = scripted({"a": lambda n: 2_000_000, "b": lambda n: 500_000})
    assert set(results["a"].samples) == {2_000_000}
    assert set(results["b"].samples) == {500_000}
    assert results["a"].n >= 200
    assert results["b"].n * 500_000 >= 0.5e9
    assert results["a"].steady
    assert results["b"].steady


def test_the_first_runs_are_not_samples_and_warm_up_waits_for_the_median():
    results, _, _ = scripted(
        {"a": lambda n: 1_000_000 + (30_000_000 if n == 1 else 200_000 * max(0, 40 - n))}, warmup_seconds=0.2
    )
    assert max(results["a"].samples) == 1_000_000
    assert results["a"].warmup_runs >= 40
    assert results["a"].steady


def test_a_median_that_never_settles_is_reported_and_does_not_last_for_ever():
    results, _, _ = scripted({"a": lambda n: int(1_000_000 * 1.02**n)}, max_seconds=5)
    assert not results["a"].steady
    assert "not stable" in results["a"].noise(10.0)


def test_turns_alternate_in_an_order_that_the_seed_decides():
    def order(seed):
        _, log, _ = scripted({"a": lambda n: 1_000_000, "b": lambda n: 1_000_000}, seed=seed)
        turns = [n for i, n in enumerate(log) if i == 0 or log[i - 1] != n]
        return "".join(turns)

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0).count("ab") + order(0).count("ba") > 15


def test_both_meet_the_same_slow_down():
    """In the second half of the time everything takes twice as long, and the ratio stands."""
    clock = Clock()
    durations = {"a": 1_000_000, "b": 900_000}

    def made(name):
        return Scripted(clock, lambda n: durations[name] * (2 if clock.now > 0.9e9 else 1))

    results = measure({n: made(n) for n in durations}, BenchOptions(warmup_seconds=0.05, min_seconds=0.5), clock=clock)
    found = compare_rounds(results["a"].rounds, results["b"].rounds)
    assert found.speedup == pytest.approx(1 / 0.9)
    assert found.verdict == "faster"
    assert results["a"].drift == pytest.approx(1.0)
    assert "drifted" in results["a"].noise(0.5)


def test_a_slow_runtime_ends_in_time():
    results, _, runners = scripted({"a": lambda n: 2_000_000_000}, max_seconds=10)
    assert 3 <= results["a"].n <= 6
    assert runners["a"].clock.now <= 40e9


def test_one_that_fails_does_not_end_the_others():
    def failing(n):
        if n > 300:
            raise RuntimeError("out of memory")
        return 1_000_000

    results, _, _ = scripted({"a": lambda n: 1_000_000, "b": failing})
    assert isinstance(results["b"], RuntimeError)
    assert results["a"].n >= 200


class CostlyClock(Clock):
    def __call__(self):
        self.now += 100
        return self.now


def test_very_short_runs_share_a_reading_of_the_clock_and_say_so():
    clock = CostlyClock()
    results = measure({"a": Scripted(clock, lambda n: 400)}, BenchOptions(max_samples=500), clock=clock)
    assert results["a"].calls_per_sample > 5
    assert results["a"].clock_overhead_ns == 100
    assert results["a"].samples == pytest.approx(400, rel=0.05)
    clock = CostlyClock()
    results = measure({"a": Scripted(clock, lambda n: 400_000)}, BenchOptions(), clock=clock)
    assert results["a"].calls_per_sample == 1


def test_the_collector_is_off_while_sampling_and_on_again():
    seen = set()
    clock = Clock()

    def duration(n):
        seen.add(gc.isenabled())
        return 1_000_000

    measure({"a": Scripted(clock, duration)}, QUICK, clock=clock)
    assert seen == {False}
    assert gc.isenabled()


def test_cold_start_is_apart():
    clock = Clock()

    def make():
        clock.now += 3_000_000_000
        return Scripted(clock, lambda n: 5_000_000)

    _, cold = cold_start(make, {}, clock=clock)
    assert cold.load_seconds == 3.0
    assert cold.first_run_seconds == pytest.approx(0.005007)


class WithDeviceClock(Scripted):
    """A runner whose device takes half of what the host waits."""

    def elapsed_ms(self):
        return self.durations(self.started) / 2e6


def test_the_device_clock_stands_beside_the_hosts():
    clock = Clock()
    found = measure_both({"a": WithDeviceClock(clock, lambda n: 2_000_000)}, QUICK, clock=clock)["a"]
    assert set(found.host.samples) == {2_000_000}
    assert set(found.device.samples) == {1_000_000}
    assert found.device.n == found.host.n
    plain = measure_both({"a": Scripted(clock, lambda n: 2_000_000)}, QUICK, clock=clock)["a"]
    assert plain.device is None


def test_end_to_end_holds_upload_and_download():
    clock = Clock()
    inner = Scripted(clock, lambda n: 2_000_000)
    found = measure_both({"a": EndToEnd(inner, {})}, QUICK, clock=clock)["a"]
    assert set(found.host.samples) == {2_007_000}


@pytest.mark.parametrize("wrap", [lambda runner: runner, lambda runner: EndToEnd(runner, {})])
def test_what_is_set_up_around_many_runs_is_in_none_of_them(wrap):
    clock = Clock()

    class WithBracket(Scripted):
        open = entered = outside = 0

        @contextlib.contextmanager
        def bracket(self):
            clock.now += 50_000_000
            self.open, self.entered = self.open + 1, self.entered + 1
            yield
            self.open -= 1

        def enqueue(self):
            self.outside += self.open == 0
            super().enqueue()

    runner, plain = WithBracket(clock, lambda n: 2_000_000), Scripted(clock, lambda n: 2_000_000)
    found = measure({"a": wrap(runner)}, QUICK, clock=clock)["a"]
    assert set(found.samples) == set(measure({"a": wrap(plain)}, QUICK, clock=clock)["a"].samples)
    assert (runner.open, runner.outside) == (0, 0)
    assert runner.entered == 1 + len(found.rounds), "once for the warm-up, once for each turn"


def test_eager_runs_in_inference_mode_within_its_bracket_and_without():
    runner = EagerRunner(torch.nn.Conv2d(2, 2, 1), keep=False)
    runner.prepare({"x": np.ones((1, 2, 3, 3), np.float32)})
    for around in (contextlib.nullcontext(), runner.bracket()):
        with around:
            runner.enqueue()
        assert runner._outputs.is_inference()
    assert not torch.is_inference_mode_enabled()


def test_a_build_is_not_load_time():
    clock = Clock()

    class Building(Scripted):
        build_seconds = 2.0

        def prepare(self, inputs):
            clock.now += 1_000_000_000
            self.build_seconds += 1.0

    def make():
        clock.now += 3_000_000_000
        return Building(clock, lambda n: 5_000_000)

    _, cold = cold_start(make, {}, clock=clock)
    assert (cold.load_seconds, cold.build_seconds) == (1.0, 3.0)
    assert cold.first_run_seconds == pytest.approx(0.005)


def test_whose_turn_it_is_is_told():
    clock, told = Clock(), []
    runners = {n: Scripted(clock, lambda n: 1_000_000) for n in ("a", "b")}
    measure_both(runners, QUICK, clock=clock, on_turn=told.append)
    assert set(told) == {"a", "b"}
    assert len(told) == 2 * (QUICK.rounds + 1)


def test_a_real_runner():
    inputs = parse_inputs(["2x8x16x16"])
    runner = EagerRunner(torch.nn.Conv2d(8, 8, 3), threads=1)
    runner.prepare(example_arrays(inputs))
    result = measure({"eager": runner}, QUICK)["eager"]
    assert result.n >= 40
    assert 0 < result.p50_ms < 1000
    assert result.percentile_ms(99) >= result.p50_ms
    assert 0 < clock_overhead_ns() < 1e6
    json.dumps(result.rounds)


def test_percentiles_that_samples_cannot_resolve():
    few = LatencyResult(((1.0,) * 20,), 1, 0.0, 10, 0.1, True)
    assert few.resolves(90)
    assert not few.resolves(99)


@pytest.mark.parametrize(
    "changes",
    [
        {"min_samples": 0},
        {"rounds": 0},
        {"threads": 0},
        {"min_seconds": -1},
        {"confidence": 95},
        {"max_samples": 10},
        {"max_seconds": 0.1},
    ],
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(InvalidRequestError, match=next(iter(changes))):
        BenchOptions(**changes)


CPUINFO_X86 = """processor\t: 0
model name\t: AMD EPYC 7763 64-Core Processor
cpu MHz\t\t: 2445.43
flags\t\t: fpu avx avx2 fma f16c avx512f avx512_vnni
"""
CPUINFO_ARM = """processor\t: 0
Features\t: fp asimd asimdhp asimddp
"""


def test_the_environment_is_read():
    found = env.describe_environment()
    assert found.usable_cores <= found.cores
    assert found.packages["torch"] == torch.__version__
    assert env.Environment.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_processors_are_recognised():
    assert env.cpu_model(CPUINFO_X86) == "AMD EPYC 7763 64-Core Processor"
    assert env.isa_flags(CPUINFO_X86) == ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni")
    assert env.isa_flags(CPUINFO_ARM) == ("asimd", "asimdhp", "asimddp")
    assert env.cgroup_quota("150000 100000\n") == 1.5
    assert env.cgroup_quota("max 100000\n") is None


def test_gpus_are_recognised():
    listed = "NVIDIA H100 80GB HBM3, 570.86.15, 9.0, 81559, 1980, 1980, 31\nOrin, 540.4, 8.7, [N/A], 306, [N/A], 45\n"
    first, second = env.parse_gpus(listed)
    assert (first.name, first.compute_capability, first.memory, first.clock) == (
        "NVIDIA H100 80GB HBM3",
        "9.0",
        81559,
        1980,
    )
    assert (second.memory, second.max_clock) == (None, None)
    assert env.parse_gpus("No devices were found\n") == ()


def test_the_commit_of_a_folder_outside_a_repository_is_none(tmp_path):
    assert env.git_commit(tmp_path) is None
