"""Outputs of ONNX Runtime on the CPU are its own memory: they outlive runs and sessions, and are nobody else's."""

from __future__ import annotations

import gc

import numpy as np
import onnx
import pytest

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


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("kind", BODIES)
def test_outputs_stay_what_they_were(kind, optimize):
    runner = OnnxRuntimeRunner(model(kind).SerializeToString(), optimize=optimize)
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
