"""Graphs whose large weights lie in a file: what is held in memory is where, and the bytes are read when they are needed.

In memory the location of such a tensor is an absolute path, wherever the file lies; `attn_deploy.graph.written` makes it
relative to the graph when it is written. What works on graphs alone gets a `hollow` one, without these weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from attn_deploy.errors import GraphError, reason_of

INLINE = 1 << 18  # bytes; smaller tensors stay in the graph, where sizes, tables and scales are read and folded
LARGEST_FILE = (1 << 31) - (1 << 24)  # bytes of weights: protobuf's 2 GiB, less 16 MiB for everything else
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Where the elements of a tensor lie: so many bytes from an offset on."""

    path: Path
    offset: int
    length: int


def is_placed(tensor: TensorProto) -> bool:
    """Whether the elements lie in a file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def placed_tensors(model: onnx.ModelProto) -> list[TensorProto]:
    """The initializers of the main graph whose elements lie in a file."""
    return [t for t in model.graph.initializer if is_placed(t)]


def place_of(tensor: TensorProto) -> ByteRange:
    """Where the elements lie.

    Raises:
        GraphError: if what the tensor says of it cannot be read, or is beyond the end of the file.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    path = Path(entries.get("location", ""))
    try:
        offset = int(entries.get("offset") or 0)
        size = path.stat().st_size
        length = int(entries.get("length") or size - offset)
    except (ValueError, OSError) as error:
        raise GraphError(f"the weights {tensor.name!r} cannot be read from {path}: {reason_of(error)}") from error
    wanted = element_bytes(tensor)
    if offset < 0 or length < 0 or offset + length > size or (wanted is not None and length < wanted):
        raise GraphError(
            f"the weights {tensor.name!r} take {wanted if wanted is not None else length:,} bytes from byte {offset:,} of "
            f"{path}, which has {size:,}: the file of weights is not that of this graph, or was cut short. Copy both again."
        )
    return ByteRange(path, offset, length)


def element_bytes(tensor: TensorProto) -> int | None:
    """The bytes that the elements take as raw data; None for types that share bytes, or have no fixed size."""
    try:
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError, TypeError):
        return None
    if tensor.data_type == TensorProto.STRING or ("4" in kind.name[-3:] and kind.name.endswith("int4")):
        return None
    return int(math.prod(tensor.dims)) * int(kind.itemsize)


def weight_bytes(model: onnx.ModelProto) -> int:
    """The bytes of all initializers of the main graph, wherever they lie."""
    return sum(element_bytes(t) or len(t.raw_data) for t in model.graph.initializer)


def exceeds_one_file(size: int) -> bool:
    """Whether so many bytes of weights are too many for one file, and for one graph in memory."""
    return size > LARGEST_FILE


def set_place(tensor: TensorProto, place: ByteRange, location: str = "") -> None:
    """Say that the elements lie in a file, under its absolute path or another location."""
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location or str(place.path.absolute()), "offset": place.offset, "length": place.length}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def chunks(place: ByteRange) -> Iterator[bytes]:
    """The bytes at a place, a piece at a time: nothing of them stays in memory."""
    with place.path.open("rb", buffering=0) as file:
        file.seek(place.offset)
        left = place.length
        while left:
            block = file.read(min(_CHUNK, left))
            if not block:
                raise GraphError(f"{place.path} ends before byte {place.offset + place.length:,}. Copy it again.")
            left -= len(block)
            yield block


def array_of(tensor: TensorProto) -> NDArray[Any]:
    """The elements of a tensor, wherever they are; those in a file are mapped and not read."""
    if not is_placed(tensor):
        return numpy_helper.to_array(tensor)
    place = place_of(tensor)
    size = element_bytes(tensor)
    if size is None or size == 0:
        return numpy_helper.to_array(_loaded(tensor))
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    raw: NDArray[np.uint8] = np.memmap(place.path, np.uint8, "r", place.offset, (size,))
    return raw.view(kind).reshape(tuple(tensor.dims))


def hollow(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph in which weights that lie in a file are inputs, for what only reads types and shapes; or the model itself."""
    placed = {t.name for t in placed_tensors(model)}
    if not placed:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [t for t in copy.graph.initializer if t.name not in placed]
    known = {v.name for v in copy.graph.input}
    for tensor in copy.graph.initializer:
        if tensor.name in placed and tensor.name not in known:
            copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    rest = onnx.GraphProto()
    rest.initializer.extend(kept)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(rest.initializer)
    return copy


def filled(model: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """The inverse of `hollow`, in place: inputs that are weights of ``source`` become these again; unread ones go."""
    placed = {t.name: t for t in placed_tensors(source)}
    if not placed:
        return model
    own = {v.name for v in source.graph.input}
    kept = [v for v in model.graph.input if v.name not in placed or v.name in own]
    interface = onnx.GraphProto()
    interface.input.extend(kept)
    del model.graph.input[:]
    model.graph.input.extend(interface.input)
    read = set(_names_read(model.graph))
    model.graph.initializer.extend(t for name, t in placed.items() if name in read)
    return model


def inflated(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with all weights in memory, or the model itself if they are.

    Raises:
        GraphError: above what one message of protobuf holds.
    """
    placed = placed_tensors(model)
    if not placed:
        return model
    size = weight_bytes(model)
    if exceeds_one_file(size):
        raise GraphError(f"the weights take {size / 1e9:.1f} GB, and this step works on graphs of up to 2 GiB.")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in placed_tensors(copy):
        tensor.CopyFrom(_loaded(tensor))
    return copy


def _loaded(tensor: TensorProto) -> TensorProto:
    data = b"".join(chunks(place_of(tensor)))
    whole = TensorProto()
    whole.CopyFrom(tensor)
    whole.ClearField("external_data")
    whole.ClearField("data_location")
    whole.raw_data = data
    return whole


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (o.name for o in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for sub in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _names_read(sub)
