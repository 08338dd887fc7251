"""Device memory, streams, events and graphs from cuda-python, for the runners. No torch: a device need not have it.

Every call of the CUDA runtime is checked, and its error keeps the name that CUDA gives it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.errors import DeviceError, MissingDependencyError, NoDeviceError

# cuda-python moved the module in 12.8 and dropped the old place in 13.
_MODULES = ("cuda.bindings.runtime", "cuda.cudart")
_NO_DEVICE = (
    "cudaErrorNoDevice",
    "cudaErrorInsufficientDriver",
    "cudaErrorStubLibrary",
    "cudaErrorInitializationError",
)


class Cuda:
    """The CUDA runtime of one device; what it hands out is freed by ``close``.

    Args:
        device: index of the GPU.

    Raises:
        MissingDependencyError: if cuda-python is not installed.
        NoDeviceError: if there is no driver or no such GPU.
    """

    def __init__(self, device: int = 0) -> None:
        self._runtime = import_cuda()
        self._owned: list[Callable[[], None]] = []
        try:
            count = self.call("cudaGetDeviceCount")
        except DeviceError as error:
            if any(name in str(error) for name in _NO_DEVICE):
                raise NoDeviceError(f"this needs an NVIDIA GPU, and none can be used here: {error}") from error
            raise
        if not 0 <= device < count:
            raise NoDeviceError(f"GPU {device} does not exist: this machine has {count}.")
        self.call("cudaSetDevice", device)
        self.call("cudaFree", 0)  # makes the context, which some calls of TensorRT expect to find
        self.stream: int = int(self.call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))
        self._owned.append(lambda: self.call("cudaStreamDestroy", self.stream))

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime.

        Returns:
            Its result without the error code; None if it has no other.

        Raises:
            DeviceError: with the error's name and CUDA's words.
        """
        code, *values = getattr(self._runtime, name)(*arguments)
        if int(code) != 0:
            _, title = self._runtime.cudaGetErrorName(code)
            _, words = self._runtime.cudaGetErrorString(code)
            raise DeviceError(f"{name} failed with {_text(title)} ({int(code)}): {_text(words)}.")
        return values[0] if len(values) == 1 else tuple(values) or None

    def buffer(self) -> Buffer:
        """Device memory that grows as needed."""
        buffer = Buffer(self)
        self._owned.append(buffer.free)
        return buffer

    def event(self) -> int:
        """An event with a time stamp."""
        event = self.call("cudaEventCreate")
        self._owned.append(lambda: self.call("cudaEventDestroy", event))
        return int(event)

    def record(self, event: int) -> None:
        """Put an event on the stream."""
        self.call("cudaEventRecord", event, self.stream)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events; waits for the second."""
        self.call("cudaEventSynchronize", end)
        return float(self.call("cudaEventElapsedTime", start, end))

    def upload(self, array: NDArray[Any], pointer: int) -> None:
        """Copy a contiguous array to the device; it must live until the stream is synchronized."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", pointer, array.ctypes.data, array.nbytes, kind, self.stream)

    def download(self, pointer: int, array: NDArray[Any]) -> None:
        """Copy from the device into a contiguous array, which is complete once the stream is synchronized."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", array.ctypes.data, pointer, array.nbytes, kind, self.stream)

    def synchronize(self) -> None:
        """Wait until the stream has done its work."""
        self.call("cudaStreamSynchronize", self.stream)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what ``work`` puts on the stream, without running it."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", self.stream, mode)
        try:
            work()
        except BaseException:
            self._runtime.cudaStreamEndCapture(
                self.stream
            )  # leaves the stream usable; the error above is the one to report
            raise
        recorded = self.call("cudaStreamEndCapture", self.stream)
        try:
            executable = self.call("cudaGraphInstantiate", recorded, 0)
        finally:
            self.call("cudaGraphDestroy", recorded)
        return Graph(self, executable)

    def close(self) -> None:
        """Free everything, last things first.

        Raises:
            DeviceError: the first error; what comes after it is freed all the same.
        """
        first: DeviceError | None = None
        while self._owned:
            try:
                self._owned.pop()()
            except DeviceError as error:
                first = first or error
        if first is not None:
            raise first

    def __enter__(self) -> Cuda:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Buffer:
    """Device memory at ``pointer``; asking for less than it has keeps it, and its address, as it is."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._capacity = 0
        self.pointer = 0

    def reserve(self, size: int) -> int:
        """Make room for that many bytes and return the address."""
        wanted = max(1, size)  # an empty tensor has an address too
        if wanted > self._capacity:
            self.free()
            self.pointer = int(self._cuda.call("cudaMalloc", wanted))
            self._capacity = wanted
        return self.pointer

    def free(self) -> None:
        """Give the memory back."""
        if self._capacity:
            self._cuda.call("cudaFree", self.pointer)
            self._capacity = self.pointer = 0


class Graph:
    """Recorded work that one call launches again."""

    def __init__(self, cuda: Cuda, executable: Any) -> None:
        self._cuda = cuda
        self._executable = executable

    def launch(self) -> None:
        """Put the recorded work on the stream."""
        self._cuda.call("cudaGraphLaunch", self._executable, self._cuda.stream)

    def close(self) -> None:
        """Free it."""
        self._cuda.call("cudaGraphExecDestroy", self._executable)


def import_cuda() -> Any:
    """The CUDA runtime module of cuda-python.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise MissingDependencyError(
        "cuda-python is not installed; engines are run with its buffers and streams: pip install 'attn-deploy[device]'."
    )


def host_array(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """An array for results; types that numpy lacks come from ml_dtypes.

    Raises:
        MissingDependencyError: if the type needs ml_dtypes and it is not installed.
    """
    try:
        kind = np.dtype(dtype)
    except TypeError:
        try:
            import ml_dtypes
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"arrays of {dtype} need the package ml_dtypes: pip install 'attn-deploy[device]'."
            ) from error
        kind = np.dtype(getattr(ml_dtypes, dtype))
    return np.empty(shape, kind)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
