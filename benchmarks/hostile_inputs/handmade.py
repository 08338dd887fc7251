"""Graphs that nobody's exporter writes: no end, no size, no numbers, nothing to compare."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hostile_inputs.case import Case, on_file

node, value = helper.make_node, helper.make_tensor_value_info


@dataclass
class Graph:
    """What a graph is made of, and whether a command that accepts it is wrong."""

    nodes: list[onnx.NodeProto]
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: tuple[object, object] = ((1, 4), (1, 4))
    fails: bool = True
    skip: tuple[str, ...] = ()
    opset: int = 17
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT)


# What only runs a file, or says what is in it, may do so with a graph that gives nothing to compare.
COMPARE_NOT = ("inspect", "run", "build", "profile", "evaluate", "diagnose", "package", "verify")


def handmade(chance: random.Random, folder: Path) -> Case:
    """One of the graphs."""
    made = chance.choice(GRAPHS)(chance)
    graph = helper.make_graph(
        made.nodes,
        "g",
        [value("x", made.kinds[0], made.shapes[0])],
        [value("y", made.kinds[1], made.shapes[1])],
        [numpy_helper.from_array(a, n) for n, a in made.weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", made.opset)], ir_version=8)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return on_file(chance, folder / "m.onnx", must_fail=made.fails, skip=made.skip)


def _huge(chance: random.Random) -> int:
    return chance.choice((10**9, 10**12, 2**40))


def _int_min(chance: random.Random) -> Graph:
    nodes = [node(chance.choice(("Div", "Mod")), ["a", "b"], ["c"])]
    nodes += [node("Cast", ["c"], ["f"], to=1), node("Add", ["x", "f"], ["y"])]
    return Graph(nodes, {"a": np.array([-(2**63)]), "b": np.array([chance.choice((-1, 0))])}, fails=False)


def _constant(chance: random.Random) -> Graph:
    nodes = [node("ConstantOfShape", ["s"], ["c"]), node("ReduceSum", ["c"], ["r"], keepdims=0)]
    sizes = chance.choice(([_huge(chance)], [2**20, 2**20], [2**32, 2**32], [-1, 4], [1000] * 8))
    return Graph([*nodes, node("Add", ["x", "r"], ["y"])], {"s": np.array(sizes)})


def _hidden_constant(chance: random.Random) -> Graph:
    """The size comes out of arithmetic on constants."""
    nodes = [
        node("Mul", ["a", "b"], ["s"]),
        node("ConstantOfShape", ["s"], ["c"]),
        node("ReduceSum", ["c"], ["r"], keepdims=0),
        node("Add", ["x", "r"], ["y"]),
    ]
    return Graph(nodes, {"a": np.array([10**6]), "b": np.array([chance.choice((10**5, 10**6))])})


def _sized_by_input(chance: random.Random) -> Graph:
    """The size comes out of the shape of an input, many times over."""
    nodes = [node("Shape", ["x"], ["s0"])]
    for k in range(20):
        nodes.append(node("Mul", [f"s{k}", "ten"], [f"s{k + 1}"]))
    kind = chance.choice(("ConstantOfShape", "Expand"))
    nodes.append(node(kind, ["s20"] if kind == "ConstantOfShape" else ["one", "s20"], ["c"]))
    nodes += [node("ReduceSum", ["c"], ["r"], keepdims=0), node("Add", ["x", "r"], ["y"])]
    return Graph(nodes, {"ten": np.array([10, 10]), "one": np.ones((1, 1), np.float32)}, skip=("inspect", "build"))


def _expand(chance: random.Random) -> Graph:
    kind = chance.choice(("Expand", "Tile"))
    sizes = {"Expand": [_huge(chance), 1, 4], "Tile": [_huge(chance), 2]}[kind]
    return Graph([node(kind, ["x", "s"], ["c"]), node("ReduceSum", ["c"], ["y"])], {"s": np.array(sizes)})


def _tiles(chance: random.Random) -> Graph:
    """Each step doubles or multiplies what the one before made."""
    steps = chance.choice((4, 8))
    nodes = [node("Tile", ["x" if k == 0 else f"t{k}", "s"], [f"t{k + 1}"]) for k in range(steps)]
    nodes.append(node("ReduceSum", [f"t{steps}"], ["y"]))
    return Graph(nodes, {"s": np.array([1000, 1000 if steps == 4 else 100])})


def _concats(chance: random.Random) -> Graph:
    """Forty doublings of one tensor."""
    nodes = [node("Concat", [f"t{k}" if k else "x"] * 2, [f"t{k + 1}"], axis=0) for k in range(40)]
    return Graph([*nodes, node("ReduceSum", ["t40"], ["y"])], skip=("inspect",))


def _range(chance: random.Random) -> Graph:
    ends = chance.choice(((0, _huge(chance), 1), (0, 10, 0), (0.0, 1.0, 1e-12), (0.0, float("inf"), 1.0)))
    kind = np.int64 if all(isinstance(e, int) for e in ends) else np.float64
    nodes = [node("Range", ["a", "b", "c"], ["r"]), node("Cast", ["r"], ["f"], to=1)]
    nodes += [node("ReduceSum", ["f"], ["s"], keepdims=0), node("Add", ["x", "s"], ["y"])]
    return Graph(nodes, dict(zip("abc", (np.array(e, kind) for e in ends), strict=True)))


def _resize(chance: random.Random) -> Graph:
    sizes = chance.random() < 0.5
    wish = np.array([1, 1, _huge(chance), 4]) if sizes else np.array([1, 1, 1e7, 1e3], np.float32)
    nodes = [node("Resize", ["x", "", "", "w"] if sizes else ["x", "", "w"], ["r"]), node("ReduceSum", ["r"], ["y"])]
    return Graph(nodes, {"w": wish}, ((1, 1, 4, 4), (1, 1, 1, 1)))


def _pad(chance: random.Random) -> Graph:
    pads = chance.choice(([0, 0, _huge(chance), 0], [0, 0, -100, 0]))
    nodes = [node("Pad", ["x", "p"], ["r"]), node("ReduceSum", ["r"], ["y"])]
    return Graph(nodes, {"p": np.array(pads)}, fails=pads[2] > 0)


def _one_hot(chance: random.Random) -> Graph:
    nodes = [node("Cast", ["x"], ["i"], to=7), node("OneHot", ["i", "d", "v"], ["o"]), node("ReduceSum", ["o"], ["s"])]
    nodes += [node("ReduceSum", ["s"], ["t"], keepdims=0), node("Add", ["x", "t"], ["y"])]
    return Graph(nodes, {"d": np.array(_huge(chance)), "v": np.array([0, 1], np.float32)})


def _product(chance: random.Random) -> Graph:
    """An outer product that squares what is there."""
    nodes = [node("Reshape", ["x", "col"], ["a0"])]
    for k in range(6):
        nodes += [node("Reshape", [f"a{k}", "col"], [f"c{k}"]), node("Reshape", [f"a{k}", "row"], [f"r{k}"])]
        nodes.append(node("MatMul", [f"c{k}", f"r{k}"], [f"a{k + 1}"]))
    nodes.append(node("ReduceSum", ["a6"], ["y"]))
    return Graph(nodes, {"col": np.array([-1, 1]), "row": np.array([1, -1])}, skip=("inspect", "build"))


def _extents(chance: random.Random) -> Graph:
    size = chance.choice((2**40, -5, 2**62))
    return Graph([node("Relu", ["x"], ["y"])], shapes=((size, 4), (1, 4)))


def _einsum(chance: random.Random) -> Graph:
    equation = chance.choice(("ij,jk->ik", "i" * 60, "->", "ij,jk", "ij,kl->" + "ijkl" * 9, "é,…->", "...,...->..."))
    return Graph(
        [node("Einsum", ["x", "w"], ["y"], equation=equation)], {"w": np.zeros((4, 4), np.float32)}, fails=False
    )


def _loop(chance: random.Random) -> Graph:
    body = helper.make_graph(
        [node("Identity", ["c"], ["o"])],
        "b",
        [value("i", TensorProto.INT64, ()), value("c", TensorProto.BOOL, ())],
        [value("o", TensorProto.BOOL, ())],
    )
    count = chance.choice((True, False))
    inputs = ["n", ""] if count else ["", "t"]
    weights = {"n": np.array(_huge(chance))} if count else {"t": np.array(True)}
    return Graph([node("Loop", inputs, [], body=body), node("Relu", ["x"], ["y"])], weights)


def _loops(chance: random.Random) -> Graph:
    """Loops within loops, each of which ends soon."""
    names = iter(range(100))

    def body(inner: list[onnx.NodeProto]) -> onnx.GraphProto:
        n = next(names)
        return helper.make_graph(
            [*inner, node("Identity", [f"c{n}"], [f"o{n}"])],
            f"b{n}",
            [value(f"i{n}", TensorProto.INT64, ()), value(f"c{n}", TensorProto.BOOL, ())],
            [value(f"o{n}", TensorProto.BOOL, ())],
        )

    nodes: list[onnx.NodeProto] = []
    for _ in range(4):
        nodes = [node("Loop", ["n", ""], [], body=body(nodes))]
    return Graph([*nodes, node("Relu", ["x"], ["y"])], {"n": np.array(100_000)})


def _symbols(chance: random.Random) -> Graph:
    axis = chance.choice(("N//0", "9**9**9", "(" * 300, "N%0", "N*" * 2000 + "N", "2**N", "-N", "N-N", "N.real", "[N]"))
    return Graph([node("Relu", ["x"], ["y"])], shapes=((axis, 4), ("M", 4)), fails=False)


def _deep(chance: random.Random) -> Graph:
    """Branches within branches."""
    depth = chance.choice((8, 20, 30))  # protobuf reads a hundred messages within each other
    deepest = node("Relu", ["x"], ["y"])
    for k in range(depth):
        branch = helper.make_graph([deepest], f"b{k}", [], [value(deepest.output[0], TensorProto.FLOAT, None)])
        other = branch if depth == 8 else helper.make_graph(
            [node("Identity", ["x"], [f"z{k}"])], f"e{k}", [], [value(f"z{k}", TensorProto.FLOAT, None)]
        )  # fmt: skip
        deepest = node("If", ["t"], ["y" if k == depth - 1 else f"y{k}"], then_branch=branch, else_branch=other)
    return Graph([deepest], {"t": np.array(True)}, fails=False)


def _chain(chance: random.Random) -> Graph:
    """As long as a graph gets, in the arithmetic of shapes or of numbers."""
    count = 3000
    kind = chance.choice(("Relu", "Add"))
    nodes = []
    for k in range(count):
        inputs = [f"t{k}" if k else "x", *(["c"] if kind == "Add" else [])]
        nodes.append(node(kind, inputs, [f"t{k + 1}" if k < count - 1 else "y"], name=f"n{k}"))
    return Graph(nodes, {"c": np.array([1e-4], np.float32)} if kind == "Add" else {}, fails=False, skip=("build",))


def _empty(chance: random.Random) -> Graph:
    """An output that is empty on whatever is tried: nothing can be proven of it."""
    if chance.random() < 0.5:
        nodes = [
            node("Greater", ["x", "t"], ["k0"]),
            node("Reshape", ["k0", "m"], ["k"]),
            node("Reshape", ["x", "m"], ["f"]),
        ]
        nodes.append(node("Compress", ["f", "k"], ["y"]))
        weights = {"t": np.array(1e30, np.float32), "m": np.array([-1])}
        return Graph(nodes, weights, ((1, 4), ("K",)), skip=COMPARE_NOT)
    nodes = [node("Slice", ["x", "a", "a"], ["y"])]
    return Graph(nodes, {"a": np.array([0])}, (("N", 4), (0, 4)), skip=COMPARE_NOT)


def _zero_batch(chance: random.Random) -> Graph:
    return Graph([node("Relu", ["x"], ["y"])], shapes=((0, 4), (0, 4)), skip=COMPARE_NOT)


def _not_finite(chance: random.Random) -> Graph:
    weights = {"w": np.array([[np.nan, 1, 1, 1]], np.float32)}
    return Graph([node(chance.choice(("Add", "Mul")), ["x", "w"], ["y"])], weights)


def _types(chance: random.Random) -> Graph:
    """Elements that few commands know."""
    kind = chance.choice(
        (TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.BOOL, TensorProto.UINT4, TensorProto.BFLOAT16)
    )
    return Graph([node("Identity", ["x"], ["y"])], kinds=(kind, kind), fails=False, opset=21)


def _random(chance: random.Random) -> Graph:
    """What gives other numbers each time: nothing can be proven of it."""
    kind = chance.choice(("RandomNormalLike", "RandomUniformLike", "Dropout", "Bernoulli"))
    if kind == "Dropout":
        nodes = [node("Dropout", ["x", "r", "t"], ["y"])]
        return Graph(nodes, {"r": np.array(0.5, np.float32), "t": np.array(True)}, fails=False)
    return Graph([node(kind, ["x"], ["y"])], fails=False)


GRAPHS: tuple[Callable[[random.Random], Graph], ...] = (
    _int_min, _constant, _hidden_constant, _sized_by_input, _expand, _tiles, _concats, _range, _resize, _pad, _one_hot, _product,
    _extents, _einsum, _loop, _loops, _symbols, _deep, _chain, _empty, _zero_batch, _not_finite, _types, _random,
)  # fmt: skip
