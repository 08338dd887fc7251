"""The request for a profile, and the plan that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

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
    from typing_extensions import Unpack

EXECUTORS = ("inline", "processes")


class ProfileSettings(TypedDict, total=False):
    """The fields of a `ProfileRequest` but the model, as the keywords of `attn_deploy.profile`."""

    runtimes: Sequence[str] | None
    precisions: Sequence[str] | None
    batch: Sequence[int] | None
    size: Size | Sequence[Size] | None
    cuda_graph: bool | Sequence[bool]
    threads: int | None
    torch_device: str
    tf32: bool
    options: BenchOptions | None
    opset: int | None
    dynamic: Sequence[str] | None
    inputs: Sequence[TensorInput] | None
    samples: Sequence[Path | str]
    arguments: Mapping[str, Any] | None
    weights: Path | str | None
    onnx: Path | str | None
    calibration: Path | str | None
    accuracy: AccuracyPlan | str | None
    data_dir: Path | str | None
    save: Path | str | None
    resume: bool
    executor: str | None
    memory: bool
    timeout: float
    memory_limit: int | None
    device: DeviceProfile | Path | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """What a profile is asked for; ``profile(request)`` and ``profile(model, batch=...)`` are the same.

    Attributes:
        model: a name (see `attn_deploy.resolve.names`), a module, or the path of an ``.onnx`` file, for which torch is not
            needed and eager cannot be had.
        runtimes: names in `attn_deploy.runtimes.table`; None for eager and ONNX Runtime on the CPU.
        precisions: of fp32, fp16, bf16 and int8; None for the model as it is.
        batch: batch sizes; None for that of ``inputs``, or 1.
        size: height and width, or several; None for those of ``inputs``, or 32x32 where the model allows it.
        cuda_graph: replay captured CUDA graphs; both for rows with and without.
        threads: threads within an operator for all; over ``options.threads``.
        torch_device: of eager and compile: cpu, cuda, or auto: the GPU where there is one and a runtime uses it.
        tf32: whether fp32 products may round their inputs to TF32, in every runtime on a GPU.
        options: how to measure.
        opset: of the exported file.
        dynamic: axis symbols that move in the exported file; None for all that a registry model allows, and for the
            batch alone in a user's own model.
        inputs: the inputs of a module, of a user's model given by name, or of a file with unknown extents.
        samples: the inputs' own values: ``.npz`` files with arrays by input name, or ``name=VALUES``, as ``size=60,90``. All rows
            run on the first, at its shape where no other is asked for, and are compared on all.
        arguments: constructor arguments when ``model`` is a name.
        weights: a checkpoint for the model.
        onnx: a file already made from the model, to be timed instead of a new one.
        calibration: what int8 ranges are measured on, as in `attn_deploy.quantize`; None for what the model was trained
            on or is tested on, and noise where that is not known.
        accuracy: images to test every runtime and precision on, or the name of a data set. Rows of another size than the
            images' have none, and say so; a test that fails costs the accuracy and not the time.
        data_dir: where the images are, for accuracy and calibration; see `attn_deploy.data.load_dataset`.
        save: a folder for the run: plan, rows of each shape as they come, files, record.
        resume: go on with the run in that folder.
        executor: ``inline``, in this process, or ``processes``, in some of their own; None: the latter where ``save`` is
            given and ``model`` is not a module. For a cluster see `attn_deploy.comparison.fleet`.
        memory: in processes of their own, start each row once in one more, and measure peak memory and imports there.
        timeout: seconds that the start of one row may take in a process of its own.
        memory_limit: bytes of such a process; None for what is free.
        device: whose speed of light the rows are put against: a name of `attn_deploy.machine.devices`, a TOML file of one's own,
            or a profile; None for the one that fits this machine. It is kept in the record.
    """

    model: str | Path | nn.Module
    runtimes: Sequence[str] | None = None
    precisions: Sequence[str] | None = None
    batch: Sequence[int] | None = None
    size: Size | Sequence[Size] | None = None
    cuda_graph: bool | Sequence[bool] = False
    threads: int | None = None
    torch_device: str = "auto"
    tf32: bool = False
    options: BenchOptions | None = None
    opset: int | None = None
    dynamic: Sequence[str] | None = None
    inputs: Sequence[TensorInput] | None = None
    samples: Sequence[Path | str] = ()
    arguments: Mapping[str, Any] | None = None
    weights: Path | str | None = None
    onnx: Path | str | None = None
    calibration: Path | str | None = None
    accuracy: AccuracyPlan | str | None = None
    data_dir: Path | str | None = None
    save: Path | str | None = None
    resume: bool = False
    executor: str | None = None
    memory: bool = True
    timeout: float = 1800.0
    memory_limit: int | None = None
    device: DeviceProfile | Path | str | None = None

    def __post_init__(self) -> None:
        if self.resume and self.save is None:
            raise InvalidRequestError("to resume a run, give its folder: -o DIR (in Python: save=...).")
        if self.chosen_executor not in EXECUTORS:
            raise InvalidRequestError(
                f"the executor {self.executor!r} is unknown; use {', '.join(EXECUTORS)}, or --executor ray for a cluster "
                "(in Python: attn_deploy.comparison.fleet.profile_fleet)."
            )
        if self.chosen_executor == "processes" and self.module is not None:
            raise InvalidRequestError(
                "a module cannot be given to another process; give its name, or executor='inline'."
            )

    @property
    def module(self) -> nn.Module | None:
        """The model, where it is no name."""
        return None if isinstance(self.model, (str, Path)) else self.model

    @property
    def chosen_executor(self) -> str:
        """The executor, by default that of the kind of request."""
        return self.executor or ("processes" if self.save is not None and self.module is None else "inline")


def as_request(model: str | Path | nn.Module | ProfileRequest, settings: ProfileSettings) -> ProfileRequest:
    """The request that a caller gave whole, or in keywords, or whole with changes."""
    return replace(model, **settings) if isinstance(model, ProfileRequest) else ProfileRequest(model=model, **settings)


def plan_profile(model: str | Path | nn.Module | ProfileRequest, **settings: Unpack[ProfileSettings]) -> ProfilePlan:
    """The plan that `attn_deploy.profile` makes of the same request.

    Raises:
        InvalidRequestError: if a runtime, a precision, a device or an option is unknown, or an engine is to run elsewhere.
        NoDeviceError: if the model is an engine, and there is no GPU.
    """
    request = as_request(model, settings)
    options, runtimes, device = request.options or BenchOptions(), request.runtimes, request.device
    if is_engine(request.model):
        runtimes = _engine_runtimes(Path(str(request.model)), runtimes, request.precisions)
    is_file = isinstance(request.model, (str, Path)) and str(request.model).lower().endswith(".onnx")
    if is_file or is_engine(request.model):
        _refuse_export_options(request)
    graphs, accuracy = request.cuda_graph, request.accuracy
    plan = ProfilePlan(
        model=_model(request.model),
        runtimes=tuple(dict.fromkeys(runtimes)) if runtimes is not None else default_runtimes(not is_file),
        precisions=choose_precisions(request.precisions) if request.precisions is not None else ("",),
        cuda_graphs=tuple(dict.fromkeys([graphs] if isinstance(graphs, bool) else graphs)),
        batches=tuple(dict.fromkeys(request.batch)) if request.batch else (None,),
        sizes=_sizes(request.size),
        options=options if request.threads is None else replace(options, threads=request.threads),
        torch_device=request.torch_device,
        tf32=request.tf32,
        inputs=tuple(request.inputs) if request.inputs is not None else None,
        samples=tuple(_sample(s) for s in request.samples),
        arguments=dict(request.arguments or {}),
        onnx=plan_path(request.onnx),
        weights=plan_path(request.weights),
        opset=request.opset,
        dynamic=tuple(request.dynamic) if request.dynamic is not None else None,
        calibration=_calibration(request.calibration),
        accuracy=AccuracyPlan(dataset=accuracy) if isinstance(accuracy, str) else accuracy,
        data_dir=plan_path(request.data_dir),
        timeout=request.timeout,
        memory_limit=request.memory_limit,
        device=device if device is None or isinstance(device, DeviceProfile) else load_device(str(device)),
    )
    check_images(plan)
    return plan


def _refuse_export_options(request: ProfileRequest) -> None:
    """What says how a model is exported would be ignored without a word where a finished file is timed."""
    for option in ("opset", "dynamic", "onnx"):
        if getattr(request, option) is not None:
            raise InvalidRequestError(
                f"--{option} is for models by name, and {request.model} is a finished file; leave it out, or name the model."
            )


def _engine_runtimes(path: Path, runtimes: Sequence[str] | None, precisions: Sequence[str] | None) -> tuple[str, ...]:
    """The one runtime of an engine, which is there."""
    from attn_deploy.engine.artifact import read_engine

    engine = read_engine(path)
    if runtimes is not None and set(runtimes) != {engine.flavor}:
        raise InvalidRequestError(
            f"{path} is an engine of {engine.flavor}, and {', '.join(runtimes)} cannot run it; leave out --runtime, or "
            f"profile the file that it was built from, {engine.onnx}."
        )
    if precisions is not None:
        raise InvalidRequestError(
            f"{path} is an engine in {engine.precision}, which cannot change; leave out --precision."
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


def _sample(source: Path | str) -> str:
    """A file as another process finds it, or values."""
    return str(plan_path(source)) if str(source).endswith(".npz") else str(source)


def _sizes(size: Size | Sequence[Size] | None) -> tuple[Size | None, ...]:
    if size is None:
        return (None,)
    if len(size) == 2 and all(isinstance(n, int) for n in size):
        return ((size[0], size[1]),)  # type: ignore[return-value]
    sizes = tuple(dict.fromkeys((s[0], s[1]) for s in size))  # type: ignore[index]
    if not sizes:
        raise InvalidRequestError("no size was given; give height and width, such as (32, 32).")
    return sizes
