"""The build itself, as it runs in the child process: TensorRT may crash, and a crash must not take the caller along."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attn_deploy.engine.flavors import Flavor, choose_flavor, load_flavor
from attn_deploy.engine.logger import collection_paused, logger_for
from attn_deploy.engine.network import summarise_network
from attn_deploy.engine.options import HARDWARE_COMPAT, BuildOptions
from attn_deploy.engine.parse import ParsedNetwork, parse_onnx
from attn_deploy.engine.profile import Profile
from attn_deploy.engine.progress import monitor_for
from attn_deploy.engine.remedies import remedy_for
from attn_deploy.engine.scopes import mentioned
from attn_deploy.engine.tactics import drop_missing_sources
from attn_deploy.engine.weak_typing import permit
from attn_deploy.errors import EngineBuildError, InvalidRequestError
from attn_deploy.files import write_atomic
from attn_deploy.graph.artifact import TensorInfo
from attn_deploy.machine.gpu import find_gpu

Send = Callable[[dict[str, Any]], bool]


@collection_paused()
def run(
    emit: Callable[[dict[str, Any]], None],
    *,
    onnx: str,
    onnx_sha256: str,
    inputs: Sequence[Sequence[Any]],
    outputs: Sequence[Sequence[Any]],
    plan: str,
    flavor: str,
    options: Mapping[str, Any],
    profiles: Sequence[Mapping[str, Any]],
    known: Mapping[str, Any] | None,
    precision: str = "",
    log_level: int,
) -> dict[str, Any]:
    """Parse, build and write the plan to ``plan``, unless the request turns out to be ``known``.

    Returns:
        ``request`` (what the engine depends on), and for a build ``summary``, ``warnings``, ``parse_seconds``,
        ``build_seconds``; a request that is known returns without these.
    """
    lock = threading.Lock()  # the library's threads report too, and no line may end up inside another

    def send(event: dict[str, Any]) -> bool:
        try:
            with lock:
                emit(event)
        except OSError:  # the parent is gone, and an exception must not pass through the library's frames
            return False
        return True

    gpu = find_gpu()
    wishes = BuildOptions.from_dict(dict(options))
    spec = choose_flavor(flavor, targets_given=bool(wishes.targets), gpu_present=gpu is not None)
    library = load_flavor(spec)
    settled = wishes.resolved(library, gpu, precision)
    request = {
        "onnx_sha256": onnx_sha256,
        "flavor": spec.name,
        "version": library.version,
        "device": None if spec.has_aot or gpu is None else gpu.name,
        "profiles": [dict(p) for p in profiles],
        **{k: v for k, v in settled.to_dict().items() if k != "timing_cache"},
    }
    if request == known:
        return {"request": request}
    _route_log(library, send, log_level)
    start = time.perf_counter()
    parsed = parse_onnx(library, Path(onnx))
    _refuse_shape_inputs(parsed, onnx)
    types = None if parsed.types is None else parsed.types.tensors
    summary = summarise_network(parsed.network, _tensors(inputs), _tensors(outputs), types)
    parse_seconds = time.perf_counter() - start
    start = time.perf_counter()
    notes = _build(parsed, settled, [Profile.from_dict(p) for p in profiles], Path(plan), onnx, send)
    return {
        "request": request,
        "summary": summary.to_dict(),
        "warnings": [*notes, *(" ".join(w.split()) for w in parsed.logger.warnings)][:50],
        "parse_seconds": parse_seconds,
        "build_seconds": time.perf_counter() - start,
    }


def _tensors(rows: Sequence[Sequence[Any]]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(name, dtype, tuple(shape)) for name, dtype, shape in rows)


def _route_log(flavor: Flavor, send: Send, level: int) -> None:
    """Warnings come back in the artifact and errors as the exception, so neither is worth more than INFO here."""

    def forward(severity: int, text: str) -> None:
        if min(severity, logging.INFO) >= level:
            send({"event": "log", "level": min(severity, logging.INFO), "text": text})

    logger_for(flavor.trt).forward = forward


def _refuse_shape_inputs(parsed: ParsedNetwork, onnx: str) -> None:
    inputs = (parsed.network.get_input(i) for i in range(parsed.network.num_inputs))
    names = [t.name for t in inputs if t.is_shape_tensor]
    if names:
        raise EngineBuildError(
            f"{onnx}: the values of the input {', '.join(map(repr, names))} decide shapes inside the graph, so the engine "
            "would be bound to a range of values. Make it a constant of the model before exporting."
        )


def _build(
    parsed: ParsedNetwork,
    options: BuildOptions,
    profiles: Sequence[Profile],
    plan: Path,
    onnx: str,
    send: Send,
) -> tuple[str, ...]:
    """Build and write the plan; settings of the builder beyond the options are returned in words."""
    flavor, trt = parsed.flavor, parsed.flavor.trt
    config = parsed.builder.create_builder_config()
    _configure(config, flavor, options)
    dropped = drop_missing_sources(config, trt)
    notes = (
        f"built without the kernels of {', '.join(dropped)}, whose libraries are not here" if dropped else "",
        "" if parsed.types is None else permit(config, parsed.network, trt, parsed.types),
    )
    for profile in profiles:
        _add_profile(parsed, config, profile, onnx)
    monitor = monitor_for(trt, send) if flavor.has_progress else None
    if monitor is not None:
        config.progress_monitor = monitor
    else:
        send({"event": "start", "phase": "Building engine", "parent": None, "steps": 1})
    cache = _load_timings(config, flavor, options)
    engine = parsed.builder.build_serialized_network(parsed.network, config)
    if monitor is None:
        send({"event": "finish", "phase": "Building engine"})
    inconsistent = [w for w in parsed.logger.warnings if "not self-consistent" in w]
    if engine is None or inconsistent:
        # A plan whose own profile does not fit its graph is built with a warning, and fails at run time.
        raise EngineBuildError(_failure(parsed, onnx, inconsistent if engine is not None else parsed.logger.errors))
    try:
        with plan.open("wb") as file:
            file.write(engine)
        if cache is not None and options.timing_cache is not None:
            write_atomic(Path(options.timing_cache), bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        raise InvalidRequestError(
            f"{error.filename or plan} could not be written: {error.strerror or error}."
        ) from error
    return tuple(n for n in notes if n)


def _configure(config: Any, flavor: Flavor, options: BuildOptions) -> None:
    trt = flavor.trt
    config.profiling_verbosity = (
        trt.ProfilingVerbosity.DETAILED
    )  # so that the precision of the kernels can be read from the engine
    (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if options.version_compat:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compat != "none":
        level = HARDWARE_COMPAT[options.hardware_compat]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if flavor.spec.has_aot:
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index):
                raise EngineBuildError(f"{flavor} refuses the target {target}.")


def _add_profile(parsed: ParsedNetwork, config: Any, profile: Profile, onnx: str) -> None:
    created = parsed.builder.create_optimization_profile()
    for entry in profile.ranges:
        created.set_shape(entry.name, entry.minimum, entry.optimum, entry.maximum)
    if config.add_optimization_profile(created) < 0:
        said = "; ".join(parsed.logger.errors) or "it gives no reason"
        raise EngineBuildError(f"{onnx}: {parsed.flavor} refuses the profile {profile}: {said}.")


def _load_timings(config: Any, flavor: Flavor, options: BuildOptions) -> Any:
    if options.timing_cache is None:
        return None
    path = Path(options.timing_cache)
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise InvalidRequestError(f"the timing cache {path} cannot be read: {error.strerror or error}.") from error
    cache = config.create_timing_cache(content)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise InvalidRequestError(
            f"the timing cache {path} was made by another version of {flavor.spec.title} or on another GPU than this; "
            "name another file, or delete it."
        )
    return cache


def _failure(parsed: ParsedNetwork, onnx: str, said: Sequence[str]) -> str:
    text = "; ".join(" ".join(s.split()) for s in said) or "it gives no reason"
    places = mentioned(text, parsed.places)
    where = f" It names: {'; '.join(map(str, places[:8]))}." if places else ""
    suspects = places or (parsed.places if "Attention operation" in text else ())
    advice = remedy_for(text, [p.operator for p in suspects])
    return f"{onnx}: {parsed.flavor} could not build the engine: {text}.{where}{' ' + advice if advice else ''}"
