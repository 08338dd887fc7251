"""The GPU of this machine, asked of the driver itself: no CUDA toolkit, no torch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device.

    Attributes:
        name: the vendor's name.
        target: compute capability as a build target, such as ``sm89``.
        driver: the highest CUDA version that the driver supports, such as ``13.0``.
    """

    name: str
    target: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name} ({self.target})"


def find_gpu(index: int = 0) -> Gpu | None:
    """The CUDA device of that index, or None if there is no driver or no such device."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    calls = (
        ("cuInit", 0),
        ("cuDeviceGetCount", ctypes.byref(count)),
        ("cuDeviceGet", ctypes.byref(device), index),
        ("cuDeviceGetName", name, len(name), device),
        ("cuDeviceGetAttribute", ctypes.byref(major), _CAPABILITY_MAJOR, device),
        ("cuDeviceGetAttribute", ctypes.byref(minor), _CAPABILITY_MINOR, device),
        ("cuDriverGetVersion", ctypes.byref(version)),
    )
    for function, *arguments in calls:  # in this order: each needs those before it
        if getattr(cuda, str(function))(*arguments) != 0:
            return None
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}", driver)
