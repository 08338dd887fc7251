"""Device profiles: what a GPU or CPU is and can reach at most, one TOML file each in ``profiles/devices``. No torch."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from attn_deploy.errors import InvalidRequestError, PrecisionError
from attn_deploy.reading import field_error, read_toml, typed

DEVICES = Path(__file__).with_name("device_profiles")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")

_KEYS = {"name", "title", "kind", "memory_gib", "bandwidth_gbs", "compute_capability", "peaks_tflops", "precisions"}
_MEASURED = {
    "processor",
    "cores",
    "caches",
    "launch_us",
    "threads",
}  # of a CPU, as `attn-deploy doctor --measure` writes them
_REQUIRED = ("name", "title", "kind", "precisions")


@dataclass(frozen=True, slots=True)
class DeviceBuild:
    """How engines for a device are built when nobody says otherwise.

    Attributes:
        workspace: scratch memory limit, such as ``4GiB``; None leaves the library's own.
        batch: least batch size, the one to optimize for, and the largest.
    """

    workspace: str | None = None
    batch: tuple[int, int, int] = (1, 8, 32)


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """What a device can reach with a number of threads.

    Attributes:
        peaks_tflops, bandwidth_gbs: as those of a `DeviceProfile`.
        caches: for each level the MiB that it holds and its bandwidth in 10^9 bytes a second, smallest first.
    """

    peaks_tflops: Mapping[str, float]
    bandwidth_gbs: float | None
    caches: tuple[tuple[float, float], ...] = ()

    def bandwidth(self, held: int) -> float | None:
        """Bandwidth in 10^9 bytes a second for ``held`` bytes: that of the smallest level that holds them all."""
        return next((gbs for mib, gbs in self.caches if held <= mib * 2**20), self.bandwidth_gbs)


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A device as its vendor describes it.

    Attributes:
        name: as in ``--device``.
        title: the vendor's name.
        kind: ``gpu`` or ``cpu``.
        precisions: those that it computes in, of ``PRECISIONS``.
        compute_capability: such as ``8.9``; None for a CPU.
        memory_gib: memory in the vendor's GB; None where it is the machine's business.
        bandwidth_gbs: memory bandwidth in 10^9 bytes a second; None if unknown.
        peaks_tflops: 10^12 operations a second by precision, dense; a multiply-accumulate counts as two.
        build: defaults of engine builds.
        processor: of a CPU that was measured, as the system names it; ``cores``: threads that its peaks were reached with.
        caches: of its levels the MiB held and the bandwidth, smallest first; for a GPU none is published.
        launch_us: microseconds that starting one node of a graph costs; None if unknown.
        threads: limits with fewer threads than all, by their number.
    """

    name: str
    title: str
    kind: Literal["gpu", "cpu"]
    precisions: tuple[str, ...]
    compute_capability: str | None = None
    memory_gib: float | None = None
    bandwidth_gbs: float | None = None
    peaks_tflops: Mapping[str, float] = field(default_factory=dict)
    build: DeviceBuild = DeviceBuild()
    processor: str | None = None
    cores: int | None = None
    caches: tuple[tuple[float, float], ...] = ()
    launch_us: float | None = None
    threads: Mapping[int, DeviceLimits] = field(default_factory=dict)

    def limits(self, threads: int | None = None) -> DeviceLimits | None:
        """The limits with so many threads: those measured with as many or the next larger number.

        None where more threads are asked for than were measured; without a number, the limits of all.
        """
        if threads is not None and self.cores is not None and threads > self.cores:
            return None
        enough = [n for n in sorted(self.threads) if threads is not None and n >= threads]
        if enough:
            return self.threads[enough[0]]
        return DeviceLimits(self.peaks_tflops, self.bandwidth_gbs, self.caches)

    @property
    def target(self) -> str | None:
        """The compute capability as a build target, such as ``sm89``; None for a CPU."""
        return None if self.compute_capability is None else "sm" + self.compute_capability.replace(".", "")

    def check_precision(self, precision: str, what: str = "") -> None:
        """Refuse a precision that the device does not compute in; ``what`` has it, for the message.

        Raises:
            PrecisionError: with the precisions that it has.
        """
        if precision not in self.precisions:
            raise PrecisionError(
                f"{what + ' is ' if what else ''}{precision}{'' if what else ' was asked for'}, and {self.title} computes "
                f"in {', '.join(self.precisions)}. Choose among these, or another device.",
                exit_code=2,
            )

    def check(self, where: str = "") -> None:
        """Check what the types do not say: nothing can be divided by a limit of zero.

        Raises:
            InvalidRequestError: naming the field; ``where`` is the device's place in a record.
        """
        whole = DeviceLimits(self.peaks_tflops, self.bandwidth_gbs, self.caches)
        for limits in (whole, *self.threads.values()):
            numbers = {"bandwidth_gbs": limits.bandwidth_gbs}
            numbers |= {f"peaks_tflops.{name}": peak for name, peak in limits.peaks_tflops.items()}
            numbers |= {f"caches[{k}]": value for k, pair in enumerate(limits.caches) for value in pair if value == 0}
            for name, value in numbers.items():
                if value is not None and not 0 < value < math.inf:
                    raise field_error(f"{where}.{name}".lstrip("."), value, "above 0")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeviceProfile:
        """The inverse of `to_dict`, after JSON too, which knows neither tuples nor keys that are numbers."""
        device = typed(data, cls, signed=())
        device.check()
        return device


def list_devices() -> tuple[str, ...]:
    """The names of all device profiles, sorted."""
    return tuple(sorted(p.stem for p in DEVICES.glob("*.toml")))


def load_device(name: str) -> DeviceProfile:
    """Read a device profile.

    Args:
        name: a name of `list_devices`, however it is punctuated (``RTX 4090``), or the path of a TOML file of one's own.

    Raises:
        InvalidRequestError: if there is no such device, or its file cannot be used.
    """
    if name.endswith(".toml"):
        return read_device(Path(name))
    names = {_plain(n): n for n in list_devices()}
    stem = names.get(_plain(name))
    if stem is None:
        close = difflib.get_close_matches(_plain(name), names, n=1)
        hint = f"; did you mean {names[close[0]]!r}?" if close else "."
        if re.fullmatch(r"(cuda|gpu|cpu)(:\d+)?", name.lower()):
            hint = ": it names what engines are built for and rows compared with; what PyTorch runs on is `profile --on cuda`."
        raise InvalidRequestError(
            f"the device {name!r} is unknown{hint} Known: {', '.join(names.values())}; or name a .toml file of your own."
        )
    return read_device(DEVICES / f"{stem}.toml")


def read_device(path: Path) -> DeviceProfile:
    """Read a device profile from a TOML file.

    Raises:
        InvalidRequestError: if the file cannot be read, lacks a field, or holds one that makes no sense.
    """
    try:
        data = read_toml(path, "the device profile")
    except InvalidRequestError as error:
        if path.is_file():
            raise
        raise InvalidRequestError(f"{error} Known devices: {', '.join(list_devices())}.") from error
    wrong = _fault(data)
    if wrong:
        raise InvalidRequestError(f"the device profile {path} {wrong}.")
    try:
        typed(data, DeviceProfile)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"the device profile {path}: {error}") from error
    wrong = _nonsense(data)
    if wrong:
        raise InvalidRequestError(f"the device profile {path} {wrong}.")
    build = dict(data.pop("build", {}))
    if "batch" in build:
        build["batch"] = tuple(build["batch"])
    return DeviceProfile(
        **{
            **data,
            "precisions": tuple(data["precisions"]),
            "peaks_tflops": {k: float(v) for k, v in data.get("peaks_tflops", {}).items()},
            "build": DeviceBuild(**build),
            "caches": _caches(data),
            "threads": {
                int(n): DeviceLimits(dict(t.get("peaks_tflops", {})), t.get("bandwidth_gbs"), _caches(t))
                for n, t in sorted(data.get("threads", {}).items(), key=lambda item: int(item[0]))
            },
        }
    )


def _caches(data: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    return tuple(sorted((float(mib), float(gbs)) for mib, gbs in data.get("caches", ())))


def _fault(data: Mapping[str, Any]) -> str:
    """What is wrong with the fields and tables of a profile; empty if nothing is."""
    missing = [k for k in _REQUIRED if k not in data]
    unknown = [k for k in data if k not in _KEYS | _MEASURED | {"build"}]
    if missing or unknown:
        return f"lacks {', '.join(missing)}" if missing else f"has the unknown field {', '.join(map(repr, unknown))}"
    build, peaks = data.get("build", {}), data.get("peaks_tflops", {})
    if not isinstance(build, Mapping) or not isinstance(peaks, Mapping):
        return "needs tables for peaks_tflops and build"
    wrong = next((w for w in (_limits_fault(t) for t in (data, *_tables(data.get("threads", {})))) if w), "")
    unknown = [k for k in build if k not in ("workspace", "batch")]
    if not wrong and unknown:
        wrong = f"has an unknown field in build: {', '.join(unknown)}"
    if not wrong and data["kind"] not in ("gpu", "cpu"):
        wrong = f"has the kind {data['kind']!r}; it is gpu or cpu"
    return wrong


def _nonsense(data: Mapping[str, Any]) -> str:
    """What of a profile whose fields are of their types makes no sense; empty if nothing does."""
    build, peaks = data.get("build", {}), data.get("peaks_tflops", {})
    numbers = {**{k: data[k] for k in ("memory_gib", "bandwidth_gbs", "launch_us", "cores") if k in data}, **peaks}
    batch = build.get("batch", [1, 1, 1])
    faults = (
        (
            data["kind"] == "gpu" and not re.fullmatch(r"\d{1,2}\.\d", str(data.get("compute_capability"))),
            f'has the compute capability {data.get("compute_capability")!r}; write it like "8.9"',
        ),
        (
            not set(data["precisions"]) | set(peaks) <= set(PRECISIONS),
            f"names a precision other than {', '.join(PRECISIONS)} in precisions or peaks_tflops",
        ),
        (
            any(v is not None and v <= 0 for v in numbers.values()),
            f"has a number that is not above 0 among {numbers}",
        ),
        (
            not 1 <= batch[0] <= batch[1] <= batch[2],
            f"has the batch sizes {batch}; it must hold that 1 <= least <= best <= largest",
        ),
    )
    return next((words for wrong, words in faults if wrong), "")


def _tables(threads: Any) -> tuple[Any, ...]:
    """The tables by number of threads; something that is none where one is not as it should be."""
    if not isinstance(threads, Mapping) or not all(str(n).isdigit() for n in threads):
        return (None,)
    return tuple(threads.values())


def _limits_fault(table: Any) -> str:
    if not isinstance(table, Mapping):
        return "needs a table for each number of threads, as in [threads.1]"
    caches = table.get("caches", [])
    pairs = isinstance(caches, list) and all(isinstance(c, list) and len(c) == 2 for c in caches)
    if not pairs or any(isinstance(v, bool) or not isinstance(v, (int, float)) or v <= 0 for c in caches for v in c):
        return f"has the caches {caches!r}; write pairs of MiB and 10^9 bytes a second, as in [[1, 80], [16, 40]]"
    if "bandwidth_gbs" in table and not isinstance(table["bandwidth_gbs"], (int, float)):
        return f"has the bandwidth_gbs {table['bandwidth_gbs']!r}, which is not a number"
    peaks = table.get("peaks_tflops", {})
    if not isinstance(peaks, Mapping) or not all(isinstance(p, (int, float)) and p > 0 for p in peaks.values()):
        return "needs a number above 0 for each precision in peaks_tflops"
    return ""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
