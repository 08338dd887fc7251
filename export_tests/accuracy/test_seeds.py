"""Differences over seeds: Student's t against tables and by simulation, and Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest

from attn_deploy.accuracy.seeds import compare_seeds, holm, t_quantile, t_tail

# Two-sided 95 % and 99 % points, as every table has them.
TABLE = {
    1: (12.706, 63.657),
    2: (4.303, 9.925),
    3: (3.182, 5.841),
    4: (2.776, 4.604),
    7: (2.365, 3.499),
    10: (2.228, 3.169),
}


@pytest.mark.parametrize("freedom", TABLE)
def test_the_quantiles_of_the_tables(freedom):
    for share, expected in zip((0.975, 0.995), TABLE[freedom], strict=True):
        assert t_quantile(share, freedom) == pytest.approx(expected, abs=6e-4)
        assert t_tail(expected, freedom) == pytest.approx(1 - share, abs=2e-5)
    assert t_tail(0.0, freedom) == pytest.approx(0.5)


def test_the_difference_of_two_means():
    found = compare_seeds([0.92, 0.93, 0.94], [0.90, 0.91, 0.92])
    assert found.difference == pytest.approx(0.02)
    assert found.freedom == 4
    assert found.p_value == pytest.approx(0.0705, abs=2e-4)  # t = 2.449
    assert (found.low, found.high) == (pytest.approx(-0.00267, abs=1e-5), pytest.approx(0.04267, abs=1e-5))


def test_one_seed_is_held_against_the_spread_of_the_other_side():
    found = compare_seeds([0.95], [0.90, 0.91, 0.92])
    assert found.freedom == 2
    assert found.p_value == pytest.approx(2 * t_tail(0.04 / (0.01 * (1 + 1 / 3) ** 0.5), 2))
    assert found.low < 0 < found.high, "one seed and three show little"


@pytest.mark.parametrize(("values", "baseline"), [([0.9], [0.8]), ([0.9, 0.9], [0.8, 0.8])])
def test_too_few_seeds_have_no_significance(values, baseline):
    found = compare_seeds(values, baseline)
    assert found.difference == pytest.approx(0.1)
    assert found.p_value is None
    assert found.low is None


def test_without_a_difference_one_in_twenty_is_found():
    """One seed against three, and three against three, two thousand times each."""
    generator = np.random.default_rng(0)
    for count in (1, 3):
        draws = generator.standard_normal((2000, count + 3))
        hits = [compare_seeds(list(d[:count]), list(d[count:])).p_value < 0.05 for d in draws]
        assert 0.035 < np.mean(hits) < 0.065, count


def test_holm():
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None]) == [None]
