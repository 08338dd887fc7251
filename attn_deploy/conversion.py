"""Graph-to-graph steps as a user calls them: from file to file, each compared with its source before it is written."""

from __future__ import annotations

from pathlib import Path

from attn_deploy.errors import GraphError
from attn_deploy.files import check_writable, write_atomic
from attn_deploy.graph.artifact import OnnxArtifact, load_model, read_onnx
from attn_deploy.graph.simplify import simplify_model
from attn_deploy.parity.graphs import compare_models


def simplify(artifact: OnnxArtifact | Path | str, path: Path | str) -> OnnxArtifact:
    """Simplify an ONNX file into another, after comparing both in ONNX Runtime.

    Args:
        artifact: the file, or its artifact.
        path: the file to write.

    Raises:
        GraphError: if the file cannot be read, or no simplifier gives a valid graph.
        ParityError: if the simplified graph gives other numbers.
        MissingDependencyError: if onnxruntime is not installed.
    """
    source = artifact.path if isinstance(artifact, OnnxArtifact) else Path(artifact)
    target = Path(path)
    check_writable(target)
    model = load_model(source)
    made = simplify_model(model)
    if not made.tool:
        raise GraphError(f"{source} was not simplified: {made.reason}.")
    compare_models(model, made.model).raise_if_failed(f"{source} simplified by {made.tool}")
    write_atomic(target, made.model.SerializeToString())
    return read_onnx(target)
