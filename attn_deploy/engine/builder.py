"""ONNX in, engine out, with evidence beside it."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attn_deploy._version import __version__
from attn_deploy.engine.artifact import EngineArtifact, sidecar_of, write_sidecar
from attn_deploy.engine.fingerprint import onnx_sha256
from attn_deploy.engine.logger import LOG
from attn_deploy.engine.network import NetworkSummary
from attn_deploy.engine.options import BuildOptions
from attn_deploy.engine.profile import GivenProfile, Profile, make_profiles, unusual_sizes
from attn_deploy.engine.progress import Event, Progress, ProgressTree
from attn_deploy.engine.remedies import remedy_for
from attn_deploy.engine.request import check_request, find_existing, load_gpu, why_built
from attn_deploy.errors import EngineBuildError, InvalidRequestError, PrecisionError, WorkerError
from attn_deploy.files import check_writable, moving_into, scratch_folder, sha256_of, to_disk
from attn_deploy.graph.artifact import OnnxArtifact, TensorInfo, read_onnx
from attn_deploy.isolate import run_isolated

_WORKER = "attn_deploy.engine.worker:run"


def build(
    artifact: OnnxArtifact | Path | str,
    path: Path | str | None = None,
    *,
    flavor: str = "auto",
    targets: str | Sequence[str] | None = None,
    device: str | None = None,
    profiles: GivenProfile | Iterable[GivenProfile] = (),
    tf32: bool = False,
    workspace: int | str | None = None,
    opt_level: int | None = None,
    hardware_compat: str = "none",
    version_compat: bool = False,
    timing_cache: Path | str | None = None,
    timeout: float = 7200.0,
    force: bool = False,
    precision: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> EngineArtifact:
    """Build a TensorRT engine from an ONNX file, in a child process.

    An engine that lies at ``path`` already and was built from the same ONNX bytes with the same options by the same
    library is used again; ``reason`` and ``reused`` of the result say so.

    Args:
        artifact: an ONNX file, or what `read_onnx` or `attn_deploy.export` returned for one.
        path: the engine file; by default ``<onnx stem>.engine`` beside the ONNX file. ``<path>.json`` comes with it.
        flavor: ``tensorrt``, ``tensorrt-rtx``, or ``auto``: TensorRT where it is installed and has a GPU, else TensorRT-RTX.
        targets: compute capabilities for TensorRT-RTX, such as ``"sm86,sm89"``; TensorRT builds for the GPU at hand.
        device: a device profile (see `attn_deploy.machine.devices`) in place of ``targets``; it brings the scratch memory limit
            and the batch sizes of derived profiles too.
        profiles: shape ranges, see `make_profiles`; by default derived from the dynamic axes.
        tf32: allow fp32 products to round their inputs to TF32. Off, so that fp32 means fp32.
        workspace: scratch memory limit, in bytes or as ``"1GiB"``.
        opt_level: 0 (fast build) to 5 (fast engine). TensorRT-RTX accepts it and ignores it.
        hardware_compat: ``none``, ``ampere-plus`` or ``same-capability``: run on other GPUs too, slower. TensorRT only.
        version_compat: let later versions load the engine, which makes it larger and slower. TensorRT only.
        timing_cache: file of kernel timings to read and extend, which shortens later builds. TensorRT only.
        timeout: seconds until the build is ended.
        force: build even if the engine is there.
        precision: refused; see Raises.
        on_progress: called with the state of the build.

    Raises:
        PrecisionError: if a precision is asked for: it is a property of the graph; if the network's is not the one that
            the ONNX file claims; or if the device has it not.
        GraphError: if the file is not a sound ONNX graph.
        InvalidRequestError: if an option, profile or path cannot be used.
        MissingDependencyError: if the TensorRT library is not installed.
        EngineBuildError: if TensorRT refuses the graph, crashes, or takes too long.
        EngineError: if the library is installed and broken.
        NoDeviceError: if the flavor needs a GPU and there is none.
    """
    options = check_request(
        path,
        flavor=flavor,
        targets=targets,
        device=device,
        tf32=tf32,
        workspace=workspace,
        opt_level=opt_level,
        hardware_compat=hardware_compat,
        version_compat=version_compat,
        timing_cache=timing_cache,
        timeout=timeout,
        precision=precision,
    )
    onnx = _current(artifact)
    target = onnx.path.with_suffix(".engine") if path is None else Path(path)
    if target.is_dir():
        target = target / onnx.path.with_suffix(".engine").name
    if target.absolute() == onnx.path.absolute():
        raise InvalidRequestError(
            f"the engine {target} would overwrite the ONNX file that it is made from; name another."
        )
    check_writable(target)
    gpu = None if device is None else load_gpu(device)
    if gpu is not None and "precision" in onnx.metadata:
        gpu.check_precision(onnx.metadata["precision"], str(onnx.path))
    ranges = make_profiles(onnx, profiles, batch=None if gpu is None else gpu.build.batch)
    existing = find_existing(target, force=force)
    with scratch_folder(beside=target) as folder:
        plan = folder / target.name
        answer = _run_worker(
            onnx,
            flavor=flavor.lower().replace("_", "-"),
            options=options,
            profiles=ranges,
            plan=plan,
            known=None if existing.engine is None else existing.engine.request,
            timeout=timeout,
            on_progress=on_progress,
        )
        if "summary" not in answer and existing.engine is not None:
            return replace(existing.engine, reused=True, reason="the same ONNX file, options and library")
        built = _artifact(target, plan, onnx, answer, options, ranges, why_built(existing, answer["request"]))
        built = replace(built, warnings=(*unusual_sizes(onnx, ranges), *built.warnings))
        _check_claim(onnx, built)
        write_sidecar(built, sidecar_of(plan))
        with moving_into(target.parent):
            _put(plan, target)
    return built


def _put(plan: Path, target: Path) -> None:
    """Rename a finished plan and its sidecar into place; a plan whose sidecar cannot follow is taken away again."""
    to_disk(plan)
    to_disk(sidecar_of(plan))
    try:
        plan.replace(target)
    except OSError as error:
        raise InvalidRequestError(f"{target} could not be written: {error.strerror or error}.") from error
    try:
        sidecar_of(plan).replace(sidecar_of(target))
    except OSError as error:
        target.unlink(missing_ok=True)
        raise InvalidRequestError(f"{sidecar_of(target)} could not be written: {error.strerror or error}.") from error
    to_disk(target.parent)


def _current(artifact: OnnxArtifact | Path | str) -> OnnxArtifact:
    if not isinstance(artifact, OnnxArtifact):
        return read_onnx(artifact)
    current = read_onnx(artifact.path)
    if current.sha256 != artifact.sha256:
        raise InvalidRequestError(
            f"{artifact.path} has the SHA-256 {current.sha256[:12]}... and the artifact was made for "
            f"{artifact.sha256[:12]}...: the file changed since. Export it again, or pass the path."
        )
    return current


def _run_worker(
    onnx: OnnxArtifact,
    *,
    flavor: str,
    options: BuildOptions,
    profiles: tuple[Profile, ...],
    plan: Path,
    known: Any,
    timeout: float,
    on_progress: Callable[[Progress], None] | None,
) -> dict[str, Any]:
    tree = ProgressTree()
    started = time.monotonic()
    phase = "starting"

    def on_event(event: Event) -> None:
        nonlocal phase
        if event["event"] == "log":
            LOG.log(event["level"], "%s", event["text"])
            return
        progress = tree.update(event)
        phase = progress.phase
        if on_progress is not None:
            on_progress(progress)

    try:
        answer: dict[str, Any] = run_isolated(
            _WORKER,
            {
                "onnx": str(onnx.path.absolute()),
                "onnx_sha256": onnx_sha256(onnx.path),
                "inputs": _rows(onnx.inputs),
                "outputs": _rows(onnx.outputs),
                "plan": str(plan.absolute()),
                "flavor": flavor,
                "options": options.to_dict(),
                "profiles": [p.to_dict() for p in profiles],
                "known": known,
                "precision": onnx.metadata.get("precision", ""),
                "log_level": LOG.getEffectiveLevel(),
            },
            what=f"building {onnx.path}",
            timeout=timeout,
            on_event=on_event,
        )
    except WorkerError as error:
        raise EngineBuildError(_death(error, phase, time.monotonic() - started >= timeout, onnx)) from error
    return answer


def _death(error: WorkerError, phase: str, out_of_time: bool, onnx: OnnxArtifact) -> str:
    if out_of_time:
        return f"{error} It was at: {phase}. Give it more time with --timeout, or less to try with --opt-level."
    advice = (
        remedy_for("", onnx.operators) or f"'attn-deploy diagnose {onnx.path} --no-numbers' finds the part to blame."
    )
    return f"{error} It was at: {phase}. No engine was written. {advice}"


def _rows(tensors: Sequence[TensorInfo]) -> list[list[Any]]:
    return [[t.name, t.dtype, list(t.shape)] for t in tensors]


def _artifact(
    target: Path,
    plan: Path,
    onnx: OnnxArtifact,
    answer: dict[str, Any],
    options: BuildOptions,
    profiles: tuple[Profile, ...],
    reason: str,
) -> EngineArtifact:
    request = answer["request"]
    return EngineArtifact(
        path=target,
        sidecar=sidecar_of(target),
        sha256=sha256_of(plan),
        size=plan.stat().st_size,
        flavor=request["flavor"],
        version=request["version"],
        device=request["device"],
        options=replace(options, targets=tuple(request["targets"])),
        profiles=profiles,
        network=NetworkSummary.from_dict(answer["summary"]),
        onnx=onnx.path,
        onnx_sha256=request["onnx_sha256"],
        request=request,
        warnings=tuple(answer["warnings"]),
        parse_seconds=answer["parse_seconds"],
        build_seconds=answer["build_seconds"],
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        argv=tuple(sys.argv),
        attn_deploy=__version__,
        reason=reason,
    )


def _check_claim(onnx: OnnxArtifact, built: EngineArtifact) -> None:
    """The precision that the ONNX file claims must be among those that its products are made in."""
    claimed = onnx.metadata.get("precision")
    parts = built.precision.split("+")
    if claimed in ("fp32", "fp16", "bf16", "int8", "fp8") and built.network.compute_dtypes and claimed not in parts:
        raise PrecisionError(
            f"{onnx.path} says that it is {claimed}, and the network built from it multiplies in {built.precision}. "
            "No engine was written. Convert the graph again: attn-deploy convert MODEL.onnx --precision ..."
        )
