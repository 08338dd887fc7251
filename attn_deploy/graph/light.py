"""Reading an ONNX file without its large weights: these stay where they are in the file, and are read when needed."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from attn_deploy.errors import GraphError, reason_of
from attn_deploy.graph.placed import INLINE, ByteRange, is_placed, place_of, set_place

# Field numbers of onnx.proto and wire types of protobuf, which are part of both formats.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Field = tuple[int, int, int, int, int]  # number, wire type, start of the field, start and end of its value


def light_model(path: Path) -> onnx.ModelProto:
    """The graph of a file; its large weights, in the file or beside it, are placed (see `attn_deploy.graph.placed`).

    Raises:
        DecodeError: if the file is no ONNX file.
        GraphError: if weights beside it are missing, or not where the graph says.
    """
    model = onnx.ModelProto()
    if path.stat().st_size:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            parts = []
            for number, kind, start, first, last in _fields(data, 0, len(data)):
                inner = _light_graph(data, first, last, path) if (number, kind) == (_GRAPH, _BYTES) else None
                parts.append(data[start:last] if inner is None else _record(_GRAPH, inner))
            model.ParseFromString(b"".join(parts))
    return anchored(model, path)


def anchored(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model, in which locations of weights beside the file at ``path`` became absolute; in place.

    Raises:
        GraphError: if one leads out of the file's folder, or is not there.
    """
    folder = path.parent.resolve()
    for tensor in model.graph.initializer:
        if not is_placed(tensor):
            continue
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        if Path(location).is_absolute() and Path(location) == path.absolute():
            continue  # large weights in the file itself
        where = _inside(folder, location, tensor.name, path)
        entries = {e.key: e.value for e in tensor.external_data}
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries.get("length") or where.stat().st_size - offset)
        except (OSError, ValueError) as error:
            raise GraphError(f"{path} cannot be loaded: {reason_of(error)}", exit_code=2) from error
        set_place(tensor, ByteRange(where, offset, length))
        place_of(tensor)
    for node in model.graph.node:
        for tensor in _inner(node):
            if is_placed(tensor):  # constants, and weights of branches: small, and looked at wherever a node is
                location = next((e.value for e in tensor.external_data if e.key == "location"), "")
                _inside(folder, location, tensor.name, path)
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
                tensor.data_location = TensorProto.DEFAULT
                del tensor.external_data[:]
    return model


def _inner(node: onnx.NodeProto) -> Iterator[TensorProto]:
    """The tensors within a node: of its attributes, and of the graphs in them."""
    for attribute in node.attribute:
        yield from (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors)
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            yield from graph.initializer
            for inner in graph.node:
                yield from _inner(inner)


def _inside(folder: Path, location: str, tensor: str, path: Path) -> Path:
    """The file of that name, which must be in the folder of the graph: what a file says may lead anywhere."""
    where = folder / location
    escapes = not location or Path(location).is_absolute() or ".." in Path(location).parts
    if escapes or where.is_symlink() or not where.resolve().is_relative_to(folder):
        raise GraphError(
            f"{path} cannot be loaded: it says that the weights {tensor!r} lie in {location!r}, which leads out of its folder.",
            exit_code=2,
        )
    if not where.is_file():
        raise GraphError(
            f"{path} cannot be loaded: its weights lie in {location!r}, and {folder} holds no such file. Copy both files, and "
            "keep the name of the second.",
            exit_code=2,
        )
    return where.resolve()


def _light_graph(data: mmap.mmap, start: int, end: int, path: Path) -> bytes:
    parts = []
    for number, kind, begin, first, last in _fields(data, start, end):
        large = (number, kind) == (_INITIALIZER, _BYTES) and last - first > INLINE
        light = _light_tensor(data, first, last, path) if large else None
        parts.append(data[begin:last] if light is None else _record(_INITIALIZER, light))
    return b"".join(parts)


def _light_tensor(data: mmap.mmap, start: int, end: int, path: Path) -> bytes | None:
    """The tensor with its raw data where they are; None if it has none, or little."""
    place, parts = None, []
    for number, kind, begin, first, last in _fields(data, start, end):
        if (number, kind) == (_RAW_DATA, _BYTES) and last - first > INLINE:
            place = ByteRange(path.absolute(), first, last - first)
        else:
            parts.append(data[begin:last])
    if place is None:
        return None
    tensor = TensorProto.FromString(b"".join(parts))
    set_place(tensor, place)
    return bytes(tensor.SerializeToString())


def _record(number: int, value: bytes) -> bytes:
    return varint(number << 3 | _BYTES) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    position = start
    while position < end:
        begin = position
        key, position = _varint_at(data, position, end)
        kind = key & 7
        first = position
        if kind == _VARINT:
            _, position = _varint_at(data, position, end)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, first = _varint_at(data, position, end)
            position = first + length
        else:
            raise DecodeError(f"wire type {kind} at byte {begin}")
        if position > end:
            raise DecodeError(f"a field at byte {begin} goes beyond the end")
        yield key >> 3, kind, begin, first, position


def _varint_at(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if not byte & 0x80:
            return value, position
        shift += 7
    raise DecodeError(f"a number at byte {position} has no end")
