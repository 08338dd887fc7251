"""A GPU that is not there: cuda-python's runtime over host memory, and a TensorRT runtime that computes with ONNX Runtime.

Work on a stream is done when somebody waits for it and not before, as on a GPU, so that a wait that is forgotten shows.
Each attribute that is taken of a stand-in is noted in `USED` with the class it stands for; tests hold these against the
real libraries.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

USED: set[tuple[str, str]] = set()
NONE = 0x7FFF0001  # handles that are no addresses


class Traced:
    """Notes what is taken of it."""

    REAL = ""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            USED.add((type(self).REAL, name))
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            USED.add((type(self).REAL, name))
        object.__setattr__(self, name, value)


class Code(int):
    """An error code of CUDA."""


class MemcpyKind(Traced):
    REAL = "cudaMemcpyKind"
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class CaptureMode(Traced):
    REAL = "cudaStreamCaptureMode"
    cudaStreamCaptureModeThreadLocal = 1


class FakeCuda(Traced):
    """The functions of ``cuda.bindings.runtime`` that runners call."""

    REAL = "cuda"
    cudaStreamNonBlocking = 1

    def __init__(self, *, devices: int = 1, memory: int = 1 << 20) -> None:
        self._devices, self._memory = devices, memory
        self._blocks: dict[int, Any] = {}
        self._queue: list[Callable[[], None]] = []
        self._recording: list[Callable[[], None]] | None = None
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._handles = itertools.count(NONE)
        self._alive: set[int] = set()
        self._clock = 0.0
        self._times: dict[int, float] = {}
        self._launches = 0
        self._uploads = 0
        self.cudaMemcpyKind, self.cudaStreamCaptureMode = MemcpyKind(), CaptureMode()

    def _submit(self, work: Callable[[], None]) -> None:
        (self._queue if self._recording is None else self._recording).append(work)

    def _handle(self) -> int:
        made = next(self._handles)
        self._alive.add(made)
        return made

    def _drop(self, handle: int) -> tuple[Code]:
        self._alive.remove(handle)
        return (Code(0),)

    def _check(self, address: int, size: int) -> None:
        assert any(a <= address and address + size <= a + len(b) for a, b in self._blocks.items()), "outside of memory"

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (Code(0), self._devices) if self._devices else (Code(100), None)

    def cudaGetErrorName(self, code: Code) -> tuple[Any, ...]:
        return Code(0), {2: b"cudaErrorMemoryAllocation", 100: b"cudaErrorNoDevice"}[int(code)]

    def cudaGetErrorString(self, code: Code) -> tuple[Any, ...]:
        return Code(0), {2: b"out of memory", 100: b"no CUDA-capable device is detected"}[int(code)]

    def cudaSetDevice(self, device: int) -> tuple[Code]:
        assert device < self._devices
        return (Code(0),)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if size + sum(map(len, self._blocks.values())) > self._memory:
            return Code(2), None
        block = ctypes.create_string_buffer(b"\xa5" * size, size)
        self._blocks[ctypes.addressof(block)] = block
        return Code(0), ctypes.addressof(block)

    def cudaFree(self, pointer: int) -> tuple[Code]:
        if pointer:
            del self._blocks[pointer]
        return (Code(0),)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return Code(0), self._handle()

    def cudaStreamDestroy(self, stream: int) -> tuple[Code]:
        return self._drop(stream)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Code]:
        assert stream in self._alive
        assert self._recording is None
        while self._queue:
            self._queue.pop(0)()
        return (Code(0),)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[Code]:
        self._check(target if kind == 1 else source, size)
        self._uploads += kind == 1
        self._submit(lambda: ctypes.memmove(target, source, size) and None)
        return (Code(0),)

    def cudaEventCreate(self) -> tuple[Any, ...]:
        return Code(0), self._handle()

    def cudaEventDestroy(self, event: int) -> tuple[Code]:
        return self._drop(event)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Code]:
        self._submit(lambda: self._times.__setitem__(event, self._clock))
        return (Code(0),)

    def cudaEventSynchronize(self, event: int) -> tuple[Code]:
        while self._queue:
            self._queue.pop(0)()
        return (Code(0),)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:
        return Code(0), self._times[end] - self._times[start]

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Code]:
        assert not self._queue, "capture began before the stream was done"
        self._recording = []
        return (Code(0),)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        handle = self._handle()
        self._graphs[handle], self._recording = self._recording or [], None
        return Code(0), handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        handle = self._handle()
        self._graphs[handle] = self._graphs[graph]
        return Code(0), handle

    def cudaGraphDestroy(self, graph: int) -> tuple[Code]:
        return self._drop(graph)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[Code]:
        return self._drop(graph)

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Code]:
        assert graph in self._alive
        self._launches += 1
        for work in self._graphs[graph]:
            self._submit(work)
        return (Code(0),)


class Context(Traced):
    REAL = "IExecutionContext"

    def __init__(self, engine: Engine, config: Any = None) -> None:
        self._engine, self._config = engine, config
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.active_optimization_profile = 0
        if config is not None:
            self.is_stream_capturable = lambda stream: engine._library._capturable

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._shapes.clear()
        object.__setattr__(self, "active_optimization_profile", index)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        self._results = self._engine._compute({n: np.zeros(s, np.float32) for n, s in self._shapes.items()})
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._results[name].shape

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self._addresses[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        library = self._engine._library
        if library._failing:
            library._say("ERROR", "enqueueV3: the kernel is gone")
            return False
        shapes, addresses, results = dict(self._shapes), dict(self._addresses), dict(self._results)
        library._cuda._submit(lambda: self._run(shapes, addresses, results))
        return True

    def _run(self, shapes: Any, addresses: dict[str, int], results: Any) -> None:
        cuda = self._engine._library._cuda
        arrays = {}
        for name, shape in shapes.items():
            size = int(np.prod(shape)) * 4
            cuda._check(addresses[name], size)
            arrays[name] = np.frombuffer(ctypes.string_at(addresses[name], size), np.float32).reshape(shape)
        for name, value in self._engine._compute(arrays).items():
            cuda._check(addresses[name], value.nbytes)
            ctypes.memmove(addresses[name], value.tobytes(), value.nbytes)
        cuda._clock += 0.25


class Cache(Traced):
    REAL = "IRuntimeCache"

    def __init__(self) -> None:
        self._known = b""

    def deserialize(self, data: bytes) -> bool:
        self._known = data
        return not data.startswith(b"foreign")

    def serialize(self) -> bytes:
        return self._known + b"+kernels"


class Config(Traced):
    REAL = "IRuntimeConfig"

    def create_runtime_cache(self) -> Cache:
        return Cache()

    def set_runtime_cache(self, cache: Cache) -> bool:
        return True


class Engine(Traced):
    REAL = "ICudaEngine"

    def __init__(self, library: FakeTensorRT) -> None:
        self._library = library
        self._session = OnnxRuntimeRunner(library._onnx, threads=1)
        self._names = [*self._session.input_names, *self._session.output_names]
        self.num_io_tensors = len(self._names)

    def _compute(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._session.prepare(arrays)
        self._session.enqueue()
        return self._session.outputs()

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._library._real.TensorIOMode
        return modes.INPUT if name in self._session.input_names else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._library._real.DataType.FLOAT

    def create_runtime_config(self) -> Config:
        return Config()

    def create_execution_context(self, config: Any = None) -> Context:
        self._library._config = config
        return Context(self, config)


class FakeTensorRT(Traced):
    """A TensorRT module as far as running goes; ``real`` lends its enumerations and its logger."""

    REAL = "trt"

    def __init__(self, real: Any, cuda: FakeCuda, onnx: Path, *, jit: bool = True) -> None:
        self._real, self._cuda, self._onnx = real, cuda, onnx
        self._failing, self._refusing, self._capturable, self._logger = False, False, True, None
        self.ILogger, self.TensorIOMode = real.ILogger, real.TensorIOMode
        if jit:
            self.IRuntimeCache = real.IRuntimeCache
            self.DynamicShapesKernelSpecializationStrategy = real.DynamicShapesKernelSpecializationStrategy
        library = self

        class Runtime(Traced):
            REAL = "Runtime"

            def __init__(self, logger: Any) -> None:
                library._logger = logger

            def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
                if library._refusing:
                    library._say("ERROR", "the plan is\n of another world")
                    return None
                return Engine(library)

        self.Runtime = Runtime

    def _say(self, severity: str, words: str) -> None:
        self._logger.log(getattr(self._real.ILogger, severity), words)
