"""Time of what reads a graph, by its number of nodes: four times as many should take about four times as long.

    python benchmarks/long_chains.py [--nodes 1250,5000,20000] [--commands inspect,convert,simplify,verify]

Two chains: operators without weights, and shape arithmetic before each operator, as exporters write it. Seconds are processor
time, the least of three runs in this process. The last column is the exponent of the growth between the last two sizes: 1 is
linear, 2 is quadratic.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import attn_deploy
from attn_deploy.diagnosis.contents import inspect
from attn_deploy.parity.files import verify_files

Chain = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]
_RUNS = 3
OPERATORS = ("Relu", "Neg", "Abs", "Sigmoid")


def plain(count: int) -> Chain:
    """A chain of operators without weights."""
    names = ["x", *(f"t{k}" for k in range(count - 1)), "y"]
    nodes = [
        helper.make_node(
            OPERATORS[k % 4], [names[k]], [names[k + 1]], name=f"/layer{k // 50}/{k % 50}/{OPERATORS[k % 4]}"
        )
        for k in range(count)
    ]
    return nodes, []


def shapes(count: int) -> Chain:
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


COMMANDS: dict[str, Callable[[Path], object]] = {
    "inspect": inspect,
    "convert": lambda path: attn_deploy.convert(path, path.with_name("out.onnx"), opset=17),
    "simplify": lambda path: attn_deploy.simplify(path, path.with_name("out.onnx")),
    "verify": lambda path: verify_files(path, path),
}


def write(path: Path, chain: Chain) -> Path:
    """A chain as a file."""
    nodes, weights = chain
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ("N", 3, 4, 4)) for n in "xy")
    graph = helper.make_graph(nodes, "chain", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def seconds(command: str, path: Path) -> float:
    """The least processor time of some runs."""
    times = []
    for _ in range(_RUNS):
        began = time.process_time()
        COMMANDS[command](path)
        times.append(time.process_time() - began)
    return min(times)


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--nodes", default="1250,5000,20000")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    options = parser.parse_args()
    counts = [int(n) for n in options.nodes.split(",")]
    print(f"{'command':10} {'chain':8}" + "".join(f"{n:>10,}" for n in counts) + "  exponent")
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder, attn_deploy.unguarded():
        for make in (plain, shapes):
            files = [write(Path(folder, f"{make.__name__}-{n}.onnx"), make(n)) for n in (50, *counts)]
            for command in options.commands.split(","):
                COMMANDS[command](files[0])  # what is loaded once
                times = [seconds(command, file) for file in files[1:]]
                growth = math.log(times[-1] / times[-2]) / math.log(counts[-1] / counts[-2]) if len(times) > 1 else 1.0
                print(
                    f"{command:10} {make.__name__:8}" + "".join(f"{t:10.2f}" for t in times) + f"  {growth:8.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
