"""Outputs of ONNX Runtime on the CPU are its own memory: they outlive runs and sessions, and are nobody else's."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from attn_deploy.processes import give_freed_memory_back
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

SIZE = 1_000_000
BODIES = {
    "computed": "y = Relu(x)",
    "an input": "x2 = Relu(x)",
    "an initializer": "y = Identity(w)",
    "folded": "y = Add(w, w)",
}


def model(kind):
    output = "x" if kind == "an input" else "y"
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] {output}, float[N] z) '
        f"<float[{SIZE}] w> {{ {BODIES[kind]} z = Abs(x) }}"
    )
    parsed = onnx.parser.parse_model(text)
    del parsed.graph.initializer[:]
    parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(SIZE, dtype=np.float32), "w"))
    return parsed


@pytest.mark.parametrize(("optimize", "shrink"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("kind", BODIES)
def test_outputs_stay_what_they_were(kind, optimize, shrink):
    runner = OnnxRuntimeRunner(model(kind).SerializeToString(), optimize=optimize, shrink=shrink)
    given = np.ones(SIZE, np.float32)
    first = run_once(runner, {"x": given})
    copies = {n: a.copy() for n, a in first.items()}
    given[:] = 5.0
    second = run_once(runner, {"x": given})
    runner.enqueue()  # once more on the same inputs: it must not write over what was handed out
    third = runner.outputs()
    runner.close()
    del runner
    gc.collect()
    others = [np.full(SIZE, 7.0, np.float32) for _ in range(20)]  # memory that was freed is taken by these
    for name, copy in copies.items():
        np.testing.assert_array_equal(first[name], copy)
        assert not np.shares_memory(first[name], second[name])
        assert not np.shares_memory(second[name], third[name])
        assert not np.shares_memory(second[name], given)
    np.testing.assert_array_equal(second["z"], 5.0)
    np.testing.assert_array_equal(third["z"], 5.0)
    assert all((o == 7.0).all() for o in others)


def resident_megabytes():
    give_freed_memory_back()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="this system does not say how much memory is resident"
)
def test_memory_of_a_run_is_given_back_where_that_is_asked_for():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float y) {
        a = Exp(x) b = Add(a, x) c = Mul(a, b) y = ReduceMax <keepdims = 0> (c) }"""
    inputs = {"x": np.full(10_000_000, 0.0, np.float32)}
    kept = {}
    for shrink in (True, False):
        runner = OnnxRuntimeRunner(onnx.parser.parse_model(text).SerializeToString(), optimize=False, shrink=shrink)
        before = resident_megabytes()
        for _ in range(3):
            (value,) = run_once(runner, inputs).values()
            assert value == 1.0
        kept[shrink] = resident_megabytes() - before
        runner.close()
    assert kept[True] + 30 < kept[False], (
        "tensors of 40 MB: the first regions that ONNX Runtime took stay, the last goes"
    )
