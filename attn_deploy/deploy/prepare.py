"""An ONNX file made ready for an engine: repaired, bytes cast first, axes fixed, inputs and outputs renamed. No torch."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import atomic_path
from attn_deploy.graph.artifact import open_model, read_onnx
from attn_deploy.graph.evidence import Evidence, read_evidence, write_evidence
from attn_deploy.graph.interface import cast_bytes_first, fix_axes, free_axes, rename_values


def prepared_file(
    path: Path,
    target: Path | None = None,
    *,
    fix: Mapping[str, int] | None = None,
    rename: Mapping[str, str] | None = None,
) -> Path:
    """The file itself where nothing has to change, else ``<name>-prepared.onnx`` with what changed in its evidence.

    Args:
        path: an ONNX file.
        target: the file to write; by default beside the source.
        fix: extents of axes, by symbol or as ``images[2]``.
        rename: new names of inputs and outputs.

    Raises:
        InvalidRequestError: if an axis or a name does not exist.
        GraphError: if the file cannot be read, or the graph does not take the extents.
        ParityError: if a change that must be exact is not.
    """
    model, repairs = open_model(path)
    graph, moved = cast_bytes_first(model)
    steps = [*repairs, *([f"bytes cast before they are moved ({moved})"] if moved else [])]
    if moved and importlib.util.find_spec("onnxruntime") is not None:
        from attn_deploy.parity.graphs import compare_models

        compare_models(model, graph).raise_if_failed(f"{path} with bytes cast first")
    if fix:
        graph = fix_axes(graph, fix, str(path))
        steps.append("fixed " + ", ".join(f"{k}={n}" for k, n in fix.items()))
    graph, freed = free_axes(graph)
    if freed:
        steps.append(f"axes no longer tied by the names {', '.join(map(repr, freed))}")
    if rename:
        graph = rename_values(graph, rename, str(path))
        steps.append("renamed " + ", ".join(f"{a} to {b}" for a, b in rename.items()))
    if not steps:
        return path
    made = target or path.with_name(f"{path.stem}-prepared.onnx")
    ready = onnx.ModelProto()
    ready.CopyFrom(graph)
    write_evidence(ready, (read_evidence(model) or Evidence()).after("prepare", {"changes": steps}))
    with atomic_path(made) as temporary:
        onnx.save(ready, temporary)
        read_onnx(temporary)
    return made


def parse_fix(texts: Sequence[str]) -> dict[str, int]:
    """``N=1,H=640`` as extents by axis.

    Raises:
        InvalidRequestError: if one cannot be read.
    """
    extents = {}
    for part in (p.strip() for text in texts for p in text.split(",")):
        match = re.fullmatch(r"(.+)=(\d+)", part)
        if match is None:
            raise InvalidRequestError(f"--fix {part!r} cannot be read; write N=1,H=640,W=640, or images[2]=640.")
        extents[match[1]] = int(match[2])
    return extents


def parse_rename(texts: Sequence[str]) -> dict[str, str]:
    """``old=new`` as pairs.

    Raises:
        InvalidRequestError: if one cannot be read, or two give one name.
    """
    names: dict[str, str] = {}
    for text in texts:
        old, equal, new = text.rpartition("=")
        if not (equal and old and new):
            raise InvalidRequestError(f"--rename {text!r} cannot be read; write OLD=NEW.")
        if new in names.values():
            raise InvalidRequestError(f"--rename gives the name {new!r} twice.")
        names[old] = new
    return names
