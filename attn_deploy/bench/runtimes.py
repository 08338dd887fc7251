"""The runtimes that can be profiled, as data: a further one is one entry in `RUNTIMES`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attn_deploy.errors import InvalidRequestError
from attn_deploy.runtimes.base import Runner

if TYPE_CHECKING:
    from torch import nn

REFERENCE = "eager"


@dataclass(frozen=True, slots=True)
class Work:
    """What a runner is made from.

    Attributes:
        module: the PyTorch module; None when a file is profiled.
        onnx: the ONNX file; None when no runtime in the profile needs one.
        outputs: output names.
        threads: threads within an operator.
    """

    module: nn.Module | None
    onnx: Path | None
    outputs: tuple[str, ...] | None
    threads: int


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
    """

    name: str
    make: Callable[[Work], Runner]
    prerequisite: Callable[[], object]
    needs: Literal["module", "onnx"]
    provider: str | None = None


def _eager(work: Work) -> Runner:
    from attn_deploy.runtimes.eager import EagerRunner

    if work.module is None:
        raise InvalidRequestError("eager runs a PyTorch module, and an ONNX file is profiled; give the model's name.")
    return EagerRunner(work.module, output_names=work.outputs, threads=work.threads)


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


def _ort_cpu(work: Work) -> Runner:
    from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    if work.onnx is None:
        raise InvalidRequestError("ONNX Runtime runs an ONNX file, and there is none.")
    return OnnxRuntimeRunner(work.onnx, provider="cpu", threads=work.threads)


def _import_onnxruntime() -> object:
    from attn_deploy.runtimes.onnxruntime import import_onnxruntime

    return import_onnxruntime()


RUNTIMES = {
    r.name: r
    for r in (
        Runtime("eager", _eager, import_torch, "module"),
        Runtime("ort-cpu", _ort_cpu, _import_onnxruntime, "onnx", "CPUExecutionProvider"),
    )
}


def choose_runtimes(names: Sequence[str]) -> tuple[Runtime, ...]:
    """The entries of these names, without repetitions.

    Raises:
        InvalidRequestError: if there is no name, or one is unknown; the message lists what is known.
    """
    known = ", ".join(RUNTIMES)
    if not names:
        raise InvalidRequestError(f"no runtime was named; choose from {known}.")
    for name in names:
        if name not in RUNTIMES:
            close = difflib.get_close_matches(name, RUNTIMES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise InvalidRequestError(f"the runtime {name!r} is unknown{hint} Known runtimes: {known}.")
    return tuple(RUNTIMES[n] for n in dict.fromkeys(names))
