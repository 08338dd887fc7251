"""ONNX Runtime, with the provider that ran read back."""

from __future__ import annotations

import collections
import functools
import importlib.metadata
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from attn_deploy.errors import GraphError, MissingDependencyError, NoDeviceError, ProviderError
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.machine.int8 import saturates_in_int8
from attn_deploy.runtimes.base import RuntimeInfo

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
RUNTIMES = {"cpu": "ort-cpu", "cuda": "ort-cuda", "tensorrt-rtx": "ort-tensorrt-rtx"}
# What ONNX Runtime puts on the CPU on purpose: arithmetic on shapes, whose results the CPU needs anyway.
SHAPE_OPERATORS = {
    *("Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Expand", "Range", "Cast"),
    *("Constant", "ConstantOfShape", "Identity", "Add", "Sub", "Mul", "Div", "Floor", "Ceil", "ReduceProd"),
    *("Min", "Max", "Where", "Equal", "Less", "Greater", "And", "Or", "Not"),
}
# Kernels for CPUs without 8-bit dot products saturate in sums of pairs: errors of a third of the logits on such a CPU,
# 0.034 with this. It changes nothing in graphs without Q/DQ pairs. On CPUs with dot products it would only cost: ResNet-18
# in 8 bits took 11.5 ms in place of 5.0.
_EXACT_INT8 = {"session.x64quantprecision": "1"}


_NO_BF16 = (
    ". Its CPU provider has next to no kernels in bf16: run the fp32 file or one in 8 bits, or the fp32 file in OpenVINO, "
    "which computes in bf16 where the processor does (profile --runtimes openvino --precisions bf16)."
)
_TYPES = {"float": "float32", "float16": "float16", "double": "float64"}


def exact_int8() -> dict[str, str]:
    """The session entries without which 8-bit kernels would give wrong numbers on this processor; often none."""
    return dict(_EXACT_INT8) if saturates_in_int8() else {}


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


@functools.cache
def _distribution() -> str:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"onnxruntime {import_onnxruntime().__version__}"


def import_provider(kind: str) -> Any:
    """The onnxruntime module, in a build that has a provider.

    Raises:
        MissingDependencyError: if it is not installed, or was built without it.
    """
    ort = import_onnxruntime()
    providers = ort.get_available_providers()
    if PROVIDERS[kind] not in providers:
        raise MissingDependencyError(
            f"{PROVIDERS[kind]} is not part of the installed {_distribution()}, which has {', '.join(providers)}: "
            "uninstall it, then pip install 'attn-deploy[gpu]'."
        )
    return ort


def import_rtx_provider() -> Any:
    """ONNX Runtime with the TensorRT-RTX plugin registered.

    Raises:
        MissingDependencyError: if ONNX Runtime or the plugin is not installed.
        NoDeviceError: if the plugin finds no GPU that it supports.
    """
    ort = import_onnxruntime()
    try:
        import onnxruntime_ep_nv_tensorrt_rtx as plugin
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime_ep_nv_tensorrt_rtx":
            raise
        raise MissingDependencyError(
            "the TensorRT-RTX provider of ONNX Runtime is not installed: pip install onnxruntime-ep-nv-tensorrt-rtx "
            "(beside onnxruntime 1.24 or newer)."
        ) from error
    name = plugin.get_ep_name()
    if not any(d.ep_name == name for d in ort.get_ep_devices()):
        try:
            ort.register_execution_provider_library(name, plugin.get_library_path())
        except Exception as error:  # without a driver the library cannot be loaded
            raise NoDeviceError(f"the TensorRT-RTX provider cannot be used here: {_first_line(error)}") from error
    if not any(d.ep_name == name for d in ort.get_ep_devices()):
        raise NoDeviceError(
            "the TensorRT-RTX provider has no device: it needs an NVIDIA GPU of compute capability 8.6, 8.9 or 12."
        )
    return ort


def _session_options(ort: Any, threads: int, *, optimize: bool, reuse_memory: bool, in_order: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.enable_mem_reuse = reuse_memory
    if in_order and hasattr(ort, "ExecutionOrder"):
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.log_severity_level = 4  # its errors are raised, and reported by us
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _session(
    ort: Any, model: Path | str | bytes, what: str, provider: str, options: Any, provider_options: dict[str, str]
) -> Any:
    """A session on the provider asked for, and on no other."""
    wanted, source = PROVIDERS[provider], model if isinstance(model, bytes) else str(model)
    try:
        if provider == "tensorrt-rtx":
            devices = [d for d in ort.get_ep_devices() if d.ep_name == wanted]
            options.add_provider_for_devices(devices[:1], provider_options)
            session = ort.InferenceSession(source, options)
        else:
            if provider == "cuda" and hasattr(ort, "preload_dlls"):
                ort.preload_dlls()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a missing provider is an error below
                session = ort.InferenceSession(source, options, providers=[(wanted, provider_options)])
    except Exception as error:  # the binding raises a dozen classes of its own
        hint = _NO_BF16 if provider == "cpu" and "NOT_IMPLEMENTED" in str(error) and _in_bf16(model) else ""
        raise GraphError(f"ONNX Runtime cannot load {what}: {_first_line(error)}{hint}") from error
    first = session.get_providers()[0]
    if first != wanted:
        raise ProviderError(
            f"{what}: ONNX Runtime cannot use {wanted} and would run on {first}. Install the build that has it "
            "(pip install 'attn-deploy[gpu]') with its CUDA libraries, or ask for cpu."
        )
    return session


class OnnxRuntimeRunner:
    """Runs an ONNX model with inputs and outputs bound, so that a timed run copies nothing.

    Args:
        model: path, or the serialised model.
        provider: cpu, cuda or tensorrt-rtx.
        threads: threads within an operator; 0 lets ONNX Runtime choose.
        optimize: graph optimisations; all by default, off to look for errors of the optimiser.
        reuse_memory: give the memory of one tensor to another; ONNX Runtime takes elements of a sequence for equally
            large, and fails where they are not.
        in_order: run nodes as early as they can, so that what looks at a tensor does not keep it alive to the end.
        shrink: after each run give back the memory that it took on the CPU; not for timing.
        config: session configuration entries, over those of `exact_int8`.
        provider_options: of the provider, such as ``{"use_tf32": "0"}``. With ``enable_cuda_graph`` outputs stay at
            fixed addresses, which the runner sees to.

    Raises:
        ProviderError: if the session ended up on another provider than asked, or heavy operators of it did.
        NoDeviceError: if there is no device for the plugin's provider.
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
        reuse_memory: bool = True,
        in_order: bool = False,
        shrink: bool = False,
        config: dict[str, str] | None = None,
        provider_options: dict[str, str] | None = None,
    ) -> None:
        ort = import_rtx_provider() if provider == "tensorrt-rtx" else import_onnxruntime()
        what = "the model" if isinstance(model, bytes) else str(model)
        if not isinstance(model, bytes) and not _is_text(what):
            raise GraphError(
                f"ONNX Runtime cannot load {what}: the path holds bytes that are not UTF-8. Rename the file, or the folders "
                "that it lies in."
            )
        self._kind, self._threads, self._optimize = provider, threads, optimize
        self._config = {**exact_int8(), **(config or {})}
        self._provider_options = dict(provider_options or {})
        options = _session_options(ort, threads, optimize=optimize, reuse_memory=reuse_memory, in_order=in_order)
        for key, value in self._config.items():
            options.add_session_config_entry(key, value)
        self._session = _session(ort, model, what, provider, options, self._provider_options)
        self._provider = self._session.get_providers()[0]
        self._binding = self._session.io_binding()
        self._run_options = ort.RunOptions() if shrink else None
        if self._run_options is not None:
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._fixed: list[Any] = []
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.input_names, self.output_names = [i.name for i in inputs], [o.name for o in outputs]
        self.input_types = {
            i.name: np.dtype(_TYPES[kind])
            for i in inputs
            if (kind := i.type.removeprefix("tensor(").rstrip(")")) in _TYPES
        }
        for value in (*inputs, *outputs):
            if not value.type.startswith("tensor("):
                raise GraphError(
                    f"{what}: {value.name!r} is a {value.type}, and only tensors can be given and compared. Let the graph "
                    "take and give the tensors themselves."
                )
        refuse_cpu(self.placement(), what)

    def placement(self) -> tuple[dict[str, int], dict[str, int]]:
        """Nodes by provider, and operator types of those that are not on the provider asked for.

        Both are empty where this version of ONNX Runtime does not report them.
        """
        if not hasattr(self._session, "get_provider_graph_assignment_info"):
            return {}, {}
        nodes: collections.Counter[str] = collections.Counter()
        elsewhere: collections.Counter[str] = collections.Counter()
        for part in self._session.get_provider_graph_assignment_info():
            held = [n.op_type for n in part.get_nodes()]
            nodes[part.ep_name] += len(held)
            if part.ep_name != self._provider:
                elsewhere.update(held)
        return dict(nodes), dict(elsewhere)

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        kinds = sorted({i.type.removeprefix("tensor(").rstrip(")") for i in self._session.get_inputs()})
        return RuntimeInfo(
            runtime=RUNTIMES[self._kind],
            version=_distribution(),
            provider=self._provider,
            precision=",".join("float32" if k == "float" else k for k in kinds),
            threads=(self._threads or None) if self._kind == "cpu" else None,
            settings={
                "graph_optimization": "all" if self._optimize else "none",
                "io_binding": True,
                **self._config,
                **self._provider_options,
            },
        )

    def prepare(self, inputs: Arrays) -> None:
        """Bind ``inputs`` by name; outputs are allocated by ONNX Runtime on its device.

        Raises:
            GraphError: if the names are not the model's inputs.
        """
        if set(inputs) != set(self.input_names):
            raise GraphError(f"the model's inputs are {self.input_names}, not {list(inputs)}.")
        ort = import_onnxruntime()
        device = "cpu" if self._kind == "cpu" else "cuda"
        self._binding.clear_binding_inputs()
        for name, array in inputs.items():
            value = ort.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"), device, 0)
            self._binding.bind_ortvalue_input(name, value)
        self._bind_outputs(device)
        if self._provider_options.get("enable_cuda_graph") == "1":
            self.enqueue()  # the first run tells the outputs' sizes; from then on they stay where they are
            self._fixed = self._binding.get_outputs()
            for name, value in zip(self.output_names, self._fixed, strict=True):
                self._binding.bind_ortvalue_output(name, value)

    def enqueue(self) -> None:
        """Start one run.

        Raises:
            GraphError: if an operator fails.
        """
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
        except Exception as error:  # the binding raises a dozen classes of its own
            raise GraphError(f"ONNX Runtime failed: {_first_line(error)}") from error

    def synchronize(self) -> None:
        """Wait for the device."""
        self._binding.synchronize_outputs()

    def outputs(self) -> Arrays:
        """The outputs by name."""
        if self._kind != "cpu":
            return dict(zip(self.output_names, self._binding.copy_outputs_to_cpu(), strict=True))
        # On the CPU the arrays are the memory that the run wrote, without a copy; the next run is given memory of its own.
        values = dict(zip(self.output_names, (v.numpy() for v in self._binding.get_outputs()), strict=True))
        self._bind_outputs("cpu")
        return {n: v.copy() if n in self.input_names else v for n, v in values.items()}  # an input may be an output

    def _bind_outputs(self, device: str) -> None:
        self._binding.clear_binding_outputs()
        for name in self.output_names:
            self._binding.bind_output(name, device)

    def close(self) -> None:
        """Drop the session."""
        self._fixed = []
        del self._binding
        del self._session


def refuse_cpu(placement: tuple[dict[str, int], dict[str, int]], what: str) -> None:
    """Refuse a session whose provider left real work to the CPU; arithmetic on shapes may be there.

    Raises:
        ProviderError: naming the operators.
    """
    nodes, elsewhere = placement
    heavy = {op: n for op, n in elsewhere.items() if op not in SHAPE_OPERATORS}
    alone = bool(nodes) and sum(elsewhere.values()) == sum(nodes.values())
    if heavy or alone:
        operators = ", ".join(f"{op} {n}" for op, n in sorted((heavy or elsewhere).items()))
        raise ProviderError(
            f"{what}: ran on CPU: {sum(elsewhere.values())} of {sum(nodes.values())} nodes, among them {operators}."
        )


def _in_bf16(model: Path | str | bytes) -> bool:
    """Whether weights are in bf16."""
    import onnx

    proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)
    return any(i.data_type == onnx.TensorProto.BFLOAT16 for i in proto.graph.initializer)


def _is_text(path: str) -> bool:
    """Whether a path is text throughout; names of files may be any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__
