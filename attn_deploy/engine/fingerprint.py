"""What an ONNX model is, byte for byte, with the weights that lie in other files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx

from attn_deploy.files import sha256_of


def onnx_sha256(path: Path) -> str:
    """SHA-256 of an ONNX file; with external data, of the hashes of all its files."""
    digests = [sha256_of(path), *(sha256_of(path.parent / name) for name in external_files(path))]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def external_files(path: Path) -> tuple[str, ...]:
    """The files, named relative to the ONNX file, that hold its weights."""
    graph = onnx.load(path, load_external_data=False).graph
    names = {
        entry.value
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return tuple(sorted(names))
