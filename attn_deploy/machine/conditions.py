"""The machine's clocks, load and memory at one moment. No torch; NVML only where it is installed.

psutil was tried and left: 7.2 takes 24 ms to import, which every child process would pay, and on Linux it knows neither
the peak of a process and how to forget it, nor a container's limits, nor instruction sets, nor the clocks of those cores
alone that the process may use, which is all that is asked here. What is left of it is one line of ``/proc/meminfo``.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attn_deploy.machine.environment import load_average
from attn_deploy.machine.state import GpuState, MachineState

# NVML's bits of clocksEventReasons that mean the clock is held below what the work asks for.
_THROTTLE = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


def machine_state() -> MachineState:
    """Load, CPU clock and GPUs now."""
    return MachineState(load_average(), cpu_mhz(), gpu_states())


def cpu_mhz() -> float | None:
    """Mean clock of the cores that this process may use; None where the system does not tell."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    clocks = [_scaling(core) for core in cores]
    readings = [f for f in clocks if f is not None]
    if not readings:
        listed = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _read(Path("/proc/cpuinfo")), re.MULTILINE)
        readings = [float(listed[c]) for c in cores if c < len(listed)]
    return round(sum(readings) / len(readings), 1) if readings else None


def gpu_states() -> tuple[GpuState, ...]:
    """What NVML says of each GPU; nothing where there is none, or nvidia-ml-py is not installed."""
    with _nvml() as nvml:
        if nvml is None:
            return ()
        return tuple(_gpu(nvml, i) for i in range(nvml.nvmlDeviceGetCount()))


def gpu_memory_of_this_process() -> int | None:
    """Bytes that this process holds on the GPUs, by NVML; None where nothing tells."""
    with _nvml() as nvml:
        if nvml is None:
            return None
        held: list[int] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            held += [p.usedGpuMemory for p in running if p.pid == os.getpid() and p.usedGpuMemory]
        return sum(held) if held else None


def peak_host_memory() -> int:
    """Bytes: the most that this process has held since it began, or since `forget_peak`."""
    match = re.search(r"^VmHWM:\s*(\d+) kB", _read(Path("/proc/self/status")), re.MULTILINE)
    if match:
        return int(match[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Let `peak_host_memory` begin anew, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """The module, ready to be asked; None where it or the driver is missing, or the driver refuses."""
    try:
        import pynvml
    except ModuleNotFoundError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> GpuState:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def asked(function: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, function)(handle, *arguments)
        except (nvml.NVMLError, AttributeError):  # a Jetson or an older driver does not tell everything
            return None

    name = asked("nvmlDeviceGetName")
    memory = asked("nvmlDeviceGetMemoryInfo")
    power = asked("nvmlDeviceGetPowerUsage")
    reasons = asked("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
    return GpuState(
        name=name.decode() if isinstance(name, bytes) else str(name),
        sm_mhz=asked("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        memory_mhz=asked("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        temperature=asked("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        power=None if power is None else power / 1000,
        memory_used=None if memory is None else int(memory.used),
        throttle=tuple(words for bit, words in _THROTTLE.items() if reasons & bit),
    )


def _scaling(core: int) -> float | None:
    text = _read(Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq")).strip()
    return int(text) / 1000 if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
