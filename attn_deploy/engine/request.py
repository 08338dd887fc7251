"""What can be refused, or need not be built, before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_deploy.engine.artifact import EngineArtifact, read_engine
from attn_deploy.engine.flavors import check_installed
from attn_deploy.engine.options import BuildOptions, parse_size, parse_targets
from attn_deploy.errors import EngineMismatchError, InvalidRequestError, PrecisionError
from attn_deploy.files import check_writable
from attn_deploy.machine.devices import DeviceProfile, load_device


@dataclass(frozen=True, slots=True)
class Existing:
    """What lies at the place of the engine.

    Attributes:
        engine: the engine; None if there is none that may be used again.
        reason: why there is none; empty if there is one.
    """

    engine: EngineArtifact | None
    reason: str = ""


def check_request(
    path: Path | str | None = None,
    *,
    flavor: str = "auto",
    targets: str | Sequence[str] | None = None,
    device: str | None = None,
    tf32: bool = False,
    workspace: int | str | None = None,
    opt_level: int | None = None,
    hardware_compat: str = "none",
    version_compat: bool = False,
    timing_cache: Path | str | None = None,
    timeout: float = 7200.0,
    precision: str | None = None,
) -> BuildOptions:
    """Read the options of `attn_deploy.build`, and refuse what no graph could change.

    Raises:
        PrecisionError: if a precision is asked for.
        InvalidRequestError: if an option or the output cannot be used.
        MissingDependencyError: if the library is not installed.
    """
    if precision is not None:
        raise PrecisionError(
            f"precision {precision!r} cannot be asked of the engine builder: engines are strongly typed, so the ONNX "
            f"graph decides. Convert the graph first: attn-deploy convert MODEL.onnx --precision {precision} (or "
            "'attn-deploy quantize --target gpu' for int8), then build the result; 'attn-deploy build --precision' does both.",
            exit_code=2,
        )
    if not timeout > 0:
        raise InvalidRequestError(f"a time limit of {timeout} s leaves no time to build; give more than 0.")
    chosen = parse_targets(targets)
    limit = parse_size(workspace)
    if device is not None:
        profile = load_gpu(device)
        if chosen:
            raise InvalidRequestError(
                f"the device {profile.name} is {profile.target}, and --target is {','.join(chosen)}: "
                "leave out one of --device and --target."
            )
        chosen = parse_targets(profile.target)
        limit = parse_size(profile.build.workspace) if limit is None else limit
    options = BuildOptions(
        targets=chosen,
        tf32=tf32,
        workspace=limit,
        opt_level=opt_level,
        hardware_compat=hardware_compat,
        version_compat=version_compat,
        timing_cache=None if timing_cache is None else str(Path(timing_cache).absolute()),
    )
    check_installed(flavor)
    for output in (path, options.timing_cache):
        if output is not None:
            check_writable(Path(output))
    return options


def load_gpu(name: str) -> DeviceProfile:
    """The profile of a device that engines can be built for.

    Raises:
        InvalidRequestError: if it is unknown, or a CPU.
    """
    profile = load_device(name)
    if profile.target is None:
        raise InvalidRequestError(
            f"the device {profile.name} is a CPU, and engines run on NVIDIA GPUs: name one of these."
        )
    return profile


def find_existing(target: Path, *, force: bool) -> Existing:
    """The engine that may be used again."""
    if force:
        return Existing(None, "--force")
    if not target.exists():
        return Existing(None, "there was no engine")
    try:
        return Existing(read_engine(target))
    except EngineMismatchError as error:
        return Existing(None, f"the engine that was there is not usable: {str(error).split(' Build it again')[0]}")


def why_built(existing: Existing, request: Mapping[str, Any]) -> str:
    """Why the engine that was there did not serve."""
    if existing.engine is None:
        return existing.reason
    before = existing.engine.request
    changed = [k for k in request if before.get(k) != request[k]]
    details = ["the ONNX file" if k == "onnx_sha256" else f"{k} ({before.get(k)} -> {request[k]})" for k in changed]
    return f"the engine that was there differs in {', '.join(details)}"
