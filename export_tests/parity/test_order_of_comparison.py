"""In which order shapes are compared, and what is left out once one is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import verification_batches
from attn_deploy.parity.verify import compare
from attn_deploy.runtimes.base import RuntimeInfo


class Sum:
    """Adds up each image; of images of the batches in ``wrong`` one more than that."""

    info = RuntimeInfo("a sum", "1", "CPU", "float32", None, {})

    def __init__(self, wrong=()):
        self.wrong, self.batches = wrong, []

    def prepare(self, inputs):
        self.images = inputs["x"]

    def enqueue(self):
        self.batches.append(len(self.images))

    def synchronize(self):
        pass

    def outputs(self):
        sums = self.images.reshape(len(self.images), -1).sum(1).astype(np.float32)
        return {"y": sums + (len(self.images) in self.wrong)}

    def close(self):
        pass


INPUTS = parse_inputs(["2x3x8x8"])


def compared(candidate, **settings):
    return compare(Sum(), candidate, INPUTS, ("N",), **settings)


def test_the_largest_comes_first_and_the_traced_one_last():
    candidate = Sum()
    report = compared(candidate)
    sizes = [len(b.arrays["x"]) for b in verification_batches(INPUTS, ("N",))]
    assert sizes[0] == 2
    assert candidate.batches == [*sorted(sizes[1:], reverse=True), 2]
    assert [next(iter(c.shapes.values()))[0] for c in report.cases] == sizes, "the report has them in the usual order"
    assert [c.traced for c in report.cases] == [True, False, False, False, False]


@pytest.mark.parametrize("wrong", [(4,), (2, 4), (1, 2, 3, 4, 5), (2,)])
def test_behind_a_wrong_one_only_the_traced_sizes_are_compared(wrong):
    candidate = Sum(wrong)
    report = compared(candidate, until_wrong=True)
    untraced = sorted((len(b.arrays["x"]) for b in verification_batches(INPUTS, ("N",))[1:]), reverse=True)
    first = next((k for k, n in enumerate(untraced) if n in wrong), len(untraced))
    assert candidate.batches == [*untraced[: first + 1], 2]
    assert not report.passed
    assert report.cases[0].traced
    assert report.cases[0].passed == (2 not in wrong)
