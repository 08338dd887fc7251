"""Writes ``docs/zoo_graphs.json``, from which the site draws each entry: ``python docs/zoo_graphs.py [NAME ...]``.

Each entry is exported as `attn-deploy export NAME` does, in the deployed form; what is kept of the file are its operators and
which takes what. Entries that are there already stay, so that a run can be stopped; names on the command line are made anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx

from attn_deploy.errors import AttnDeployError
from attn_deploy.registry import list_models

KEPT = Path(__file__).with_name("zoo_graphs.json")
LIMIT = 400  # nodes; larger graphs are told by their operators


def graph_of(path: Path) -> dict[str, Any]:
    """The graph of a file: inputs, outputs, and for each node its operator and where its tensors come from.

    A source is the number of a node, or -1 - n for the input n. Constants are left out.
    """
    graph = onnx.load(path, load_external_data=False).graph
    constants = {t.name for t in graph.initializer}
    constants |= {o for n in graph.node if n.op_type == "Constant" for o in n.output}
    inputs = [i.name for i in graph.input if i.name not in constants]
    source = {name: -1 - k for k, name in enumerate(inputs)}
    nodes: list[list[Any]] = []
    for node in (n for n in graph.node if n.op_type != "Constant"):
        taken = sorted({source[name] for name in node.input if name in source})
        for name in node.output:
            source[name] = len(nodes)
        nodes.append([node.op_type, taken])
    outputs = [[o.name, source[o.name]] for o in graph.output if o.name in source]
    if len(nodes) > LIMIT:
        counts: dict[str, int] = {}
        for operator, _ in nodes:
            counts[operator] = counts.get(operator, 0) + 1
        return {"inputs": inputs, "operators": dict(sorted(counts.items(), key=lambda c: (-c[1], c[0])))}
    return {"inputs": inputs, "nodes": nodes, "outputs": outputs}


def main() -> None:
    """Make what is missing, or what is named."""
    from attn_deploy.exporters.pipeline import export
    from attn_deploy.graph.simplify import simplify_file

    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    wanted = sys.argv[1:] or [s.name for s in list_models() if s.name not in kept]
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = export(name, Path(folder) / "m.onnx", exporter="torchscript", verify=False, simplify=False).path
                simplify_file(
                    print, str(path), str(path), "onnxsim"
                )  # here, and not in a child process for each of hundreds
                kept[name] = graph_of(path)
            except AttnDeployError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
        lines = (f"{json.dumps(n)}: {json.dumps(kept[n], separators=(',', ':'))}" for n in sorted(kept))
        KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        print(name, flush=True)


if __name__ == "__main__":
    main()
