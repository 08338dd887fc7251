"""Statistics against numpy and against planted differences, made up and recorded under load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from attn_deploy.errors import InvalidRequestError

times = st.lists(st.floats(1.0, 1e9), min_size=1, max_size=40)
rounds = st.lists(times, min_size=1, max_size=20)


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
    with np.load(Path(__file__).with_name("same_twice.npz")) as file:
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


def test_percentiles_that_samples_cannot_resolve():
    few = LatencyResult(((1.0,) * 20,), 1, 0.0, 10, 0.1, True)
    assert few.resolves(90)
    assert not few.resolves(99)


def test_the_interval_contains_the_ratio_of_the_medians_that_are_shown():
    rng = np.random.default_rng(11)
    for _ in range(40):
        a, b = (rng.lognormal(0, 0.4, (20, 8)) * rng.choice([1.0, 2.5], (20, 1)) for _ in range(2))
        outcome = compare_rounds(a, b, resamples=50)
        shown = percentile(pooled(a), 50) / percentile(pooled(b), 50)
        assert outcome.interval.low <= min(shown, outcome.speedup) * (1 + 1e-9)
        assert outcome.interval.high >= max(shown, outcome.speedup) * (1 - 1e-9)


def test_a_machine_with_two_speeds_shows_both_and_decides_less():
    """Round for round both are as fast; the medians of all samples say twice as fast, and neither is hidden."""
    levels = [1.0] * 10 + [2.0] * 11
    baseline = [[level] * 12 for level in levels]
    candidate = [[level] * (30 if level == 1 else 12) for level in levels]
    outcome = compare_rounds(baseline, candidate)
    assert outcome.speedup == 1
    assert (outcome.interval.low, outcome.interval.high) == pytest.approx((1, 2))
    assert outcome.verdict == "no difference"


def test_a_noisy_row_is_never_a_verdict():
    fast, slow = [[1e6] * 20] * 20, [[1548e6] * 20] * 20
    assert compare_rounds(slow, fast).verdict == "faster"
    assert compare_rounds(slow, fast, noisy=True).verdict == "undecided"
