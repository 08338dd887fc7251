"""Operators that an exporter lacks: which one, and where in the user's source it is called."""

from __future__ import annotations

import re

from torch.export import ExportedProgram

from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.rules.location import Place, is_users, place_of_line

_PATTERNS = (
    r"No ONNX function found for <OpOverload\(op='([\w.]+)'",
    r"Exporting the operator '([\w:]+)' to ONNX",
    r"unrecognized namespace ([\w:]+\w)",
    r"ONNX export of operator ([\w:]+)",
)
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in')


def missing_operator(text: str) -> str:
    """The operator that an exporter's message says it lacks, as ``aten.median``; empty if it says nothing of the kind."""
    match = next((m for p in _PATTERNS if (m := re.search(p, text))), None)
    return "" if match is None else match[1].replace("::", ".").rstrip(".")


def place_of_operator(program: ExportedProgram | None, prepared: PreparedModel, operator: str) -> Place | None:
    """The innermost line of the user's that led to an operator in a traced program, or in a run; None if none is known."""
    name = operator.rpartition(".")[2].strip("_").removeprefix("linalg_")
    for node in () if program is None else program.graph.nodes:
        target = str(node.target)
        if node.op != "call_function" or name not in target:
            continue
        frames = [(f, int(n)) for f, n in _FRAME.findall(node.meta.get("stack_trace") or "") if is_users(f)]
        if frames:
            return place_of_line(prepared.module, *frames[-1])
    return None
