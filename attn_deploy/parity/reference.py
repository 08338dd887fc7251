"""The model in eager mode as the reference of many files: what it computed once is not computed again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attn_deploy.inputs.tensors import Arrays
from attn_deploy.runtimes.base import Runner, RuntimeInfo

if TYPE_CHECKING:
    from torch import nn


class RememberingRunner:
    """A runner that runs once for each set of inputs. Not for timing.

    Args:
        runner: what runs; it must be deterministic.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._known: dict[str, Arrays] = {}
        self._inputs: Arrays = {}
        self._key = ""

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        return self._runner.info

    def prepare(self, inputs: Arrays) -> None:
        """Take ``inputs``."""
        digest = hashlib.sha256()
        for name, array in inputs.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        self._inputs, self._key = inputs, digest.hexdigest()

    def enqueue(self) -> None:
        """Run, unless these inputs were seen before."""
        if self._key not in self._known:
            self._runner.prepare(self._inputs)
            self._runner.enqueue()
            self._runner.synchronize()
            self._known[self._key] = self._runner.outputs()

    def synchronize(self) -> None:
        """Nothing to wait for: `enqueue` waits."""

    def outputs(self) -> Arrays:
        """The results of the last run, by output name."""
        return self._known[self._key]

    def close(self) -> None:
        """Free the runner and what is remembered."""
        self._known.clear()
        self._runner.close()


class EagerReference:
    """A module in eager mode in float32, and in float64 where somebody asks.

    Args:
        module: the model; copied.
        output_names: names of the outputs in order.
    """

    def __init__(self, module: nn.Module, output_names: Sequence[str] | None = None) -> None:
        from attn_deploy.runtimes.eager import EagerRunner

        self._module, self._names = module, output_names
        self.runner: Runner = RememberingRunner(EagerRunner(module, output_names=output_names))
        self._precise: Runner | None = None

    def precise(self) -> Runner:
        """The module in float64; made at the first call."""
        if self._precise is None:
            import torch

            from attn_deploy.runtimes.eager import EagerRunner

            runner = EagerRunner(self._module, output_names=self._names, dtype=torch.float64)
            self._precise = RememberingRunner(runner)
        return self._precise
