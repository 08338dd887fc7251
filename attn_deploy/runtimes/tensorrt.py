"""TensorRT and TensorRT-RTX engines on the GPU, with memory and streams from cuda-python. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.engine.artifact import EngineArtifact, read_engine
from attn_deploy.engine.flavors import flavor_spec
from attn_deploy.engine.lean import load_runtime, start_runtime
from attn_deploy.engine.logger import collection_paused, logger_for
from attn_deploy.engine.network import dtype_name
from attn_deploy.errors import DeviceError, InvalidRequestError, NoDeviceError
from attn_deploy.files import write_atomic
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.machine.gpu import Gpu, find_gpu
from attn_deploy.runtimes.base import RuntimeInfo
from attn_deploy.runtimes.cuda import Buffer, Cuda, Graph, host_array

SPECIALIZATIONS = ("eager", "lazy", "none")
Bounds = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Least, best and largest shape."""


class TensorRTRunner:
    """Runs a plan file; its sidecar must be beside it.

    The engine, its library and the GPU must belong together, which is checked before the plan is touched: libraries are
    known to crash on plans of others. ``enqueue`` records an event before and after each run (see `DeviceClock`).

    Args:
        engine: the plan file, or what `build` returned for it.
        cuda_graph: launch each run as one recorded graph, which takes the host out of the way of small engines.
        runtime_cache: file of compiled kernels to read and extend, which shortens the first run. TensorRT-RTX only.
        specialization: when kernels are compiled for the shape at hand, where the library does that (TensorRT-RTX):
            ``eager`` at the first run of a shape, ``lazy`` in the background (runs become faster meanwhile), ``none``.
        device: index of the GPU.

    Raises:
        EngineMismatchError: if engine, sidecar, ONNX file (where it is at hand), library and GPU do not belong together.
        MissingDependencyError: if the engine's library or cuda-python is not installed.
        NoDeviceError: if there is no GPU.
        DeviceError: if the library cannot load the engine.
        InvalidRequestError: if an option is unknown, or the library does not support it.
    """

    def __init__(
        self,
        engine: EngineArtifact | Path | str,
        *,
        cuda_graph: bool = False,
        runtime_cache: Path | str | None = None,
        specialization: str = "eager",
        device: int = 0,
    ) -> None:
        if specialization not in SPECIALIZATIONS:
            raise InvalidRequestError(
                f"the specialization {specialization!r} is unknown; use one of {', '.join(SPECIALIZATIONS)}."
            )
        self.artifact = read_engine(engine.path if isinstance(engine, EngineArtifact) else engine)
        self.artifact.check_fresh()
        compatible = self.artifact.options.version_compat
        spec = flavor_spec(self.artifact.flavor)
        self._flavor = load_runtime(spec, engine=self.artifact.path, version_compat=compatible)
        self.artifact.check_loadable(self._flavor.spec.name, self._flavor.version)
        self._gpu = self._find_gpu(device)
        self.artifact.check_loadable(self._flavor.spec.name, self._flavor.version, self._gpu.target)
        self._cache_path = None if runtime_cache is None else Path(runtime_cache)
        self._settings: dict[str, Any] = {"tf32": self.artifact.options.tf32, "cuda_graph": cuda_graph}
        self._graphed = cuda_graph
        self._graph: Graph | None = None
        self._ran = False
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._cuda = Cuda(device)
        try:
            self._load(specialization)
        except BaseException:
            self._release()
            self._cuda.close()
            raise

    def _find_gpu(self, device: int) -> Gpu:
        gpu = find_gpu(device)
        if gpu is None:
            raise NoDeviceError(
                f"{self.artifact.path} runs on {', '.join(self.artifact.targets)}, and this machine has no NVIDIA GPU "
                f"{f'with the index {device} ' if device else ''}that its driver lists. Run it on the device; here the "
                f"ONNX file can be run on the CPU: {self.artifact.onnx}."
            )
        return gpu

    @collection_paused()
    def _load(self, specialization: str) -> None:
        trt = self._flavor.trt
        self._logger = logger_for(trt)
        self._runtime = start_runtime(trt, self._logger)
        if self._runtime is None:
            raise self._failure("could not start its runtime")
        if self.artifact.options.version_compat and hasattr(self._runtime, "engine_host_code_allowed"):
            self._runtime.engine_host_code_allowed = True  # such plans bring their runtime along
        self._engine = self._runtime.deserialize_cuda_engine(self.artifact.path.read_bytes())
        if self._engine is None:
            raise self._failure("could not load the engine")
        self._context = self._create_context(specialization)
        if self._context is None:
            raise self._failure("could not make an execution context")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {n: self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
        self.input_names = [n for n in names if is_input[n]]
        self.output_names = [n for n in names if not is_input[n]]
        self._dtypes = {n: dtype_name(self._engine.get_tensor_dtype(n)) for n in names}
        self._buffers: dict[str, Buffer] = {n: self._cuda.buffer() for n in names}
        self._start, self._end = self._cuda.event(), self._cuda.event()

    def _create_context(self, specialization: str) -> Any:
        """A context; TensorRT-RTX compiles kernels when it runs, and its runtime configuration says how."""
        trt = self._flavor.trt
        self._cache: Any = None
        if not self._flavor.has_runtime_cache:
            if self._cache_path is not None:
                raise InvalidRequestError(
                    f"{self._flavor} does not support a runtime cache: its engines hold compiled kernels. Leave it out."
                )
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        strategy = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = getattr(strategy, specialization.upper())
        self._settings["specialization"] = specialization
        self._settings["runtime_cache"] = "none"
        if self._cache_path is not None:
            self._cache = config.create_runtime_cache()
            cache = _read(self._cache_path)
            accepted = bool(cache) and self._cache.deserialize(cache)
            self._settings["runtime_cache"] = "read" if accepted else "rejected" if cache else "new"
            if not config.set_runtime_cache(self._cache):
                raise self._failure("refuses the runtime cache")
        return self._engine.create_execution_context(config)

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        return RuntimeInfo(
            runtime=self._flavor.spec.name,
            version=str(self._flavor),
            provider=str(self._gpu),
            precision=self.artifact.precision,
            threads=None,
            settings=dict(self._settings),
        )

    def prepare(self, inputs: Arrays) -> None:
        """Upload ``inputs``, and make room for the outputs that their shapes lead to.

        Raises:
            InvalidRequestError: if names, element types or shapes are not the engine's.
            DeviceError: if the GPU has not enough memory, or the library does not know the shapes of the outputs.
        """
        arrays = self._checked(inputs)
        shapes = {n: tuple(a.shape) for n, a in arrays.items()}
        if shapes != self._shapes:
            self._drop_graph()
            self._choose_profile(shapes)
            self._set_shapes(shapes)
        for name, array in arrays.items():
            self._cuda.upload(array, self._buffers[name].pointer)
        self._cuda.synchronize()  # the arrays may go away, and the copies are not part of a run

    def _checked(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        if set(inputs) != set(self.input_names):
            raise InvalidRequestError(
                f"{self.artifact.path} takes {', '.join(self.input_names)}, not {', '.join(inputs) or 'nothing'}."
            )
        for name, array in inputs.items():
            if array.dtype.name != self._dtypes[name]:
                raise InvalidRequestError(
                    f"{self.artifact.path}: the input {name!r} is {self._dtypes[name]}, and was given as "
                    f"{array.dtype.name}. Convert the array."
                )
        return {n: np.asarray(inputs[n], order="C") for n in self.input_names}

    def _choose_profile(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """The profile that is optimized for these shapes, or else the first that takes them."""
        ranges = self._ranges()
        fitting = [i for i, r in enumerate(ranges) if all(_within(shapes[n], *r[n]) for n in self.input_names)]
        best = [i for i in fitting if all(ranges[i][n][1] == shapes[n] for n in self.input_names)]
        if not fitting:
            spans = "; ".join(
                " ".join(f"{n}:{','.join(_x(s) for s in dict.fromkeys(shape))}" for n, shape in entry.items())
                for entry in ranges
            )
            sizes = ", ".join(f"{n} {_x(s)}" for n, s in shapes.items())
            raise InvalidRequestError(
                f"{self.artifact.path} was built for {spans}, not for {sizes}. Build it with a "
                "--profile that has these shapes."
            )
        index = (best or fitting)[0]
        self._settings["profile"] = index
        if self._context.active_optimization_profile != index:
            if not self._context.set_optimization_profile_async(index, self._cuda.stream):
                raise self._failure(f"could not switch to its profile {index}")
            self._cuda.synchronize()

    def _ranges(self) -> list[dict[str, Bounds]]:
        """Least, best and largest shape of each input in each profile, as the sidecar has them; fixed shapes are all three."""
        fixed = {t.name: tuple(d for d in t.shape if isinstance(d, int)) for t in self.artifact.inputs}
        always: dict[str, Bounds] = {n: (s, s, s) for n, s in fixed.items()}
        return [{**always, **{r.name: r.shapes for r in p.ranges}} for p in self.artifact.profiles] or [always]

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = {}  # until all is in place, the last shapes hold no more
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._failure(f"refuses the shape {_x(shape)} of {name!r}")
        unknown = self._context.infer_shapes()
        if unknown:
            raise self._failure(f"does not know the shapes of {', '.join(unknown)}")
        self._output_shapes = {n: tuple(self._context.get_tensor_shape(n)) for n in self.output_names}
        sizes = {**shapes, **self._output_shapes}
        for name, shape in sizes.items():
            if any(d < 0 for d in shape):
                raise DeviceError(
                    f"{self.artifact.path}: the size of the output {name!r} depends on values, not on shapes alone, so "
                    "no memory can be set aside for it. Export the model without that output."
                )
            size = host_array((0,), self._dtypes[name]).itemsize
            pointer = self._buffers[name].reserve(size * int(np.prod(shape, dtype=np.int64)))
            if not self._context.set_tensor_address(name, pointer):
                raise self._failure(f"refuses the memory for {name!r}")
        self._shapes = dict(shapes)

    def enqueue(self) -> None:
        """Start one run.

        Raises:
            InvalidRequestError: if nothing was prepared.
            DeviceError: if the library refuses to run.
        """
        if not self._shapes:
            raise InvalidRequestError(f"{self.artifact.path}: call prepare with inputs before a run.")
        if self._graphed and self._graph is None:
            self._graph = self._captured()
        work: Callable[[], None] = self._execute if self._graph is None else self._graph.launch
        self._cuda.record(self._start)
        work()
        self._cuda.record(self._end)
        self._ran = True

    def _captured(self) -> Graph:
        self._execute()  # what is compiled or set aside at a first run cannot be recorded
        self._cuda.synchronize()
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._cuda.stream):
            raise InvalidRequestError(
                f"{self.artifact.path}: {self._flavor} cannot record this engine as a CUDA graph. Run it without one."
            )
        return self._cuda.capture(self._execute)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise self._failure("could not run the engine")

    def synchronize(self) -> None:
        """Wait until the run is done."""
        self._cuda.synchronize()

    def elapsed_ms(self) -> float:
        """Milliseconds that the last run took on the GPU; waits for its end.

        Raises:
            InvalidRequestError: if there was no run.
        """
        if not self._ran:
            raise InvalidRequestError(f"{self.artifact.path}: nothing ran yet that could have taken time.")
        return self._cuda.elapsed_ms(self._start, self._end)

    def outputs(self) -> Arrays:
        """The outputs of the last run, by name."""
        arrays = {n: host_array(s, self._dtypes[n]) for n, s in self._output_shapes.items()}
        for name, array in arrays.items():
            self._cuda.download(self._buffers[name].pointer, array)
        self._cuda.synchronize()
        return arrays

    def close(self) -> None:
        """Write the runtime cache, and free the engine and all memory on the GPU."""
        try:
            if self._cache is not None and self._cache_path is not None and self._ran:
                write_atomic(self._cache_path, bytes(self._cache.serialize()))
        finally:
            self._drop_graph()
            self._release()
            self._cuda.close()

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def _release(self) -> None:
        """Drop the library's objects, each before what it stands on."""
        self._context = self._cache = self._engine = self._runtime = None
        self._shapes = {}

    def _failure(self, what: str) -> DeviceError:
        said = "; ".join(" ".join(e.split()) for e in self._logger.errors) or "it gives no reason"
        self._logger.clear()
        return DeviceError(f"{self.artifact.path}: {self._flavor} on {self._gpu} {what}: {said}.")


def _within(shape: tuple[int, ...], low: tuple[int, ...], best: tuple[int, ...], high: tuple[int, ...]) -> bool:
    return len(shape) == len(low) and all(a <= d <= b for a, d, b in zip(low, shape, high, strict=True))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise InvalidRequestError(f"the runtime cache {path} cannot be read: {error.strerror or error}.") from error


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
