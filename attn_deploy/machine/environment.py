"""The machine and the software that a number belongs to. No torch, no heavy import."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attn_deploy.reading import typed

PACKAGES = (
    "attn-deploy",
    "torch",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "onnxsim",
    "onnxslim",
    "tensorrt",
    "tensorrt-rtx",
    "tensorrt-lean-cu12",
    "tensorrt-lean-cu13",
    "cuda-python",
)
# Instruction sets that decide which kernels run.
ISA_FLAGS = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "avx512_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "sve",
    "i8mm",
    "bf16",
)


@dataclass(frozen=True, slots=True)
class GpuDescription:
    """One GPU as the driver describes it; clocks in MHz, memory in MiB, temperature in degrees Celsius."""

    name: str
    driver: str
    compute_capability: str
    memory: int | None
    clock: int | None
    max_clock: int | None
    temperature: int | None


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what something was measured.

    Attributes:
        cpu: model name.
        cores: logical cores of the machine; ``usable_cores`` those this process may use (affinity, container quota).
        isa: instruction sets of `ISA_FLAGS` that the processor has.
        frequency_mhz: of the first core when asked; ``governor`` of its clock, where the system tells.
        load_average: runnable processes over the last minute, when asked.
        memory: bytes of the machine.
        os, python: versions.
        packages: installed versions by distribution name.
        gpus: what the driver lists; ``cuda`` the newest CUDA version that the driver serves.
        git_commit: of the working directory, with ``+changes`` when it is not clean; None outside a repository.
    """

    cpu: str
    cores: int
    usable_cores: int
    isa: tuple[str, ...]
    frequency_mhz: float | None
    governor: str | None
    load_average: float | None
    memory: int | None
    os: str
    python: str
    packages: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[GpuDescription, ...] = ()
    cuda: str | None = None
    git_commit: str | None = None

    @property
    def busy(self) -> bool:
        """Whether other work held more than a quarter of the cores."""
        return self.load_average is not None and self.load_average > 0.25 * self.usable_cores

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Environment:
        """The inverse of `to_dict`."""
        return typed(data, cls)


def describe_environment(directory: Path | None = None) -> Environment:
    """What this process runs on.

    Args:
        directory: whose git commit is noted; by default the working directory.
    """
    info = _read(Path("/proc/cpuinfo"))
    gpus, cuda = find_gpus()
    return Environment(
        cpu=cpu_model(info),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        isa=isa_flags(info),
        frequency_mhz=_frequency(info),
        governor=_read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")).strip() or None,
        load_average=load_average(),
        memory=_memory(_read(Path("/proc/meminfo"))),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=installed_versions(),
        gpus=gpus,
        cuda=cuda,
        git_commit=git_commit(directory or Path.cwd()),
    )


def processors() -> tuple[str, ...]:
    """What times depend on here: the processor's name, the cores for this process and the GPUs' names."""
    gpus, _ = find_gpus()
    return cpu_model(_read(Path("/proc/cpuinfo"))), f"{usable_cores()} cores", *(g.name for g in gpus)


def installed_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Versions of those distributions that are installed."""
    return {name: version for name in names if (version := _installed_version(name)) is not None}


@functools.cache
def _installed_version(name: str) -> str | None:
    """Read once: a millisecond and more for each package, of every record."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def load_average() -> float | None:
    """Runnable processes over the last minute, where the system counts them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(_read(Path("/sys/fs/cgroup/cpu.max")))
    return max(1, min(cores, int(quota) if quota is not None else cores))


def cgroup_quota(text: str) -> float | None:
    """Cores that a ``cpu.max`` file grants; None when it sets no limit."""
    parts = text.split()
    if len(parts) != 2 or parts[0] == "max":
        return None
    return int(parts[0]) / int(parts[1])


def cpu_model(cpuinfo: str) -> str:
    """The processor's name from ``/proc/cpuinfo``, or what Python knows of it."""
    for key in ("model name", "Hardware", "Model"):
        match = re.search(rf"^{key}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
        if match:
            return match[1].strip()
    device = _read(Path("/proc/device-tree/model")).strip("\0\n ")
    return device or platform.processor() or platform.machine() or "unknown"


def isa_flags(cpuinfo: str) -> tuple[str, ...]:
    """The instruction sets of `ISA_FLAGS` that ``/proc/cpuinfo`` lists (``flags`` on x86, ``Features`` on Arm)."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    present = set(match[1].split()) if match else set()
    return tuple(f for f in ISA_FLAGS if f in present)


def cpu_isa() -> tuple[str, ...]:
    """The instruction sets of `ISA_FLAGS` that this processor has."""
    return isa_flags(_read(Path("/proc/cpuinfo")))


def find_gpus() -> tuple[tuple[GpuDescription, ...], str | None]:
    """The GPUs that nvidia-smi or the driver lists, and the newest CUDA version that the driver serves."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return _gpu_of_driver()
    fields = "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.max.sm,temperature.gpu"
    listed = _run([tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    banner = re.search(r"CUDA Version:\s*([\d.]+)", _run([tool]))
    return parse_gpus(listed), banner[1] if banner else None


def _gpu_of_driver() -> tuple[tuple[GpuDescription, ...], str | None]:
    """What the driver itself says, where there is no nvidia-smi, as on a Jetson."""
    from attn_deploy.machine.gpu import find_gpu

    device = find_gpu()
    if device is None:
        return (), None
    digits = device.target.removeprefix("sm")
    return (GpuDescription(device.name, "", f"{digits[:-1]}.{digits[-1]}", None, None, None, None),), device.driver


def parse_gpus(listed: str) -> tuple[GpuDescription, ...]:
    """The GPUs in nvidia-smi's CSV of name, driver, capability, memory, clock, highest clock and temperature."""
    gpus = []
    for line in listed.splitlines():
        parts = [p.strip() for p in line.split(",")]
        if len(parts) == 7:
            gpus.append(GpuDescription(parts[0], parts[1], parts[2], *(_integer(p) for p in parts[3:])))
    return tuple(gpus)


def git_commit(directory: Path) -> str | None:
    """The commit of the repository around ``directory``, with ``+changes`` when tracked files differ from it."""
    tool = shutil.which("git")
    if tool is None:
        return None
    commit = _run([tool, "-C", str(directory), "rev-parse", "HEAD"]).strip()
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return None
    changed = _run([tool, "-C", str(directory), "status", "--porcelain", "--untracked-files=no"]).strip()
    return commit + ("+changes" if changed else "")


def command_line() -> tuple[str, ...]:
    """The arguments of this process, the program without its folder."""
    return (Path(sys.argv[0]).name, *map(_without_folder, sys.argv[1:])) if sys.argv else ()


def _without_folder(word: str) -> str:
    """The word with the name of a file in place of its absolute path: records travel, and folders stay private."""
    option, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else word


def _frequency(cpuinfo: str) -> float | None:
    scaling = _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")).strip()
    if scaling.isdigit():
        return int(scaling) / 1000
    match = re.search(r"^cpu MHz\s*:\s*([\d.]+)", cpuinfo, re.MULTILINE)
    return float(match[1]) if match else None


def _memory(meminfo: str) -> int | None:
    match = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _integer(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
