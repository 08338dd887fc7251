"""A plan into rows, in this process: nothing is protected, and a debugger sees everything."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.bench.files import OnnxFiles
from attn_deploy.bench.fit import need_of
from attn_deploy.bench.group import profile_group
from attn_deploy.bench.images import batches_to_compare, calibration_images
from attn_deploy.bench.maker import Begun
from attn_deploy.bench.plan import ProfilePlan, Variant
from attn_deploy.bench.row import ProfileRow
from attn_deploy.bench.stand import Bench
from attn_deploy.bench.subject import make_subject
from attn_deploy.errors import MissingDependencyError
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.runtimes.table import choose_runtimes, torch_device

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[str], None]


class InlineMaker:
    """Makes the rows in this process.

    Args:
        plan: what to make.
        folder: for files and engines.
        model: the module, where there is no name for it.
        progress: is called with a few words at each step.
    """

    def __init__(self, plan: ProfilePlan, folder: Path, *, model: nn.Module | None = None, progress: Progress) -> None:
        self._plan, self._folder, self._model, self._progress = plan, folder, model, progress
        self._bench: Bench | None = None

    def begin(self) -> Begun:
        """Make the model, and all shapes."""
        plan = self._plan
        bench = self._bench = make_bench(plan, self._folder, model=self._model, progress=self._progress)
        return begun(plan, bench, together=True)

    def rows(self, inputs: tuple[TensorInput, ...]) -> list[ProfileRow]:
        """The rows of one shape."""
        with torch_threads_kept():
            return profile_group(self._made(), self._plan.variants, inputs)

    def accuracy(self, variant: Variant) -> AccuracyResult:
        """The plan's images through one variant."""
        from attn_deploy.bench.accuracy import answers_of

        with torch_threads_kept():
            return answers_of(self._plan, self._made(), variant)

    def files(self) -> tuple[Mapping[str, Any], ...]:
        """Descriptions of the ONNX files that were used."""
        return self._made().files.described()

    def missing(self) -> list[MissingDependencyError]:
        """Dependencies that rows lacked."""
        return self._made().missing

    def _made(self) -> Bench:
        if self._bench is None:
            raise RuntimeError("begin comes first")
        return self._bench


def make_bench(plan: ProfilePlan, folder: Path, *, model: nn.Module | None, progress: Progress) -> Bench:
    """The model of a plan, ready to be run.

    Raises:
        InvalidRequestError: if the model, its inputs, its weights or its file cannot be used.
        NoDeviceError: if torch is to run on CUDA, and there is no device.
    """
    subject = make_subject(
        model if model is not None else plan.model,
        inputs=plan.inputs,
        samples=plan.samples,
        onnx=plan.onnx,
        arguments=plan.arguments or None,
        weights=plan.weights,
    )
    files = OnnxFiles(
        subject,
        folder,
        opset=plan.opset,
        dynamic=plan.dynamic,
        progress=progress,
        calibration=lambda: calibration_images(plan, has_module=subject.module is not None, progress=progress),
    )
    device = torch_device(plan.torch_device, choose_runtimes(plan.runtimes))

    def samples(inputs: tuple[TensorInput, ...]) -> Sequence[Arrays]:
        return batches_to_compare(plan, inputs, has_module=subject.module is not None, progress=progress)

    return Bench(
        subject, plan.options, files, device=device, tf32=plan.tf32, folder=folder, progress=progress, samples=samples
    )


def begun(plan: ProfilePlan, bench: Bench, *, together: bool = False) -> Begun:
    """All shapes of a plan: each is refused now, or none; for ``together`` see `attn_deploy.bench.fit.need_of`."""
    inputs = {shape: bench.subject.at(shape.batch, shape.size) for shape in plan.shapes}
    module = bench.subject.module
    needs = {
        s: need_of(module, tensors, plan.variants, bench.device, together=together) for s, tensors in inputs.items()
    }
    return Begun(bench.subject.name, inputs, module is not None, needs)


def default_runtimes(has_module: bool) -> tuple[str, ...]:
    """What applies everywhere: eager where there is a module, and ONNX Runtime on the CPU."""
    return ("eager", "ort-cpu") if has_module else ("ort-cpu",)


@contextlib.contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Torch's threads are the process's, and the caller may have chosen them."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    try:
        yield
    finally:
        if torch is not None and before is not None:
            torch.set_num_threads(before)
