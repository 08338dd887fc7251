"""Ranges of histograms, and values that are rounded into eight bits."""

from __future__ import annotations

import numpy as np
import pytest

from attn_deploy.graph.quantize import METHODS, Histogram, quant_format


def test_ranges_of_a_histogram_do_not_depend_on_the_order_of_batches():
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal(5000) * s for s in (0.1, 1.0, 7.0, 0.5)]
    made = []
    for order in (batches, batches[::-1]):
        histogram = Histogram()
        for batch in order:
            histogram.add(batch)
        made.append(histogram)
    assert made[0].largest == made[1].largest == max(np.abs(b).max() for b in batches)
    assert made[0].counts.sum() == made[1].counts.sum() == 20_000
    for method in METHODS:
        assert made[0].range(method) == pytest.approx(made[1].range(method), rel=0.05)


def test_ranges_cut_what_is_far_and_rare():
    histogram = Histogram()
    histogram.add(np.concatenate([np.random.default_rng(0).standard_normal(100_000), [80.0]]))
    assert histogram.range("minmax") == 80.0
    assert 3.0 < histogram.range("percentile") < 6.0
    assert 2.0 < histogram.range("entropy") < 10.0
    zeros = Histogram()
    zeros.add(np.zeros(10))
    assert [zeros.range(m) for m in METHODS] == [0.0, 0.0, 0.0]


def test_values_are_rounded_to_the_nearest_step_and_cut_at_the_end():
    int8, fp8 = quant_format("int8"), quant_format("fp8")
    assert int8.quantized(np.array([0.0, 0.4, 0.6, -1.5, 200.0, -200.0]), np.array(1.0)).tolist() == [
        0,
        0,
        1,
        -2,
        127,
        -127,
    ]
    assert fp8.quantized(np.array([1.0, 500.0, -1e9]), np.array(1.0)).astype(np.float32).tolist() == [
        1.0,
        448.0,
        -448.0,
    ]
    assert int8.scale(np.array([0.0, 12.7])).tolist() == [1.0, pytest.approx(0.1)]
