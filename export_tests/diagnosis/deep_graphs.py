"""Deep models and chains of operators, and copies of them with wrong weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import attn_deploy
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.evidence import read_evidence, write_evidence
from attn_deploy.inputs.grammar import parse_inputs
from export_tests.engine.engine_graphs import FLOAT, node, save

DEEP = str(Path(__file__).parents[1] / "exporters" / "user_models" / "deep_blocks.py") + ":DeepBlocks"
SIZE = parse_inputs(["2x3x12x12"])
SHAPE = ["N", 4, "H", "W"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deep") / "deep.onnx"
    attn_deploy.export(f"{DEEP}:depth=4", path, inputs=SIZE, verify=False)
    return path


def chain(path: Path, *, bias: dict[int, float] | None = None, scopes: bool = False, length: int = 6) -> Path:
    """1x1 convolutions and Tanh in turn; ``bias`` adds to that of some convolutions."""
    rng = np.random.default_rng(0)
    nodes, constants, last = [], {}, "x"
    for k in range(length):
        constants[f"w{k}"] = (rng.standard_normal((4, 4, 1, 1)) * 0.5).astype(np.float32)
        constants[f"b{k}"] = np.full(4, (bias or {}).get(k, 0.0), np.float32)
        module = f"body.{k}" if scopes else ""
        nodes.append(node("Conv", [last, f"w{k}", f"b{k}"], [f"c{k}"], module=module and f"{module}.conv"))
        nodes.append(node("Tanh", [f"c{k}"], [f"t{k}"], module=module))
        last = f"t{k}"
    return save(path, nodes, [("x", FLOAT, SHAPE)], [(last, FLOAT, SHAPE)], constants)


def with_weight(source: Path, target: Path, **changes: float) -> Path:
    """A copy of a file with something added to the first element of some weights."""
    model = load_model(source)
    for tensor in model.graph.initializer:
        if tensor.name.replace(".", "_") in changes:
            array = numpy_helper.to_array(tensor).copy()
            array.flat[0] += changes.pop(tensor.name.replace(".", "_"))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert not changes, "no weight of that name"
    evidence = read_evidence(model)
    if evidence is not None:
        write_evidence(model, evidence)  # as if the wrong weights had been there from the start: the seal is whole
    onnx.save(model, target)
    return target
