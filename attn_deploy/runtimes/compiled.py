"""torch.compile, with what was really compiled read back."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from attn_deploy.errors import MissingDependencyError, ProviderError
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.runtimes.base import RuntimeInfo
from attn_deploy.runtimes.eager import EagerRunner


def find_compiler() -> str:
    """The C++ compiler that inductor makes CPU kernels with.

    Raises:
        MissingDependencyError: if there is none.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    for name in names:
        compiler = shutil.which(name)
        if compiler is not None:
            return compiler
    raise MissingDependencyError(
        f"torch.compile makes its kernels with a C++ compiler, and there is none ({', '.join(names)}): install one, "
        "such as apt-get install g++, or set CXX."
    )


def import_compiler() -> str:
    """Import what torch.compile imports when it is first called, and return its C++ compiler.

    Raises:
        MissingDependencyError: as `find_compiler`.
    """
    with _torch_quiet():
        importlib.import_module("torch._inductor.compile_fx")
    return find_compiler()


@contextlib.contextmanager
def _torch_quiet() -> Iterator[None]:
    """Without what torch's compiler says of torch's own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


class CompiledRunner(EagerRunner):
    """Runs a copy of an nn.Module through torch.compile with inductor.

    The model is compiled for the exact shapes that are prepared, which is the fastest form, and the compilation is not
    in the time of any run: ``build_seconds`` holds it.

    Args:
        module: the model.
        output_names, device, dtype, threads, tf32, keep: as `EagerRunner`.
        cuda_graph: replay CUDA graphs, which is torch's mode ``reduce-overhead``.

    Raises:
        NoDeviceError: as `EagerRunner`.
        ProviderError: in `prepare`, if nothing of the model was compiled.
    """

    runtime = "compile"

    def __init__(
        self,
        module: nn.Module,
        *,
        output_names: Sequence[str] | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        tf32: bool | None = None,
        cuda_graph: bool = False,
        keep: bool = True,
    ) -> None:
        super().__init__(
            module, output_names=output_names, device=device, dtype=dtype, threads=threads, tf32=tf32, keep=keep
        )
        self._mode = "reduce-overhead" if cuda_graph else "default"
        self._graphs = self._breaks = 0
        self._compiled_for: list[Any] = []
        self.build_seconds = 0.0
        with _torch_quiet():
            self._module = torch.compile(self._module, dynamic=False, mode=self._mode)  # type: ignore[assignment]

    @property
    def info(self) -> RuntimeInfo:
        """What runs here: how many graphs the model became, and after how many breaks."""
        inherited = super().info
        settings = {
            **inherited.settings,
            "backend": "inductor",
            "mode": self._mode,
            "graphs": self._graphs,
            "graph_breaks": self._breaks,
        }
        return replace(inherited, settings=settings)

    def prepare(self, inputs: Arrays) -> None:
        """Move ``inputs`` to the device, and compile for their shapes if that was not done yet."""
        super().prepare(inputs)
        shapes = [(t.shape, t.dtype) for t in self._inputs]
        if shapes == self._compiled_for:
            return
        with _torch_quiet():
            from torch._dynamo.utils import counters

        before = (counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))
        started = time.perf_counter()
        with _torch_quiet():
            self.enqueue()
            self.synchronize()
        self.build_seconds += time.perf_counter() - started
        self._graphs = counters["stats"]["unique_graphs"] - before[0]
        self._breaks = sum(counters["graph_break"].values()) - before[1]
        self._compiled_for = shapes
        if self._graphs == 0:
            raise ProviderError("torch.compile compiled nothing of this model, and ran it in eager mode.")

    def close(self) -> None:
        """Drop the model, its tensors and the compiled code."""
        super().close()
        with contextlib.suppress(AttributeError):
            torch._dynamo.reset()
