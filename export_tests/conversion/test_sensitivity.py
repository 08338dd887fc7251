"""The search for the layers that an 8-bit graph is better off without."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from attn_deploy.conversion.sensitivity import SINGLY, fewest, sensitivities
from attn_deploy.deploy.quantize import quantize
from attn_deploy.graph.quantize import Layer


def one_bad_layer_of_two(path):
    """A convolution whose channels are 1e4 apart, so that one scale for its input does not do, and one that is easy."""
    rng = np.random.default_rng(0)
    spread = np.ones((4, 4, 1, 1), np.float32) * np.float32([1e-4, 1, 1, 1e4])[None, :, None, None]
    constants = {
        "scale": np.float32([1e4, 1, 1, 1e-4]).reshape(1, 4, 1, 1),
        "bad": (rng.normal(size=(4, 4, 1, 1)) * spread).astype(np.float32),
        "easy": rng.normal(size=(4, 4, 3, 3)).astype(np.float32),
    }
    make = onnx.helper.make_node
    nodes = [
        make("Mul", ["x", "scale"], ["wide"]),
        make("Conv", ["wide", "bad"], ["a"], name="bad"),
        make("Conv", ["a", "easy"], ["y"], name="easy", pads=[1, 1, 1, 1]),
    ]
    dims = ["N", 4, 16, 16]
    sides = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, dims) for n in ("x", "y")]
    arrays = [onnx.numpy_helper.from_array(a, n) for n, a in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", sides[:1], sides[1:], arrays)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_wrong_order_of_groups_is_no_refusal(tmp_path, monkeypatch):
    """Groups can hide the layer to blame; then each is judged by itself before anything is refused."""
    asked: list[bool] = []

    def misled(
        layers: Sequence[Layer],
        error: Callable[[Sequence[Layer]], float],
        *,
        by_halves: bool,
        progress: Callable[[str], None],
    ) -> list[tuple[Layer, float]]:
        asked.append(by_halves)
        order = sensitivities(layers, error, by_halves=by_halves, progress=progress)
        return order[::-1] if by_halves else order

    monkeypatch.setattr("attn_deploy.conversion.quantizer.sensitivities", misled)
    path = one_bad_layer_of_two(tmp_path / "m.onnx")
    artifact = quantize(path, tmp_path / "q.onnx", target="gpu")
    record = json.loads(artifact.metadata["quantization"])
    assert asked == [True, False]
    assert [y["node"] for y in record["sensitive"]] == ["bad"]


def layers_named(*names: str) -> list[Layer]:
    return [Layer(n, "Conv", "", 0) for n in names]


@pytest.mark.parametrize("most", [1, 2, 3, 15, 16, 59, 200])
def test_the_search_gives_a_count_that_was_asked_and_is_near_the_smallest(most):
    for smallest in range(1, most + 1):
        asked: dict[int, bool] = {}

        def met(count: int, smallest: int = smallest, asked: dict[int, bool] = asked) -> bool:
            asked[count] = count >= smallest
            return asked[count]

        count = fewest(most, met)
        assert smallest <= count <= smallest + most // 16
        assert (
            asked[count] if count < most else smallest == most
        )  # nothing is refused that a smaller count would do for


def test_each_layer_is_judged_where_halves_did_not_do():
    names = [f"c{k}" for k in range(3 * SINGLY)]
    loud = {"c3", "c20"}
    judged: list[int] = []

    def error(group):
        judged.append(len(group))
        return float(sum(y.node in loud for y in group))

    by_halves = sensitivities(layers_named(*names), error, by_halves=True, progress=lambda _: None)
    assert {y.node for y, _ in by_halves[:2]} == loud
    assert len(judged) < len(names)
    judged.clear()
    singly = sensitivities(layers_named(*names), error, by_halves=False, progress=lambda _: None)
    assert {y.node for y, _ in singly[:2]} == loud
    assert judged == [1] * len(names)
