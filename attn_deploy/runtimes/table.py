"""The runtimes that can be profiled, as data: a further one is one entry in `RUNTIMES`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attn_deploy.errors import InvalidRequestError, NoDeviceError
from attn_deploy.runtimes.base import Runner
from attn_deploy.runtimes.work import TORCH_TYPES, Work

if TYPE_CHECKING:
    from torch import nn

    from attn_deploy.runtimes.eager import EagerRunner

REFERENCE = "eager"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, slots=True)
class Runtime:
    """One entry of the table.

    Attributes:
        name: as asked for.
        make: makes the runner; imports what it needs itself.
        prerequisite: imports the library, so that its import is not counted as load time; raises
            MissingDependencyError where it is not installed.
        needs: what it runs.
        provider: what `RuntimeInfo.provider` must be; None where any is right.
        on: the devices it runs on: ``cpu``, ``gpu``, or ``torch``: the one that torch is set to use.
        converts: whether it makes half precision of an fp32 file itself, and its `RuntimeInfo.precision` says what ran.
    """

    name: str
    make: Callable[[Work], Runner]
    prerequisite: Callable[[], object]
    needs: Literal["module", "onnx"]
    provider: str | None = None
    on: Literal["cpu", "gpu", "torch"] = "gpu"
    converts: bool = False

    def file_precision(self, precision: str) -> str:
        """The precision of the file that it takes to run in this one."""
        return "fp32" if self.converts and precision in ("fp16", "bf16") else precision

    @property
    def target(self) -> Literal["cpu", "gpu"]:
        """The form of quantized graphs that it runs best, see `attn_deploy.graph.quantize.QuantOptions`."""
        return "cpu" if self.on == "cpu" else "gpu"


def import_torch() -> object:
    """The torch module.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    from attn_deploy.errors import MissingDependencyError

    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "torch is not installed; it is needed to run a PyTorch model: pip install attn-deploy."
        ) from error
    return torch


def _module(work: Work, runtime: str) -> nn.Module:
    if work.module is None:
        raise InvalidRequestError(
            f"{runtime} runs a PyTorch module, and an ONNX file is profiled; give the model's name."
        )
    if work.precision not in TORCH_TYPES:
        raise InvalidRequestError(
            f"{runtime} has no {work.precision}: quantized graphs run in the runtimes that take ONNX files."
        )
    return work.module


def _file(work: Work, runtime: str) -> Path:
    if work.onnx is None:
        raise InvalidRequestError(f"{runtime} needs an ONNX file, and there is none.")
    return work.onnx


def _eager(work: Work) -> Runner:
    module = _module(work, "eager")
    from attn_deploy.runtimes.eager import EagerRunner

    return _in_torch(EagerRunner, module, work)


def _compile(work: Work) -> Runner:
    module = _module(work, "compile")
    from attn_deploy.runtimes.compiled import CompiledRunner

    return _in_torch(CompiledRunner, module, work)


def _in_torch(runner: type[EagerRunner], module: nn.Module, work: Work) -> Runner:
    import torch

    return runner(
        module,
        output_names=work.outputs,
        device=work.device,
        dtype=getattr(torch, TORCH_TYPES[work.precision]),
        threads=work.threads,
        tf32=work.tf32,
        cuda_graph=work.cuda_graph,
        keep=work.keep,
    )


def _import_compiler() -> object:
    import_torch()
    from attn_deploy.runtimes.compiled import import_compiler

    return import_compiler()


def _ort_cpu(work: Work) -> Runner:
    from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    return OnnxRuntimeRunner(_file(work, "ONNX Runtime"), provider="cpu", threads=work.threads)


def _ort_cuda(work: Work) -> Runner:
    from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    options = {"use_tf32": str(int(work.tf32)), "enable_cuda_graph": str(int(work.cuda_graph))}
    return OnnxRuntimeRunner(
        _file(work, "ONNX Runtime"), provider="cuda", threads=work.threads, provider_options=options
    )


def _ort_rtx(work: Work) -> Runner:
    from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    shapes = ",".join(f"{i.name}:{'x'.join(map(str, i.shape()))}" for i in work.inputs)
    options = {f"nv_profile_{kind}_shapes": shapes for kind in ("min", "opt", "max")} if shapes else {}
    options |= {"enable_cuda_graph": str(int(work.cuda_graph))}
    return OnnxRuntimeRunner(
        _file(work, "ONNX Runtime"), provider="tensorrt-rtx", threads=work.threads, provider_options=options
    )


def _openvino(work: Work) -> Runner:
    from attn_deploy.runtimes.openvino import OpenVinoRunner

    return OpenVinoRunner(_file(work, "OpenVINO"), precision=work.precision, threads=work.threads)


def _tensorrt(flavor: str) -> Callable[[Work], Runner]:
    def make(work: Work) -> Runner:
        from attn_deploy.runtimes.engines import engine_runner

        return engine_runner(_file(work, flavor), flavor, work)

    return make


def _library(flavor: str) -> Callable[[], object]:
    def check() -> object:
        from attn_deploy.runtimes.engines import import_engine_library

        return import_engine_library(flavor)

    return check


def _import_onnxruntime() -> object:
    from attn_deploy.runtimes.onnxruntime import import_onnxruntime

    return import_onnxruntime()


def _import_openvino() -> object:
    from attn_deploy.runtimes.openvino import import_openvino

    return import_openvino()


def _import_cuda_provider() -> object:
    from attn_deploy.runtimes.onnxruntime import import_provider

    return import_provider("cuda")


def _import_rtx_provider() -> object:
    from attn_deploy.runtimes.onnxruntime import import_rtx_provider

    return import_rtx_provider()


RUNTIMES = {
    r.name: r
    for r in (
        Runtime("eager", _eager, import_torch, "module", None, "torch"),
        Runtime("compile", _compile, _import_compiler, "module", None, "torch"),
        Runtime("ort-cpu", _ort_cpu, _import_onnxruntime, "onnx", "CPUExecutionProvider", "cpu"),
        Runtime("openvino", _openvino, _import_openvino, "onnx", "CPU", "cpu", converts=True),
        Runtime("ort-cuda", _ort_cuda, _import_cuda_provider, "onnx", "CUDAExecutionProvider"),
        Runtime("ort-tensorrt-rtx", _ort_rtx, _import_rtx_provider, "onnx", "NvTensorRTRTXExecutionProvider"),
        Runtime("tensorrt", _tensorrt("tensorrt"), _library("tensorrt"), "onnx"),
        Runtime("tensorrt-rtx", _tensorrt("tensorrt-rtx"), _library("tensorrt-rtx"), "onnx"),
    )
}


def choose_runtimes(names: Sequence[str]) -> tuple[Runtime, ...]:
    """The entries of these names, without repetitions.

    Raises:
        InvalidRequestError: if there is no name, or one is unknown; the message lists what is known.
    """
    choices = ", ".join(RUNTIMES)
    if not names:
        raise InvalidRequestError(f"no runtime was named; choose from {choices}.")
    for name in names:
        if name not in RUNTIMES:
            close = difflib.get_close_matches(name, RUNTIMES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise InvalidRequestError(f"the runtime {name!r} is unknown{hint} Known runtimes: {choices}.")
    return tuple(RUNTIMES[n] for n in dict.fromkeys(names))


def choose_precisions(names: Sequence[str]) -> tuple[str, ...]:
    """These precisions, without repetitions.

    Raises:
        InvalidRequestError: if there is none, or one is unknown.
    """
    for name in names:
        if name not in PRECISIONS:
            close = difflib.get_close_matches(name, PRECISIONS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise InvalidRequestError(f"the precision {name!r} is unknown{hint} Known: {', '.join(PRECISIONS)}.")
    if not names:
        raise InvalidRequestError(f"no precision was named; choose from {', '.join(PRECISIONS)}.")
    return tuple(dict.fromkeys(names))


def torch_device(asked: str, runtimes: Sequence[Runtime]) -> str:
    """The device of the torch runtimes: on a machine with a GPU the GPU, unless all the others run on the CPU.

    Args:
        asked: auto, cpu or cuda.
        runtimes: of the profile.

    Raises:
        InvalidRequestError: if it is none of these.
        NoDeviceError: if cuda is asked for, and torch finds no CUDA device.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise InvalidRequestError(f"the torch device is {asked!r}; use auto, cpu or cuda.")
    others = [r for r in runtimes if r.on != "torch"]
    if asked == "cpu" or len(others) == len(runtimes):
        return "cpu"
    if asked == "auto" and others and all(r.on == "cpu" for r in others):
        return "cpu"
    try:
        import torch
    except ModuleNotFoundError:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda":
        raise NoDeviceError("torch has no CUDA device for eager and compile; use cpu.")
    return "cpu"
