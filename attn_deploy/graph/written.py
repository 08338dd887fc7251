"""Writing a graph whose weights may lie in files: as one file, or as a graph with one data file beside it.

Neither way brings the weights into memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import TensorProto

from attn_deploy.errors import GraphError, InvalidRequestError
from attn_deploy.files import atomic_pair, atomic_path, moving_into
from attn_deploy.graph.light import light_model, varint
from attn_deploy.graph.placed import (
    INLINE,
    ByteRange,
    chunks,
    exceeds_one_file,
    is_placed,
    place_of,
    placed_tensors,
    set_place,
    weight_bytes,
)

DATA_SUFFIX = ".data"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})  # what another way of copying does not mend
_ALIGNMENT = 4096  # of what is mapped
_GRAPH_KEY, _INITIALIZER_KEY, _RAW_KEY = varint(7 << 3 | 2), varint(5 << 3 | 2), varint(9 << 3 | 2)


def needs_data_file(model: onnx.ModelProto) -> bool:
    """Whether the weights do not fit into one file."""
    return exceeds_one_file(weight_bytes(model))


def data_path(path: Path) -> Path:
    """The data file beside a graph: ``NAME.onnx.data``."""
    return path.with_name(path.name + DATA_SUFFIX)


@contextlib.contextmanager
def atomic_model(model: onnx.ModelProto, path: Path, *, external: bool = False) -> Iterator[Path]:
    """Write a model to a temporary file, to be read back in the block; it is moved to ``path`` when the block ends well.

    Args:
        model: its weights may be placed.
        path: of the graph; the weights lie beside it in ``NAME.onnx.data`` where one file does not hold them.
        external: put them there in any case.

    Raises:
        InvalidRequestError: if it cannot be written.
        GraphError: if the graph without its weights is beyond 2 GiB.
    """
    data = data_path(path)
    stale = refers_to_data(path)
    if not external and not needs_data_file(model):
        with atomic_path(path) as temporary:
            write_whole(model, temporary)
            yield temporary
        if stale:
            with moving_into(path.parent):
                if not refers_to_data(path):  # another process may have written a pair meanwhile
                    data.unlink(missing_ok=True)
        return
    with atomic_pair(path, data) as pair:
        places = write_data(model, pair.data)
        pair.main.write_bytes(graph_with(model, places, pair.data.name))
        yield pair.main
        pair.refer = lambda name: graph_with(model, places, name)


def refers_to_data(path: Path) -> bool:
    """Whether there is a graph at a path whose weights lie in the data file that belongs to its name."""
    try:
        model = light_model(path) if path.is_file() else None
    except (GraphError, DecodeError):
        return False
    if model is None:
        return False
    return any(place_of(t).path == data_path(path).resolve() for t in placed_tensors(model))


def refuse_foreign_data(path: Path) -> None:
    """Refuse to overwrite a data file that is not that of the graph at the path.

    Raises:
        InvalidRequestError: naming it.
    """
    data = data_path(path)
    if data.exists() and not refers_to_data(path):
        raise InvalidRequestError(
            f"{data} exists and does not belong to {path}; the weights would overwrite it. Name another file with -o, or add "
            "--force."
        )


def place_weights(model: onnx.ModelProto, data: Path) -> onnx.ModelProto:
    """Move large initializers that are in memory into a new file; in place."""
    with data.open("wb") as file:
        for tensor in model.graph.initializer:
            if not is_placed(tensor) and len(tensor.raw_data) > INLINE:
                offset = _aligned(file)
                file.write(tensor.raw_data)
                set_place(tensor, ByteRange(data, offset, file.tell() - offset))
    return model


def graph_beside(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph whose placed weights all lie in the folder of ``path``, which it refers to by name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in placed_tensors(copy):
        place = place_of(tensor)
        if place.path.parent.resolve() != path.parent.resolve():
            raise GraphError(f"the weights {tensor.name!r} lie in {place.path}, and not in the folder of {path}.")
        set_place(tensor, place, place.path.name)
    path.write_bytes(copy.SerializeToString())


def write_data(model: onnx.ModelProto, data: Path) -> dict[str, ByteRange]:
    """Write all large weights of a graph into one file; where each is in it, by name."""
    places: dict[str, ByteRange] = {}
    with data.open("wb") as file:
        for tensor in model.graph.initializer:
            if is_placed(tensor):
                offset = _aligned(file)
                copy_bytes(place_of(tensor), file)
            elif len(tensor.raw_data) > INLINE:
                offset = _aligned(file)
                file.write(tensor.raw_data)
            else:
                continue
            places[tensor.name] = ByteRange(data, offset, file.tell() - offset)
    return places


def graph_with(model: onnx.ModelProto, places: Mapping[str, ByteRange], location: str) -> bytes:
    """The bytes of a graph whose weights lie in one data file of this name beside it.

    Raises:
        GraphError: if what is left is too large for protobuf.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in places:
            set_place(tensor, places[tensor.name], location)
    try:
        return bytes(copy.SerializeToString())
    except (ValueError, EncodeError) as error:
        raise GraphError(
            f"the graph without its weights is larger than 2 GiB, which protobuf cannot hold: {error}"
        ) from error


def write_whole(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph with its weights as one file, a piece at a time.

    Raises:
        GraphError: above the 2 GiB at which protobuf stops.
    """
    placed = placed_tensors(model)
    if not placed:
        try:
            path.write_bytes(model.SerializeToString())
        except (ValueError, EncodeError) as error:
            raise GraphError(
                f"the graph is larger than 2 GiB, which protobuf cannot hold in one piece: {error}"
            ) from error
        return
    outer, inner = _without_weights(model)
    heads = [_head(t) for t in placed]
    places = [place_of(t) for t in placed]
    sizes = [len(h) + len(_RAW_KEY) + len(varint(p.length)) + p.length for h, p in zip(heads, places, strict=True)]
    total = len(inner) + sum(len(_INITIALIZER_KEY) + len(varint(s)) + s for s in sizes)
    if total + len(outer) >= onnx.checker.MAXIMUM_PROTOBUF:
        raise GraphError(f"the graph takes {total:,} bytes, and one file holds 2 GiB.")
    with path.open("wb") as file:
        file.write(outer + _GRAPH_KEY + varint(total) + inner)
        for head, place, size in zip(heads, places, sizes, strict=True):
            file.write(_INITIALIZER_KEY + varint(size) + head + _RAW_KEY + varint(place.length))
            copy_bytes(place, file)


def copy_bytes(place: ByteRange, file: BinaryIO) -> None:
    """Append the bytes at a place to a file, inside the kernel where the system can."""
    file.flush()
    left, position = place.length, place.offset
    if hasattr(os, "copy_file_range"):
        with place.path.open("rb") as source:
            while left:
                try:
                    count = os.copy_file_range(source.fileno(), file.fileno(), min(left, 1 << 30), position)
                except OSError as error:
                    if error.errno in _FULL:
                        raise
                    break
                if not count:
                    break
                left, position = left - count, position + count
        file.seek(0, os.SEEK_END)
    for block in chunks(ByteRange(place.path, position, left)) if left else ():
        file.write(block)


def _aligned(file: BinaryIO) -> int:
    """The next offset for a tensor; the gap before it is filled."""
    offset = file.tell()
    file.write(bytes(-offset % _ALIGNMENT))
    return file.tell()


def _without_weights(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    """The bytes of a model without its graph, and those of the graph without its placed weights."""
    outer, inner = onnx.ModelProto(), onnx.GraphProto()
    outer.CopyFrom(model)
    inner.CopyFrom(model.graph)
    outer.ClearField("graph")
    kept: Sequence[TensorProto] = [t for t in model.graph.initializer if not is_placed(t)]
    del inner.initializer[:]
    inner.initializer.extend(kept)
    return outer.SerializeToString(), inner.SerializeToString()


def _head(tensor: TensorProto) -> bytes:
    head = TensorProto()
    head.CopyFrom(tensor)
    head.ClearField("external_data")
    head.ClearField("data_location")
    return bytes(head.SerializeToString())
