"""The speed of light: how fast a device could do the work of a graph at best, and how far a measured time is from it.

The floor is the larger of two times: that of the arithmetic at the device's peak, and that of moving inputs, outputs and
weights once through its memory. It is what one perfect kernel for the whole graph would take, computed as written: an
algorithm with fewer multiplications (Winograd's convolution, Strassen's product) can be below it.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attn_deploy.bench.record import ProfileRecord, ProfileRow
from attn_deploy.machine.devices import DeviceProfile, list_devices, load_device, read_device
from attn_deploy.machine.environment import Environment

if TYPE_CHECKING:
    from attn_deploy.graph.work import GraphWork

Bound = Literal["compute", "memory", "launch"]

LAUNCH_SHARE = 0.5  # of the measured time that launches must explain before a row is called bound by them
CPU_DEVICE = "generic-x86"
GPU_LAUNCH_US = 3.0  # assumed where a profile does not say: kernel starts are reported at 2 to 4 microseconds


@dataclass(frozen=True, slots=True)
class SpeedOfLight:
    """A measured time against the hardware's limit. Times in milliseconds.

    Attributes:
        device: name of the device profile; ``precision`` that of the peak; ``threads`` of a CPU's.
        compute_ms: the arithmetic at the peak; None where the profile has no peak for it.
        memory_ms: the bytes that must move, at the bandwidth of the smallest memory that holds them all.
        unfused_ms: the same if every node read and wrote its own tensors: what a runtime without fusion cannot beat.
        launch_ms: starting each node of the graph once; None where the profile does not say what a start costs.
        measured_ms: the median.
        bound: what limits the work: ``launch`` when starting nodes explains at least half of the measured time and more
            than the floor does, else the larger of compute and memory.
    """

    device: str
    precision: str
    threads: int | None
    compute_ms: float | None
    memory_ms: float | None
    unfused_ms: float | None
    launch_ms: float | None
    measured_ms: float
    bound: Bound

    @property
    def floor_ms(self) -> float:
        """The least time that the device could take."""
        return max(self.compute_ms or 0.0, self.memory_ms or 0.0)

    @property
    def multiple(self) -> float:
        """The measured time over the floor; infinite for a graph without work."""
        return self.measured_ms / self.floor_ms if self.floor_ms > 0 else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        multiple = self.multiple
        return {**asdict(self), "floor_ms": self.floor_ms, "multiple": multiple if multiple < float("inf") else None}


def speed_of_light(
    device: DeviceProfile,
    *,
    macs: int,
    ideal_bytes: int,
    measured_ms: float,
    unfused_bytes: int | None = None,
    nodes: int | None = None,
    precision: str = "fp32",
    threads: int | None = None,
) -> SpeedOfLight | None:
    """Put a measured time against the limit of a device.

    Args:
        device: its peaks, bandwidths and cost of a start.
        macs: multiply-accumulates of one run.
        ideal_bytes: inputs, outputs and weights.
        unfused_bytes: the tensors of every node.
        measured_ms: median of one run.
        nodes: of the graph; None where their starts are not to be judged.
        precision: of the products. Where the device has no peak for it, fp32's is taken: it computes in that.
        threads: on a CPU; the peaks of the profile with as many threads, or the nearest number that was measured.

    Returns:
        None when the profile has neither a peak nor a bandwidth, or was measured with fewer threads.
    """
    limits = device.limits(threads)
    if limits is None:
        return None
    peak = limits.peaks_tflops.get(precision, limits.peaks_tflops.get("fp32"))
    bandwidth = limits.bandwidth(ideal_bytes)
    if peak is None and bandwidth is None:
        return None
    compute = 2 * macs / (peak * 1e12) * 1e3 if peak is not None else None
    memory = ideal_bytes / (bandwidth * 1e9) * 1e3 if bandwidth is not None else None
    unfused = None
    if unfused_bytes is not None:
        slow = limits.bandwidth(ideal_bytes)  # what one node writes and the next reads may stay in the same cache
        unfused = unfused_bytes / (slow * 1e9) * 1e3 if slow is not None else None
    start = device.launch_us if device.launch_us is not None else GPU_LAUNCH_US if device.kind == "gpu" else None
    launch = nodes * start / 1e3 if nodes is not None and start is not None else None
    floor = max(compute or 0.0, memory or 0.0)
    bound: Bound = "compute" if (compute or 0.0) >= (memory or 0.0) else "memory"
    if launch is not None and launch > floor and launch >= LAUNCH_SHARE * measured_ms:
        bound = "launch"
    return SpeedOfLight(
        device=device.name,
        precision=precision,
        threads=threads,
        compute_ms=compute,
        memory_ms=memory,
        unfused_ms=unfused,
        launch_ms=launch,
        measured_ms=measured_ms,
        bound=bound,
    )


def graph_limit(work: GraphWork, device: DeviceProfile, measured_ms: float, **settings: Any) -> SpeedOfLight | None:
    """`speed_of_light` of a graph's counted work."""
    return speed_of_light(
        device,
        macs=work.macs,
        ideal_bytes=work.bytes,
        unfused_bytes=work.unfused_bytes,
        nodes=work.nodes,
        measured_ms=measured_ms,
        **settings,
    )


def row_limits(record: ProfileRecord, device: DeviceProfile | None = None) -> dict[str, SpeedOfLight]:
    """The speed of light of every row that has a number and a known graph, by the row's key.

    A row without a graph of its own (eager, compile) does the work of the graph that was exported from the same model at
    the same shapes; of several, that of its own precision, else the fp32 one.

    Args:
        record: what was measured.
        device: whose limits they are put against; by default the profile that the record names, or else the one that
            fits its environment.
    """
    limits: dict[str, SpeedOfLight] = {}
    for row in record.rows:
        used = device or record.light or match_device(record.environment, row)
        graph = row.graph or _graph_of(record, row)
        if used is None or graph is None or row.latency is None or graph.macs is None or graph.bytes_ideal is None:
            continue
        settings = row.info.settings if row.info else {}
        precision = row.precision
        if precision == "fp32" and used.kind == "gpu" and _tf32(settings):
            precision = "tf32"
        limit = speed_of_light(
            used,
            macs=graph.macs,
            ideal_bytes=graph.bytes_ideal,
            unfused_bytes=graph.bytes_unfused,
            nodes=None if row.cuda_graph else graph.nodes,
            measured_ms=(row.device_time or row.latency).p50_ms,
            precision=precision,
            threads=(row.info.threads if row.info else None) if used.kind == "cpu" else None,
        )
        if limit is not None:
            limits[row.key] = limit
    return limits


def match_device(environment: Environment, row: ProfileRow | None = None) -> DeviceProfile | None:
    """The device profile of what a row ran on; None where there is none.

    A GPU is matched by the words of its name. A CPU has the profile that ``attn-deploy doctor --measure`` wrote on this
    machine, or `CPU_DEVICE`, whichever names the record's processor.
    """
    if row is not None and row.info is not None and on_gpu(row.info.provider, row.runtime):
        return match_gpu(environment.gpus[0].name) if environment.gpus else None
    for device in _cpus():
        if device.processor == environment.cpu:
            return device
    return None


# Words of a driver's name that say nothing of which GPU it is. Any other word does: Ti, SUPER, D, Laptop, PCIe, Max-Q, Server.
_NOTHING_SAID = re.compile(r"nvidia|geforce|tesla|gpu|sxm\d?|hbm\d?e?|blackwell|workstation|edition|\d+gb")


def match_gpu(name: str) -> DeviceProfile | None:
    """The profile of a GPU by the name that its driver gives: ``NVIDIA GeForce RTX 4090`` is ``rtx4090``.

    A card of another kind that shares a number (Ti, SUPER, Laptop, PCIe), or that has another memory, is not it.
    """
    words = re.findall(r"[a-z0-9]+", name.lower())
    wanted = "".join(w for w in words if not _NOTHING_SAID.fullmatch(w))
    memory = next((int(w[:-2]) for w in words if re.fullmatch(r"\d+gb", w)), None)
    for device in map(load_device, list_devices()):
        if device.kind == "gpu" and device.name.replace("-", "") == wanted:
            same = memory is None or device.memory_gib is None or abs(memory - device.memory_gib) <= 0.05 * memory
            return device if same else None
    return None


def measured_profile() -> Path:
    """Where ``attn-deploy doctor --measure`` keeps this machine's profile."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "attn-deploy" / "this-machine.toml"


@functools.cache
def _cpus() -> tuple[DeviceProfile, ...]:
    own = measured_profile()
    committed = [load_device(n) for n in list_devices()]
    return (*([read_device(own)] if own.is_file() else []), *(d for d in committed if d.kind == "cpu"))


def on_gpu(provider: str, runtime: str) -> bool:
    """Whether a row's work was done by a GPU."""
    return "tensorrt" in runtime or not provider.upper().startswith("CPU")


def _graph_of(record: ProfileRecord, row: ProfileRow) -> Any:
    same = [r for r in record.rows if r.graph is not None and r.shapes == row.shapes]
    fitting = [r for r in same if r.precision == row.precision] or [r for r in same if r.precision == "fp32"]
    return fitting[0].graph if fitting else None


def _tf32(settings: Mapping[str, Any]) -> bool:
    return any("tf32" in k and bool(v) for k, v in settings.items())
