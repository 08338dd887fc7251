"""ONNX Runtime, with the provider that ran read back."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

from attn_deploy.errors import GraphError, MissingDependencyError, ProviderError
from attn_deploy.inputs import Arrays
from attn_deploy.runtimes.base import RuntimeInfo

# Kernels for CPUs without 8-bit dot products saturate in sums of pairs: errors of a third of the logits on such a CPU,
# 0.034 with this. It changes nothing in graphs without Q/DQ pairs.
EXACT_INT8 = {"session.x64quantprecision": "1"}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def import_onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        MissingDependencyError: if it is not installed, or if the CPU and GPU builds overwrote each other.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingDependencyError(
            "onnxruntime is not installed; it is needed to verify and to profile ONNX files: "
            "pip install 'attn-deploy[cpu]' (or 'attn-deploy[gpu]' on a CUDA machine)."
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise MissingDependencyError(
            "the onnxruntime folder is damaged, as happens when onnxruntime and onnxruntime-gpu are installed "
            "together: uninstall both, then install one of 'attn-deploy[cpu]' and 'attn-deploy[gpu]'."
        )
    return onnxruntime


def _distribution() -> str:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"onnxruntime {import_onnxruntime().__version__}"


class OnnxRuntimeRunner:
    """Runs an ONNX model with inputs and outputs bound, so that a timed run copies nothing.

    Args:
        model: path, or the serialised model.
        provider: cpu or cuda.
        threads: threads within an operator; 0 lets ONNX Runtime choose.
        optimize: graph optimisations; all by default, off to look for errors of the optimiser.
        config: session configuration entries, over `EXACT_INT8`.

    Raises:
        ProviderError: if the session ended up on another provider than asked.
        GraphError: if ONNX Runtime refuses the model.
        MissingDependencyError: if onnxruntime is not installed.
    """

    def __init__(
        self,
        model: Path | str | bytes,
        *,
        provider: str = "cpu",
        threads: int = 0,
        optimize: bool = True,
        config: dict[str, str] | None = None,
    ) -> None:
        ort = import_onnxruntime()
        wanted = PROVIDERS[provider]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        options.log_severity_level = 4  # its errors are raised, and told by us
        entries = {**EXACT_INT8, **(config or {})}
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        what = "the model" if isinstance(model, bytes) else str(model)
        try:
            source = model if isinstance(model, bytes) else str(model)
            self._session = ort.InferenceSession(source, options, providers=[wanted])
        except Exception as error:  # the binding raises a dozen classes of its own
            raise GraphError(f"ONNX Runtime cannot load {what}: {_first_line(error)}") from error
        found = self._session.get_providers()[0]
        if found != wanted:
            raise ProviderError(
                f"{what}: {wanted} was asked for, and ONNX Runtime fell back to {found}. Install the build that has it "
                "(pip install 'attn-deploy[gpu]') with its CUDA libraries, or ask for cpu."
            )
        self._provider = found
        self._threads = threads
        self._optimize = optimize
        self._config = entries
        self._binding = self._session.io_binding()
        self.input_names = [i.name for i in self._session.get_inputs()]
        self.output_names = [o.name for o in self._session.get_outputs()]

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        kinds = sorted({i.type.removeprefix("tensor(").rstrip(")") for i in self._session.get_inputs()})
        return RuntimeInfo(
            runtime="ort-cpu" if self._provider == PROVIDERS["cpu"] else "ort-cuda",
            version=_distribution(),
            provider=self._provider,
            precision=",".join("float32" if k == "float" else k for k in kinds),
            threads=self._threads or None,
            settings={"graph_optimization": "all" if self._optimize else "none", "io_binding": True, **self._config},
        )

    def prepare(self, inputs: Arrays) -> None:
        """Bind ``inputs`` by name; outputs are allocated by ONNX Runtime on its device.

        Raises:
            GraphError: if the names are not the model's inputs.
        """
        if set(inputs) != set(self.input_names):
            raise GraphError(f"the model takes {self.input_names}, and was given {list(inputs)}.")
        ort = import_onnxruntime()
        device = "cuda" if self._provider == PROVIDERS["cuda"] else "cpu"
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        for name, array in inputs.items():
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
            self._binding.bind_ortvalue_input(name, value)
        for name in self.output_names:
            self._binding.bind_output(name, device)

    def enqueue(self) -> None:
        """Start one run.

        Raises:
            GraphError: if an operator fails.
        """
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # the binding raises a dozen classes of its own
            raise GraphError(f"ONNX Runtime failed: {_first_line(error)}") from error

    def synchronize(self) -> None:
        """Wait for the device."""
        self._binding.synchronize_outputs()

    def outputs(self) -> Arrays:
        """The outputs by name."""
        return dict(zip(self.output_names, self._binding.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        """Drop the session."""
        del self._binding
        del self._session


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__
