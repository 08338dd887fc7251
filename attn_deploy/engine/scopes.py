"""From ONNX nodes back to the PyTorch modules that they came from."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"  # written by the torch.export exporter, read by nobody else


@dataclass(frozen=True, slots=True)
class NodePlace:
    """A node of the ONNX graph.

    Attributes:
        name: its name in the file; may be empty.
        operator: its type.
        module: path of the PyTorch module that it belongs to; empty where the file does not say.
    """

    name: str
    operator: str
    module: str

    def __str__(self) -> str:
        where = f" in module {self.module!r}" if self.module else ""
        return f"{self.operator} node {self.name!r}{where}"


def read_places(path: Path) -> tuple[NodePlace, ...]:
    """Every node of the main graph, in file order."""
    graph = onnx.load(path, load_external_data=False).graph
    return tuple(NodePlace(n.name, n.op_type, module_of(n)) for n in graph.node)


def module_of(node: onnx.NodeProto) -> str:
    """The module path of a node, from its metadata or from its name; empty if neither tells."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            return _from_scopes(entry.value)
    return _from_name(node.name)


def mentioned(text: str, places: tuple[NodePlace, ...]) -> tuple[NodePlace, ...]:
    """The nodes whose names stand in a message of TensorRT, in file order."""
    before, after = (
        r"(?<![\w/])(?<![^.]\.)",
        r"(?![\w/])(?!\.\w)",
    )  # not a part of a longer name; "[first...last]" is two
    return tuple(p for p in places if p.name and re.search(before + re.escape(p.name) + after, text))


def _from_scopes(value: str) -> str:
    try:
        scopes = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return ""
    modules = [s for s in scopes[:-1] if isinstance(s, str) and s and not s.startswith("_empty_nn_module")]
    return modules[-1] if modules else ""


def _from_name(name: str) -> str:
    """``/a/f/f.0/Conv`` as the TorchScript exporter writes it: ``a.f.0``."""
    if not name.startswith("/"):
        return ""
    path: list[str] = []
    for part in name.split("/")[1:-1]:
        if path and part.startswith(path[-1] + "."):
            path.pop()
        path.append(part)
    return ".".join(path)
