"""Graphs whose nodes carry the scopes of modules."""

from __future__ import annotations

import onnx

X, Y = "float[N,4,H,W] x", "float[N,4,A,B] y"
MEAN = "axes = Constant <value_ints = [2, 3]> () y = ReduceMean (x, axes)"


def scoped(model: onnx.ModelProto, module: str) -> onnx.ModelProto:
    """Give every node the metadata that the torch.export exporter writes."""
    for node in model.graph.node:
        node.name = f"node_{node.op_type}"
        scopes = repr(["", module.split(".")[0], module, "aten_op"])
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    return model
