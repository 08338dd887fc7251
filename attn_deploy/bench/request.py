"""From what a caller says to the plan of a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_deploy.bench.images import check_images
from attn_deploy.bench.make import default_runtimes
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.plan import AccuracyPlan, ProfilePlan, Size, plan_path
from attn_deploy.bench.subject import is_engine
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.machine.devices import DeviceProfile, load_device
from attn_deploy.machine.environment import usable_cores
from attn_deploy.runtimes.table import RUNTIMES, choose_precisions

if TYPE_CHECKING:
    from torch import nn


def plan_profile(
    model: str | Path | nn.Module,
    *,
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    batch: Sequence[int] | None = None,
    size: Size | Sequence[Size] | None = None,
    cuda_graph: bool | Sequence[bool] = False,
    threads: int | None = None,
    torch_device: str = "auto",
    tf32: bool = False,
    options: BenchOptions | None = None,
    opset: int | None = None,
    dynamic: Sequence[str] | None = None,
    inputs: Sequence[TensorInput] | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    onnx: Path | str | None = None,
    calibration: Path | str | None = None,
    accuracy: AccuracyPlan | str | None = None,
    data_dir: Path | str | None = None,
    timeout: float = 1800.0,
    memory_limit: int | None = None,
    device: DeviceProfile | Path | str | None = None,
) -> ProfilePlan:
    """The plan that `attn_deploy.profile` makes of the same arguments.

    Raises:
        InvalidRequestError: if a runtime, a precision, a device or an option is unknown, or an engine is to run elsewhere.
        NoDeviceError: if the model is an engine, and there is no GPU.
    """
    settings = options or BenchOptions()
    if is_engine(model):
        runtimes = _engine_runtimes(Path(str(model)), runtimes, precisions)
    is_file = isinstance(model, (str, Path)) and str(model).lower().endswith(".onnx")
    plan = ProfilePlan(
        model=_model(model),
        runtimes=tuple(dict.fromkeys(runtimes)) if runtimes is not None else default_runtimes(not is_file),
        precisions=choose_precisions(precisions) if precisions is not None else ("",),
        cuda_graphs=tuple(dict.fromkeys([cuda_graph] if isinstance(cuda_graph, bool) else cuda_graph)),
        batches=tuple(dict.fromkeys(batch)) if batch else (None,),
        sizes=_sizes(size),
        options=settings if threads is None else replace(settings, threads=threads),
        torch_device=torch_device,
        tf32=tf32,
        inputs=tuple(inputs) if inputs is not None else None,
        arguments=dict(arguments or {}),
        onnx=plan_path(onnx),
        weights=plan_path(weights),
        opset=opset,
        dynamic=tuple(dynamic) if dynamic is not None else None,
        calibration=_calibration(calibration),
        accuracy=AccuracyPlan(dataset=accuracy) if isinstance(accuracy, str) else accuracy,
        data_dir=plan_path(data_dir),
        timeout=timeout,
        memory_limit=memory_limit,
        device=device if device is None or isinstance(device, DeviceProfile) else load_device(str(device)),
    )
    check_images(plan)
    return plan


def _engine_runtimes(path: Path, runtimes: Sequence[str] | None, precisions: Sequence[str] | None) -> tuple[str, ...]:
    """The one runtime of an engine, which is there."""
    from attn_deploy.engine.artifact import read_engine

    engine = read_engine(path)
    if runtimes is not None and set(runtimes) != {engine.flavor}:
        raise InvalidRequestError(
            f"{path} is an engine of {engine.flavor}, and {', '.join(runtimes)} cannot run it; leave out --runtimes, or "
            f"profile the file that it was built from, {engine.onnx}."
        )
    if precisions is not None:
        raise InvalidRequestError(
            f"{path} is an engine in {engine.precision}, which cannot change; leave out --precisions."
        )
    RUNTIMES[engine.flavor].prerequisite()
    return (engine.flavor,)


def with_threads(plan: ProfilePlan) -> ProfilePlan:
    """The plan with the threads of this machine, where it names none."""
    return replace(plan, options=replace(plan.options, threads=plan.options.threads or usable_cores()))


def _model(model: str | Path | nn.Module) -> str:
    """The model as another process finds it; the class of a module, for which there is none."""
    if isinstance(model, Path):
        return str(model)
    return model if isinstance(model, str) else type(model).__name__


def _calibration(source: Path | str | None) -> str | None:
    """A path as another process finds it, or the name of a data set."""
    if source is None:
        return None
    return plan_path(source) if Path(source).exists() else str(source)


def _sizes(size: Size | Sequence[Size] | None) -> tuple[Size | None, ...]:
    if size is None:
        return (None,)
    if len(size) == 2 and all(isinstance(n, int) for n in size):
        return ((size[0], size[1]),)  # type: ignore[return-value]
    sizes = tuple(dict.fromkeys((s[0], s[1]) for s in size))  # type: ignore[index]
    if not sizes:
        raise InvalidRequestError("no size was given; give height and width, such as (32, 32).")
    return sizes
