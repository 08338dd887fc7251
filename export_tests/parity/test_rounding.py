"""Whether an error is rounding, where one run in float32 says too little of what float32 does to a model."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.parity.neighbours import neighbouring_arrays, neighbouring_module
from attn_deploy.parity.reference import EagerReference
from attn_deploy.parity.rounding import is_rounding
from attn_deploy.parity.tolerance import NEIGHBOURS, NOISE_FACTOR
from attn_deploy.parity.verify import verify_against
from attn_deploy.runtimes.base import run_once


class Nearly(nn.Module):
    """A large sum from which nearly all is taken away; its weights have no fraction, so that one order has no rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Parameter(torch.full((4,), 2.0**14))

    def forward(self, x):
        return x + self.large - 2.0**14 + x.mean() * 0


class Two(nn.Module):
    """An output that rounds much, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.nearly = Nearly()
        self.scale = nn.Parameter(torch.full((4,), 0.5))

    def forward(self, x):
        return self.nearly(x), x * self.scale


WHOLE = {"x": np.arange(1, 9, dtype=np.float32).reshape(2, 4)}


def outputs(module: nn.Module) -> tuple[EagerReference, dict[str, np.ndarray]]:
    reference = EagerReference(module.eval())
    return reference, dict(run_once(reference.runner, WHOLE))


def test_neighbours_differ_in_the_last_bit():
    module = nn.Conv2d(2, 3, 1)
    with torch.no_grad():
        module.bias[0], module.bias[1] = 0.0, float("inf")
    other = neighbouring_module(module, 0)
    for ours, theirs in zip(module.parameters(), other.parameters(), strict=True):
        a, b = ours.detach().numpy(), theirs.detach().numpy()
        apart = np.abs(a.view(np.int32).astype(np.int64) - b.view(np.int32))
        stays = (a == 0) | ~np.isfinite(a)
        assert (apart[stays] == 0).all()
        assert (apart[~stays] == 1).all()
    assert not torch.equal(other.weight, neighbouring_module(module, 1).weight)


def test_inputs_of_other_types_have_no_neighbours():
    arrays = {"x": np.ones((3, 3), np.float32), "ids": np.arange(4), "mask": np.zeros(2, np.float32)}
    moved = neighbouring_arrays(arrays, 0)
    assert (moved["x"] != 1).all()
    assert np.abs(moved["x"] - 1).max() < 2e-7
    assert moved["ids"] is arrays["ids"]
    assert not moved["mask"].any()


def test_a_lucky_run_of_the_model_is_no_measure():
    reference, right = outputs(Nearly())
    exact = run_once(reference.precise(), WHOLE)
    assert all(np.array_equal(exact[n], right[n]) for n in right)  # this run rounds nothing at all
    ((name, value),) = right.items()
    step = np.float32(2.0**-10)  # the last bit of the large sum
    excused, noise = is_rounding(reference.rounding, WHOLE, right, {name: value + step}, [name])
    assert excused
    assert noise is not None
    assert step <= NOISE_FACTOR * noise
    wrong, _ = is_rounding(reference.rounding, WHOLE, right, {name: value + 64 * step}, [name])
    assert not wrong


def test_one_output_does_not_excuse_another():
    reference, right = outputs(Two())
    first, second = right
    step = np.float32(2.0**-10)
    got = {first: right[first] + step, second: right[second]}
    assert is_rounding(reference.rounding, WHOLE, right, got, [first])[0]
    got = {first: right[first], second: right[second] + step}
    assert not is_rounding(reference.rounding, WHOLE, right, got, [second])[0]


def test_what_is_far_beside_the_values_asks_no_neighbour(monkeypatch):
    reference, right = outputs(Nearly())
    asked = []
    monkeypatch.setattr(EagerReference, "neighbour", lambda self, seed, steps: asked.append(seed))
    ((name, value),) = right.items()
    assert not is_rounding(reference.rounding, WHOLE, right, {name: value * np.float32(1.5)}, [name])[0]
    assert not asked


def test_a_model_that_rounds_everything_away_excuses_nothing():
    """In float32 the small values are lost in the large ones, so that nothing is proven of what a graph makes of them."""

    class Lost(nn.Module):
        def forward(self, x):
            return (x + 2.0**26) - 2.0**26

    reference, right = outputs(Lost())
    ((name, value),) = right.items()
    exact = run_once(reference.precise(), WHOLE)[name]
    assert np.abs(exact - value).max() >= 2  # of values up to 8
    excused, noise = is_rounding(reference.rounding, WHOLE, right, {name: value + np.float32(1)}, [name])
    assert not excused
    assert noise >= 2


def test_so_many_neighbours_are_asked_and_no_more():
    reference, right = outputs(Nearly())
    asked = []
    rounding = copy.copy(reference.rounding)
    object.__setattr__(
        rounding, "neighbour", lambda seed, steps: asked.append(seed) or reference.neighbour(seed, steps)
    )
    ((name, value),) = right.items()
    assert not is_rounding(rounding, WHOLE, right, {name: value + np.float32(2.0**-6)}, [name])[0]
    assert asked == list(range(NEIGHBOURS))


@pytest.mark.parametrize(("offset", "passes"), [(0.0, True), (2.0**-10, True), (2.0**-4, False)])
def test_a_graph_that_rounds_in_another_order(offset, passes):
    """As the proof of an export has it."""
    nodes = [helper.make_node("Add", ["x", "offset"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 4]) for n in "xy")
    constant = helper.make_tensor("offset", TensorProto.FLOAT, [], [offset])
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [constant]), opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    reference = EagerReference(Nearly().eval(), ["y"])
    report = verify_against(reference, model.SerializeToString(), parse_inputs(["x:2x4"]), ())
    assert report.passed is passes
