"""TensorRT engines of a profile: built for the shapes that are timed, kept in its folder, run on the GPU at hand."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from attn_deploy.errors import NoDeviceError
from attn_deploy.runtimes.base import Runner
from attn_deploy.runtimes.work import Work


def import_engine_library(flavor: str) -> object:
    """The library behind a flavor, on a machine that can run what it builds.

    Raises:
        MissingDependencyError: if it is not installed.
        EngineError: if it is installed and cannot be used.
        NoDeviceError: if there is no GPU.
    """
    from attn_deploy.engine.flavors import flavor_spec
    from attn_deploy.engine.lean import load_runtime
    from attn_deploy.machine.gpu import find_gpu

    library = load_runtime(flavor_spec(flavor))
    if find_gpu() is None:
        raise NoDeviceError(f"{library} is installed, and runs engines on NVIDIA GPUs; there is none here.")
    return library


def engine_runner(onnx: Path, flavor: str, work: Work) -> Runner:
    """A runner of the engine for these shapes; its ``build_seconds`` is the time of the build, if there was one.

    A file that is an engine already is run as it is.

    Raises:
        EngineError: if TensorRT refuses the graph (see `attn_deploy.build`).
        NoDeviceError: if there is no GPU.
    """
    from attn_deploy.engine.builder import build

    runner: Any = importlib.import_module("attn_deploy.runtimes.tensorrt").TensorRTRunner
    if onnx.suffix == ".engine":
        loaded: Runner = runner(onnx, cuda_graph=work.cuda_graph)
        return loaded
    started = time.perf_counter()
    shapes = {i.name: i.shape() for i in work.inputs}
    sizes = "-".join("x".join(map(str, s)) for s in shapes.values())
    path = (work.folder or onnx.parent) / f"{onnx.stem}-{flavor}-{sizes}{'-tf32' if work.tf32 else ''}.engine"
    exact = {name: (shape, shape, shape) for name, shape in shapes.items()}
    engine = build(onnx, path, flavor=flavor, profiles=exact, tf32=work.tf32)
    seconds = time.perf_counter() - started
    built: Runner = runner(engine.path, cuda_graph=work.cuda_graph)
    built.build_seconds = seconds  # type: ignore[attr-defined]
    return built
