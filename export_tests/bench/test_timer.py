"""The timer against scripted durations, and what is read of the machine."""

from __future__ import annotations

import contextlib
import gc
import json

import numpy as np
import pytest
import torch

from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.statistics import (
    compare_rounds,
)
from attn_deploy.bench.timer import EndToEnd, clock_overhead_ns, cold_start, measure, measure_both
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.machine import environment as env
from attn_deploy.runtimes.base import RuntimeInfo
from attn_deploy.runtimes.eager import EagerRunner

QUICK = BenchOptions(min_samples=40, min_seconds=0, warmup_seconds=0.01, max_seconds=5, settle_seconds=0.001, threads=1)


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
    clock, texts = Clock(), []
    runners = {n: Scripted(clock, lambda n: 1_000_000) for n in ("a", "b")}
    measure_both(runners, QUICK, clock=clock, on_turn=texts.append)
    assert set(texts) == {"a", "b"}
    assert len(texts) == 2 * (QUICK.rounds + 1)


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
