"""A graph in memory as a runner, wherever its weights lie."""

from __future__ import annotations

from pathlib import Path

import onnx

from attn_deploy.errors import GraphError
from attn_deploy.graph.placed import place_of, placed_tensors, set_place
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

_FOLDER = "session.model_external_initializers_file_folder_path"  # where a graph given as bytes has its weights


def graph_runner(model: onnx.ModelProto, *, threads: int = 0, optimize: bool = True) -> OnnxRuntimeRunner:
    """A runner of a graph; weights that lie in files are mapped from there.

    Raises:
        GraphError: if ONNX Runtime refuses the graph, or its weights lie in several folders.
        MissingDependencyError: if onnxruntime is not installed.
    """
    placed = placed_tensors(model)
    if not placed:
        return OnnxRuntimeRunner(model.SerializeToString(), threads=threads, optimize=optimize)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    folders: set[Path] = set()
    for tensor in placed_tensors(copy):
        place = place_of(tensor)
        folders.add(place.path.parent)
        set_place(tensor, place, place.path.name)
    if len(folders) > 1:
        raise GraphError(f"the weights of the graph lie in {len(folders)} folders; ONNX Runtime reads those of one.")
    return OnnxRuntimeRunner(
        copy.SerializeToString(), threads=threads, optimize=optimize, config={_FOLDER: str(folders.pop())}
    )
