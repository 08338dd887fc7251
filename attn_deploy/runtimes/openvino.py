"""OpenVINO on the CPU, with the precision that ran read from the compiled model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attn_deploy.errors import GraphError, MissingDependencyError, ProviderError
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.runtimes.base import RuntimeInfo

_HINTS = {"": "f32", "fp32": "f32", "int8": "f32", "bf16": "bf16", "fp16": "f16"}
_ASKED = {"fp32": "float32", "int8": "int8", "bf16": "bfloat16", "fp16": "float16"}
_NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i8": "int8", "u8": "int8", "f64": "float64"}
_COARSEST_FIRST = ("int8", "bfloat16", "float16", "float32", "float64")
# Layers that multiply; the type of what they read is the type that they compute in.
_PRODUCTS = ("Convolution", "FullyConnected", "MatMul", "Deconvolution", "MHA", "ScaledDotProductAttention")


def import_openvino() -> Any:
    """The openvino module.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        raise MissingDependencyError("openvino is not installed: pip install 'attn-deploy[openvino]'.") from error
    return openvino


class OpenVinoRunner:
    """Runs an ONNX file on the CPU.

    Args:
        model: path of the file, in fp32 or with pairs of QuantizeLinear and DequantizeLinear.
        precision: fp32, bf16 or fp16, which OpenVINO converts to itself where the processor has it; int8 for a file with
            pairs; empty for the file as it is, with float in fp32.
        threads: within an operator; 0 lets OpenVINO choose.

    Raises:
        ProviderError: if the products ran in another type than asked.
        GraphError: if OpenVINO refuses the model.
        MissingDependencyError: if openvino is not installed.
    """

    def __init__(self, model: Path | str, *, precision: str = "", threads: int = 0) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
        }
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        try:
            self._model = core.compile_model(core.read_model(str(model)), "CPU", self._settings)
        except Exception as error:  # the binding raises RuntimeError with pages of text
            raise GraphError(f"OpenVINO cannot load {model}: {_reason(error)}") from error
        self._version = str(openvino.__version__)
        self._threads = int(self._model.get_property("INFERENCE_NUM_THREADS"))
        self._products = _types_of_products(self._model)
        self.precision = next((p for p in _COARSEST_FIRST if p in self._products), "float32")
        asked = _ASKED.get(precision)
        if asked is not None and self._products and asked != self.precision:
            counted = ", ".join(f"{n} in {kind}" for kind, n in self._products.items())
            remedy = (
                "this processor has no kernels for it" if precision in ("bf16", "fp16") else "the file is in another"
            )
            raise ProviderError(
                f"{model}: {precision} was asked for, and OpenVINO runs its products {counted}: {remedy}."
            )
        self._request = self._model.create_infer_request()
        self.input_names = [_name(i) for i in self._model.inputs]
        self.output_names = [_name(o) for o in self._model.outputs]
        self._tensor = openvino.Tensor
        self._held: list[Any] = []

    @property
    def info(self) -> RuntimeInfo:
        """What runs here; ``settings["products"]`` has the number of layers that multiply, by type."""
        return RuntimeInfo(
            runtime="openvino",
            version=f"openvino {self._version}",
            provider="CPU",
            precision=self.precision,
            threads=self._threads,
            settings={**self._settings, "products": dict(self._products)},
        )

    def prepare(self, inputs: Arrays) -> None:
        """Bind ``inputs`` by name; they are read where they lie.

        Raises:
            GraphError: if the names are not the model's inputs, or an array does not fit.
        """
        if set(inputs) != set(self.input_names):
            raise GraphError(f"the model's inputs are {self.input_names}, not {list(inputs)}.")
        self._held = []
        for index, name in enumerate(self.input_names):
            tensor = self._tensor(np.asarray(inputs[name], order="C"), shared_memory=True)
            self._held.append(tensor)
            try:
                self._request.set_input_tensor(index, tensor)
            except Exception as error:
                raise GraphError(f"OpenVINO does not take the input {name!r}: {_reason(error)}") from error

    def enqueue(self) -> None:
        """Run once.

        Raises:
            GraphError: if an operator fails.
        """
        try:
            self._request.infer()
        except Exception as error:
            raise GraphError(f"OpenVINO failed: {_reason(error)}") from error

    def synchronize(self) -> None:
        """Nothing: `enqueue` returns when the run is done."""

    def outputs(self) -> Arrays:
        """The outputs by name."""
        return {n: np.array(self._request.get_output_tensor(i).data) for i, n in enumerate(self.output_names)}

    def close(self) -> None:
        """Drop the model."""
        self._held = []
        del self._request
        del self._model


def _types_of_products(model: Any) -> Mapping[str, int]:
    types: Counter[str] = Counter()
    for layer in model.get_runtime_model().get_ordered_ops():
        facts = layer.get_rt_info()
        if facts["layerType"].value in _PRODUCTS:
            kind = str(facts["runtimePrecision"].value)
            types[_NAMES.get(kind, kind)] += 1
    return dict(types)


def _name(port: Any) -> str:
    return str(port.get_any_name())


def _reason(error: Exception) -> str:
    """The lines that say something: the first ones name source files of OpenVINO."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check "))]
    return " ".join(telling or lines)[:400]
