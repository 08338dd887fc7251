"""The kernels that an engine really runs, with their precision, asked of the library on a machine with a GPU."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_deploy.engine.artifact import EngineArtifact, read_engine
from attn_deploy.engine.flavors import flavor_spec
from attn_deploy.engine.lean import load_runtime, start_runtime
from attn_deploy.engine.logger import collection_paused, logger_for
from attn_deploy.errors import AttnDeployError, DeviceError, NoDeviceError
from attn_deploy.isolate import run_isolated
from attn_deploy.machine.gpu import find_gpu

# What the libraries call element types, in the words of this package; the versions write them differently.
_TYPES = {
    "fp32": "fp32", "float": "fp32", "fp16": "fp16", "half": "fp16", "bf16": "bf16", "bfloat16": "bf16", "fp8": "fp8",
    "fp4": "fp4", "int8": "int8", "uint8": "uint8", "int4": "int4", "int32": "int32", "int64": "int64", "bool": "bool",
}  # fmt: skip
_WORD = re.compile(r"\b(" + "|".join(_TYPES) + r")\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One layer of an engine, after fusion.

    Attributes:
        name: of the layer; where layers were fused, of all of them.
        kind: the library's word for it.
        inputs, outputs: element types of its tensors.
        onnx: ONNX nodes that it computes, where the library tells.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineKernels:
    """The layers of an engine.

    Attributes:
        kernels: in the order in which they run; none where they could not be asked for.
        note: why there are none; empty if there are some.
    """

    kernels: tuple[Kernel, ...]
    note: str = ""

    @property
    def by_type(self) -> Mapping[str, int]:
        """How many have a first output of each type, most frequent first."""
        return dict(collections.Counter(k.outputs[0] for k in self.kernels if k.outputs).most_common())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"kernels": [asdict(k) for k in self.kernels], "by_type": dict(self.by_type), "note": self.note}


def read_kernels(artifact: EngineArtifact, *, timeout: float = 300.0) -> EngineKernels:
    """The layers of an engine, read in a child process: a library may crash on a plan.

    What stands in the way (no GPU, another GPU, a missing library) is stated in ``note``, not raised.
    """
    if find_gpu() is None:
        return EngineKernels((), "asked of the library where there is an NVIDIA GPU, and here is none")
    arguments = {"path": str(artifact.path.absolute())}
    try:
        rows = run_isolated(f"{__name__}:run", arguments, what=f"loading {artifact.path}", timeout=timeout)
    except AttnDeployError as error:
        return EngineKernels((), str(error))
    kernels = tuple(Kernel(r["name"], r["kind"], *(tuple(r[k]) for k in ("inputs", "outputs", "onnx"))) for r in rows)
    return EngineKernels(kernels, "" if kernels else "the library lists none")


@collection_paused()
def run(emit: Callable[[dict[str, Any]], None], *, path: str) -> list[dict[str, Any]]:
    """The child's side: load the engine and ask its inspector."""
    artifact = read_engine(path)
    compatible = artifact.options.version_compat
    flavor = load_runtime(flavor_spec(artifact.flavor), engine=path, version_compat=compatible)
    gpu = find_gpu()
    if gpu is None:
        raise NoDeviceError(f"{path} can be loaded on a GPU only, and this machine has none.")
    artifact.check_loadable(flavor.spec.name, flavor.version, gpu.target)
    if flavor.lean:  # its bindings name the inspector and do not have the class
        raise DeviceError(f"{flavor} runs engines and does not list their kernels; the whole library does.")
    trt = flavor.trt
    logger = logger_for(trt)
    runtime = start_runtime(trt, logger)
    if runtime is None:
        raise DeviceError(f"{path}: {flavor} on {gpu} could not start its runtime: {'; '.join(logger.errors)}.")
    engine = runtime.deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        raise DeviceError(f"{path}: {flavor} on {gpu} could not load the engine: {'; '.join(logger.errors)}.")
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return [asdict(k) for k in parse_kernels(text)]


def parse_kernels(text: str) -> tuple[Kernel, ...]:
    """The layers in what an inspector says.

    Raises:
        DeviceError: if it is no JSON of an inspector.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(
            f"the library's inspector answers with something else than layers: {text[:200]!r}."
        ) from error
    return tuple(_kernel(layer) for layer in layers)


def _kernel(layer: Any) -> Kernel:
    if isinstance(layer, str):  # an engine that was built without details
        return Kernel(layer, "", (), ())
    sides = ([_type(t) for t in layer.get(side) or ()] for side in ("Inputs", "Outputs"))
    inputs, outputs = (tuple(s) for s in sides)
    nodes = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(layer.get("Metadata", "")))
    return Kernel(str(layer.get("Name", "")), str(layer.get("LayerType", "")), inputs, outputs, tuple(nodes))


def _type(tensor: Mapping[str, Any]) -> str:
    text = str(tensor.get("Format/Datatype") or tensor.get("Datatype") or "")
    words = _WORD.findall(text)
    return _TYPES[words[-1].lower()] if words else "unknown"
