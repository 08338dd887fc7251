"""A model repository for Triton: ``config.pbtxt`` from what the file or engine really takes.

Source of the fields: Triton's model_config.proto, whose ``ModelConfig`` reads the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attn_deploy.errors import EngineMismatchError, InvalidRequestError

_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float64": "TYPE_FP64",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "bool": "TYPE_BOOL",
}
# What NVIDIA's release notes of the server's containers say of the TensorRT in them.
TENSORRT_OF = {
    "24.08": "10.3.0",
    "24.09": "10.4.0",
    "24.10": "10.5.0",
    "24.11": "10.6.0",
    "24.12": "10.7.0",
    "25.01": "10.8.0",
    "25.02": "10.8.0",
    "25.03": "10.9.0",
    "25.04": "10.9.0",
    "25.05": "10.10.0",
    "25.06": "10.11.0",
}
DEFAULT_BATCH = 16
_QUEUE_DELAY = 500  # microseconds that a request may wait for others


@dataclass(frozen=True, slots=True)
class ServedTensor:
    """A tensor as the server knows it.

    Attributes:
        name: of the input or output.
        dtype: numpy's name of the element type.
        shape: integers and symbols; None for an axis that nothing is said of.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonModel:
    """What a configuration is written from.

    Attributes:
        name: of the model on the server.
        backend: onnxruntime or tensorrt.
        inputs, outputs: with their batch axis.
        engine_batch: the largest batch of an engine's profiles; None for a file.
        batch: the largest batch that was asked for; None for the usual one.
        preferred: batch sizes to form, the best first, from a measured profile.
        labels: whether there is a label for each class.
        warmup: shapes of one request by input, without the batch axis where there is one; empty for none.
    """

    name: str
    backend: str
    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]
    engine_batch: int | None = None
    batch: int | None = None
    preferred: tuple[int, ...] = ()
    labels: int = 0
    warmup: Mapping[str, tuple[int, ...]] | None = None

    @property
    def max_batch(self) -> int:
        """The batch that the server may form; 0 where the first axis is no batch of every tensor.

        Raises:
            InvalidRequestError: if more was asked for than there is.
        """
        firsts = {t.shape[0] if t.shape else None for t in (*self.inputs, *self.outputs)}
        moves = len(firsts) == 1 and isinstance(next(iter(firsts)), str)
        if not moves:
            if self.batch:
                shown = ", ".join(f"{t.name} [{', '.join(map(str, t.shape))}]" for t in (*self.inputs, *self.outputs))
                raise InvalidRequestError(
                    f"--max-batch {self.batch}: the server forms batches of inputs and outputs whose first axes move "
                    f"together, and these do not: {shown}. Export the model with --dynamic N, or leave out --max-batch."
                )
            return 0
        if self.engine_batch is not None and (self.batch or 0) > self.engine_batch:
            raise InvalidRequestError(
                f"--max-batch {self.batch}: the engine's profiles end at {self.engine_batch}; build it with a larger "
                "--profile, or ask for less."
            )
        return self.batch or self.engine_batch or DEFAULT_BATCH


def config_text(model: TritonModel) -> str:
    """The text of ``config.pbtxt``.

    Raises:
        InvalidRequestError: if the server has no such element type, or cannot form such batches.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", model.name):
        raise InvalidRequestError(f"the model's name {model.name!r} cannot be a folder of a server; use --name.")
    batch = model.max_batch
    skip = 1 if batch else 0
    lines = [f'name: "{model.name}"', f'backend: "{model.backend}"']
    if model.backend == "tensorrt":
        lines.append('default_model_filename: "model.plan"')
    lines.append(f"max_batch_size: {batch}")
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        labelled = _labelled(tensors, model.labels) if kind == "output" else None
        for tensor in tensors:
            dims = ", ".join(str(d) if isinstance(d, int) else "-1" for d in tensor.shape[skip:])
            fields = [f"name: {_quoted(tensor.name)}", f"data_type: {_type_of(tensor)}", f"dims: [ {dims} ]"]
            if (
                batch and len(tensor.shape) == 1
            ):  # the server wants a dimension beside the batch, and takes it away again
                fields[2:] = ["dims: [ 1 ]", "reshape { shape: [ ] }"]
            if tensor is labelled:
                fields.append('label_filename: "labels.txt"')
            lines.append(f"{kind} {{ {' '.join(fields)} }}")
    if batch > 1:
        preferred = [p for p in model.preferred if 1 < p <= batch]
        sizes = f"preferred_batch_size: [ {', '.join(map(str, preferred))} ] " if preferred else ""
        lines.append(f"dynamic_batching {{ {sizes}max_queue_delay_microseconds: {_QUEUE_DELAY} }}")
    kind = "KIND_GPU" if model.backend == "tensorrt" else "KIND_AUTO"
    lines.append(f"instance_group {{ count: 1 kind: {kind} }}")
    if model.warmup:
        lines.append(_warmup(model, model.warmup))
    return "\n".join(lines) + "\n"


def check_engine(flavor: str, version: str, release: str | None) -> None:
    """Refuse an engine that the server of a release cannot load.

    Raises:
        InvalidRequestError: if the release is unknown.
        EngineMismatchError: if the server has another TensorRT, or none for this flavor.
    """
    if flavor != "tensorrt":
        raise EngineMismatchError(
            f"the engine is one of {flavor}, and Triton's backend loads those of TensorRT: serve the ONNX file, or build with "
            "--flavor tensorrt on the GPU."
        )
    if release is None:
        raise InvalidRequestError(
            "an engine runs only in the TensorRT that built it, so name the server's release: --triton "
            f"{max(TENSORRT_OF)}."
        )
    shipped = triton_tensorrt(release)
    if version.split(".")[:2] != shipped.split(".")[:2]:
        raise EngineMismatchError(
            f"the engine was built by TensorRT {version}, and Triton {release} ships {shipped}: build it with that version, "
            "or serve the ONNX file."
        )


def triton_tensorrt(release: str) -> str:
    """The TensorRT that a release of the server ships: ``25.06`` by the table, ``26.01=10.14.1`` by its own word.

    Raises:
        InvalidRequestError: if the release is unknown and does not say.
    """
    name, equals, version = release.partition("=")
    if equals and re.fullmatch(r"\d\d\.\d\d", name) and re.fullmatch(r"\d+\.\d+(\.\d+)*", version):
        known = TENSORRT_OF.get(name, version)
        if known.split(".")[:2] != version.split(".")[:2]:
            raise InvalidRequestError(f"--triton {release!r}: Triton {name} ships TensorRT {known}.")
        return version
    if release not in TENSORRT_OF:
        raise InvalidRequestError(
            f"--triton {release!r} is not known; those known are {', '.join(TENSORRT_OF)}. Of another say which TensorRT it "
            "ships, as in --triton 26.01=10.14.1: its release notes have it."
        )
    return TENSORRT_OF[release]


def _quoted(text: str) -> str:
    """A name as a string of the configuration, which nothing in it can end."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else "".join(f"\\{b:03o}" for b in c.encode()) for c in escaped) + '"'


def _labelled(outputs: Sequence[ServedTensor], labels: int) -> ServedTensor | None:
    """The output that holds a score for each label."""
    if not labels:
        return None
    fits = (o for o in outputs if len(o.shape) == 2 and o.shape[1] == labels and o.dtype.startswith("float"))
    return next(fits, None)


def _type_of(tensor: ServedTensor) -> str:
    try:
        return _TYPES[tensor.dtype]
    except KeyError:
        raise InvalidRequestError(f"{tensor.name}: a server has no element type {tensor.dtype}.") from None


def _warmup(model: TritonModel, shapes: Mapping[str, Any]) -> str:
    entries = []
    for tensor in model.inputs:
        dims = ", ".join(map(str, shapes[tensor.name]))
        value = f"data_type: {_type_of(tensor)} dims: [ {dims} ] random_data: true"
        entries.append(f"inputs {{ key: {_quoted(tensor.name)} value {{ {value} }} }}")
    return f'model_warmup {{ name: "golden" batch_size: 1 {" ".join(entries)} }}'
