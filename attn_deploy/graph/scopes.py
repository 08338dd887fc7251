"""From an ONNX node back to the PyTorch module that it came from."""

from __future__ import annotations

import ast

NAME_SCOPES = "pkg.torch.onnx.name_scopes"  # written by the torch.export exporter, read by nobody else


def module_path(name: str, scopes: str | None) -> str:
    """The module path of a node, as ``named_modules`` calls it; empty if the exporter left no trace of it.

    Args:
        name: of the node.
        scopes: the node's metadata entry `NAME_SCOPES`, or None if it has none.
    """
    return _from_name(name) if scopes is None else _from_scopes(scopes)


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
