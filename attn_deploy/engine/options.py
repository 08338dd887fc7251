"""The options of a build. Precision is not one of them: it is a property of the ONNX graph."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from attn_deploy.engine.flavors import Flavor
from attn_deploy.errors import InvalidRequestError, NoDeviceError, PrecisionError
from attn_deploy.machine.gpu import Gpu
from attn_deploy.reading import typed

if TYPE_CHECKING:
    from attn_deploy.engine.profile import GivenProfile
    from attn_deploy.engine.progress import Progress

HARDWARE_COMPAT = {"none": "NONE", "ampere-plus": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY"}
FIRST_CAPABILITY = {"fp8": 89}  # the first GPU generation that multiplies a type, where that is not all of them
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


class RequestSettings(TypedDict, total=False):
    """The keywords of `attn_deploy.build` that can be refused before there is a graph."""

    flavor: str
    targets: str | Sequence[str] | None
    device: str | None
    tf32: bool
    workspace: int | str | None
    opt_level: int | None
    hardware_compat: str
    version_compat: bool
    timing_cache: Path | str | None
    timeout: float


class BuildSettings(RequestSettings, total=False):
    """The keywords of `attn_deploy.build`, but the precision: it is the graph's."""

    profiles: GivenProfile | Iterable[GivenProfile]
    force: bool
    on_progress: Callable[[Progress], None] | None


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Everything that a build depends on besides the ONNX file, the profiles and the library.

    Attributes:
        targets: compute capabilities such as ``sm86``; empty for the flavor's default.
        tf32: whether fp32 products may round their inputs to TF32.
        workspace: scratch memory limit in bytes; None leaves the library's own.
        opt_level: 0 (fast build) to 5 (fast engine); None leaves the library's own.
        hardware_compat: a key of ``HARDWARE_COMPAT``.
        version_compat: whether later versions of the library may load the engine.
        timing_cache: file of kernel timings to read and extend.
    """

    targets: tuple[str, ...] = ()
    tf32: bool = False
    workspace: int | None = None
    opt_level: int | None = None
    hardware_compat: str = "none"
    version_compat: bool = False
    timing_cache: str | None = None

    def __post_init__(self) -> None:
        if self.workspace is not None and self.workspace < 1:
            raise InvalidRequestError(f"--workspace must be a positive size such as 1GiB, not {self.workspace} bytes.")
        if self.opt_level is not None and not 0 <= self.opt_level <= 5:
            raise InvalidRequestError(f"the optimization level {self.opt_level} is not in 0 (fast build) .. 5.")
        if self.hardware_compat not in HARDWARE_COMPAT:
            raise InvalidRequestError(
                f"the hardware compatibility {self.hardware_compat!r} is unknown; use {', '.join(HARDWARE_COMPAT)}."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, which ``from_dict`` reads."""
        return {**asdict(self), "targets": list(self.targets)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BuildOptions:
        """The options that ``to_dict`` wrote."""
        return typed(data, cls)

    def resolved(self, flavor: Flavor, gpu: Gpu | None, precision: str = "") -> BuildOptions:
        """These options as the flavor will meet them, targets filled in.

        Args:
            flavor: the library.
            gpu: of this machine.
            precision: what the ONNX file says that it is in; decides which GPUs can run it.

        Raises:
            InvalidRequestError: if the flavor cannot do what is asked.
            PrecisionError: if a target lacks the precision.
            NoDeviceError: if a GPU is needed and there is none.
        """
        spec = flavor.spec
        unable = [
            (self.timing_cache is not None and not spec.has_timing_cache, "--timing-cache", "it keeps no timings"),
            (
                self.version_compat and not flavor.has_version_compat,
                "--version-compat",
                "its engines are of one version",
            ),
            (
                self.hardware_compat != "none" and not flavor.has_hardware_compat,
                "--hardware-compat",
                "name the GPU generations with --target instead"
                if spec.has_aot
                else "it came with version 8.6: build on the GPU that will run the engine",
            ),
            (self.opt_level is not None and not flavor.has_opt_level, "--opt-level", "it came with version 8.6"),
        ]
        for refused, option, reason in unable:
            if refused:
                raise InvalidRequestError(f"{flavor} does not support {option}: {reason}. Leave the option out.")
        if not spec.has_aot:
            options = self._on_this_gpu(flavor, gpu)
            _check_targets(options.targets, precision)
            return options
        targets = tuple(_current(gpu) if t == "current" else t for t in self.targets)
        targets = targets or tuple(t for t in spec.default_targets if not _lacks(t, precision))
        unknown = [t for t in targets if t not in flavor.known_targets]
        if unknown:
            raise InvalidRequestError(
                f"{flavor} cannot build for {', '.join(unknown)}; it builds for {', '.join(flavor.known_targets)}. "
                "Choose among these, or build on that GPU with --flavor tensorrt."
            )
        _check_targets(targets, precision)
        return replace(self, targets=tuple(dict.fromkeys(targets)))

    def _on_this_gpu(self, flavor: Flavor, gpu: Gpu | None) -> BuildOptions:
        if gpu is None:
            raise NoDeviceError(
                f"{flavor} builds only on a GPU, and there is none here. Build on the machine that will run the "
                "engine, or use --flavor tensorrt-rtx, which builds without one."
            )
        if self.targets not in ((), ("current",), (gpu.target,)):
            raise InvalidRequestError(
                f"{flavor} builds for the GPU at hand, {gpu}, not for {', '.join(self.targets)}. Leave --target out, "
                "or use --flavor tensorrt-rtx."
            )
        return replace(self, targets=(gpu.target,))


def _lacks(target: str, precision: str) -> bool:
    return int(target.removeprefix("sm")) < FIRST_CAPABILITY.get(precision, 0)


def _check_targets(targets: Iterable[str], precision: str) -> None:
    lacking = [t for t in targets if _lacks(t, precision)]
    if lacking:
        least = FIRST_CAPABILITY[precision]
        raise PrecisionError(
            f"the graph is in {precision}, which GPUs have from sm{least} on, and the targets include "
            f"{', '.join(lacking)}: leave these out of --target, or quantize to int8.",
            exit_code=2,
        )


def _current(gpu: Gpu | None) -> str:
    if gpu is None:
        raise NoDeviceError("the target 'current' asks for the GPU of this machine, and there is none; name it: sm86.")
    return gpu.target


def parse_targets(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """Targets as ``sm86``: written ``sm86``, ``sm_86``, ``8.6`` or ``86``, in a list or between commas.

    Raises:
        InvalidRequestError: if one cannot be read.
    """
    words = ([given] if isinstance(given, str) else list(given or ())) if given is not None else []
    targets = []
    for word in (w.strip().lower() for part in words for w in str(part).split(",") if w.strip()):
        match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", word)
        if match is None and word != "current":
            raise InvalidRequestError(
                f"the target {word!r} is not a compute capability; write sm86, sm89, sm120 or current."
            )
        targets.append(f"sm{int(match[1])}{match[2]}" if match else word)
    return tuple(dict.fromkeys(targets))


def parse_size(given: int | str | None) -> int | None:
    """Bytes from ``1073741824`` or ``1GiB``.

    Raises:
        InvalidRequestError: if it is no positive size.
    """
    if given is None or isinstance(given, int):
        return given
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?b|b|)", given.strip().lower())
    if match is None:
        raise InvalidRequestError(f"the size {given!r} cannot be read; write bytes, or 512MiB, or 1GiB.")
    return int(float(match[1]) * _UNITS[match[2]])
