"""A judge of a coarser graph: how much it asks before it answers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attn_deploy.parity import judge as module
from attn_deploy.parity.judge import LARGEST_ERROR, Judge


def scaled(factor: float) -> onnx.ModelProto:
    """A graph that multiplies its input."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    floats = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xy"]
    constant = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    graph = helper.make_graph([node], "scaled", floats[:1], floats[1:], [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def judge_of(*sizes: float) -> Judge:
    """A judge with one sample of each size."""
    ramp = np.linspace(0.5, 1.0, 4, dtype=np.float32)[None]
    return Judge(scaled(1.0), [{"x": ramp * np.float32(s)} for s in sizes])


@pytest.fixture
def runs(monkeypatch):
    """Counts the samples that graphs ran on."""
    count = []

    def counted(runner, arrays):
        count.append(1)
        return original(runner, arrays)

    original = module.run_once
    monkeypatch.setattr(module, "run_once", counted)
    return count


def test_a_hopeless_graph_is_asked_once(runs):
    judge = judge_of(1, 1, 1, 1)
    runs.clear()
    judged = judge(scaled(1.5), beyond=LARGEST_ERROR)
    assert len(runs) == judged.samples == 1
    assert judged.error > LARGEST_ERROR


def test_a_good_graph_is_asked_everything(runs):
    judge = judge_of(1, 1, 1, 1)
    runs.clear()
    judged = judge(scaled(1.01), beyond=LARGEST_ERROR)
    assert len(runs) == judged.samples == 4
    assert judged.error == pytest.approx(0.01, rel=0.01)


def test_a_bad_sample_that_others_outweigh_decides_nothing():
    clipped = scaled(1.0)
    clipped.graph.node[0].op_type, clipped.graph.node[0].input[1] = "Max", "least"
    clipped.graph.initializer.append(helper.make_tensor("least", TensorProto.FLOAT, [], [0.05]))
    judge = judge_of(0.01, 10, 10, 10)
    alone = judge(clipped, batches=1)
    judged = judge(clipped, beyond=LARGEST_ERROR)
    assert alone.error > LARGEST_ERROR  # its first sample's values are lifted five times and more
    assert judged.samples == 4
    assert judged.error < LARGEST_ERROR


def test_the_samples_that_ran_are_those_judged():
    judge = judge_of(1, 1, 1, 1, 1, 1, 1, 1)
    judged = judge(scaled(1.2), beyond=LARGEST_ERROR)  # after one, and two, the rest could still make up for it
    assert 1 < judged.samples < 8
    assert judged.error == pytest.approx(0.2, rel=0.01)
