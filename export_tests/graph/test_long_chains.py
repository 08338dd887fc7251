"""Graphs of ten thousand nodes: four times as many nodes take about four times as long, in whatever reads a graph."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import attn_deploy
from attn_deploy.diagnosis.contents import inspect
from attn_deploy.parity.files import verify_files

OPERATORS = ("Relu", "Neg", "Abs", "Sigmoid")
FEW, MANY = 2_500, 10_000
WORST = 8  # times the time, for four times the nodes: quadratic work has sixteen


def plain(count):
    """A chain of operators without weights."""
    names = ["x", *(f"t{k}" for k in range(count - 1)), "y"]
    nodes = [
        helper.make_node(
            OPERATORS[k % 4], [names[k]], [names[k + 1]], name=f"/layer{k // 50}/{k % 50}/{OPERATORS[k % 4]}"
        )
        for k in range(count)
    ]
    return nodes, []


def shapes(count):
    """Shape arithmetic and a Reshape before each operator, as exporters write it."""
    nodes, name = [], "x"
    for k in range(count // 5):
        last = "y" if k == count // 5 - 1 else f"t{k}"
        nodes += [
            helper.make_node("Shape", [name], [f"s{k}"], name=f"/m{k}/Shape"),
            helper.make_node("Gather", [f"s{k}", "zero"], [f"g{k}"], axis=0, name=f"/m{k}/Gather"),
            helper.make_node("Concat", [f"g{k}", "rest"], [f"c{k}"], axis=0, name=f"/m{k}/Concat"),
            helper.make_node("Reshape", [name, f"c{k}"], [f"r{k}"], name=f"/m{k}/Reshape"),
            helper.make_node("Relu", [f"r{k}"], [last], name=f"/m{k}/Relu"),
        ]
        name = last
    weights = [numpy_helper.from_array(np.array(v), n) for n, v in (("zero", [0]), ("rest", [3, 4, 4]))]
    return nodes, weights


COMMANDS = {
    "inspect": lambda path: inspect(path),
    "convert": lambda path: attn_deploy.convert(path, path.with_name("out.onnx"), opset=17),
    "simplify": lambda path: attn_deploy.simplify(path, path.with_name("out.onnx")),
    "verify": lambda path: verify_files(path, path),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("chains")
    for make in (plain, shapes):
        for count in (50, FEW, MANY):
            nodes, weights = make(count)
            value = helper.make_tensor_value_info
            graph = helper.make_graph(
                nodes, "g", [value("x", 1, ("N", 3, 4, 4))], [value("y", 1, ("N", 3, 4, 4))], weights
            )
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
            onnx.save(model, place / f"{make.__name__}-{count}.onnx")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "shapes"])
@pytest.mark.parametrize("command", COMMANDS)
def test_time_grows_with_the_nodes_and_not_with_their_square(command, kind, files):
    def seconds(count):
        began = time.process_time()
        COMMANDS[command](files / f"{kind}-{count}.onnx")
        return time.process_time() - began

    with attn_deploy.unguarded():
        seconds(50)  # what is loaded once
        few, many = seconds(FEW), seconds(MANY)
    assert many < WORST * max(few, 0.05), f"{few:.2f} s for {FEW} nodes, {many:.2f} s for {MANY}"
