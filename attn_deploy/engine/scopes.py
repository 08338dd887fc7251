"""From ONNX nodes back to the PyTorch modules that they came from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import onnx

from attn_deploy.graph.scopes import NAME_SCOPES, module_path


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
    return module_path(node.name, next((e.value for e in node.metadata_props if e.key == NAME_SCOPES), None))


def mentioned(text: str, places: tuple[NodePlace, ...]) -> tuple[NodePlace, ...]:
    """The nodes whose names stand in a message of TensorRT, in file order."""
    before, after = (
        r"(?<![\w/])(?<![^.]\.)",
        r"(?![\w/])(?!\.\w)",
    )  # not a part of a longer name; "[first...last]" is two
    return tuple(p for p in places if p.name and re.search(before + re.escape(p.name) + after, text))
