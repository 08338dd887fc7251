"""The model in eager mode as the reference of many files: what it computed once is not computed again."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_deploy.inputs.tensors import Arrays
from attn_deploy.parity.images import ImageByImage
from attn_deploy.parity.neighbours import neighbouring_module
from attn_deploy.parity.rounding import Rounding
from attn_deploy.processes import give_freed_memory_back
from attn_deploy.runtimes.base import Runner, RuntimeInfo

if TYPE_CHECKING:
    from torch import nn

    from attn_deploy.fusing.resting import RestingWeights


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

    def remember(self, inputs: Arrays, outputs: Arrays) -> None:
        """Take the outputs for some inputs from elsewhere, as copies: a model may write to what it has returned."""
        self.prepare(inputs)
        self._known[self._key] = {name: array.copy() for name, array in outputs.items()}

    def close(self) -> None:
        """Free the runner and what is remembered."""
        self._known.clear()
        self._runner.close()


class FreshRunner:
    """Runs a new copy of a module for each set of inputs, so that nothing it keeps of one run reaches another.

    Args:
        module: the model; never run itself.
        output_names: names of the outputs in order.
        precise: in float64.
        before: called before each copy is made.
        behind: called when it is made.
    """

    def __init__(
        self,
        module: nn.Module,
        output_names: Sequence[str] | None = None,
        *,
        precise: bool = False,
        before: Callable[[], None] = lambda: None,
        behind: Callable[[], None] = lambda: None,
    ) -> None:
        self._module, self._names, self._precise = module, output_names, precise
        self._before, self._behind = before, behind
        self._current: Runner | None = None
        self._info: RuntimeInfo | None = None

    def _running(self) -> Runner:
        if self._current is None:
            self._current = self.fresh()
        return self._current

    def fresh(self) -> Runner:
        """A runner of a new copy."""
        import torch

        from attn_deploy.fusing.copying import copy_model
        from attn_deploy.runtimes.eager import EagerRunner

        self._before()
        plain = all(type(p) is torch.nn.Parameter for p in self._module.parameters())  # others are shared as they are
        twin = copy_model(self._module, share_parameters=plain or not self._precise)
        dtype = torch.float64 if self._precise else torch.float32
        runner = EagerRunner(twin, output_names=self._names, dtype=dtype, keep=False)
        if self._info is None:
            self._info = runner.info
        self._behind()
        return runner

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        return self._info or self._running().info

    def prepare(self, inputs: Arrays) -> None:
        """Take ``inputs`` into a new copy."""
        self._current = None  # one at a time
        self._running().prepare(inputs)

    def enqueue(self) -> None:
        """Run."""
        self._running().enqueue()

    def synchronize(self) -> None:
        """Wait for the run."""
        self._running().synchronize()

    def outputs(self) -> Arrays:
        """The results, by output name; asked for once, since the copy goes: in float64 it is as large as two files."""
        outputs = self._running().outputs()
        self.close()
        if self._precise:
            give_freed_memory_back()
        return outputs

    def close(self) -> None:
        """Free the copy."""
        if self._current is not None:
            self._current.close()
            self._current = None


class EagerReference:
    """A module in eager mode in float32, and in float64 where somebody asks; a new copy for each set of inputs.

    Args:
        module: the model, which no run may have changed; copied.
        output_names: names of the outputs in order.
        owned: nobody else holds the module or its weights, which may be out of memory while a runtime has them.
    """

    def __init__(self, module: nn.Module, output_names: Sequence[str] | None = None, *, owned: bool = False) -> None:
        self._module, self._names, self._owned = module, output_names, owned
        self._weights: RestingWeights | None = None
        self._deployed: nn.Module | None = None
        self._deployed_weights: RestingWeights | None = None
        self._may_rest = False
        self.folder: Path | None = None  # where weights rest; None for the folder of temporary files
        self._runner = RememberingRunner(FreshRunner(module, output_names, before=self.wake))
        self._precise: Runner | None = None

    @property
    def runner(self) -> Runner:
        """The module in float32."""
        return self._runner

    def remember(self, inputs: Arrays, outputs: Any) -> None:
        """Take what a fresh copy gave for some inputs, so that no other is run on them.

        Args:
            inputs: by name.
            outputs: what forward returned.
        """
        from attn_deploy.runtimes.eager import named_outputs

        self._runner.remember(inputs, named_outputs(outputs, self._names))

    @property
    def rounding(self) -> Rounding:
        """How to learn what the module rounds."""
        return Rounding(self.precise, self.neighbour)

    def rest(self) -> None:
        """Take large weights out of memory until the module runs again, if nobody else holds them.

        Without effect outside a block of `resting`, where other copies that share the weights may run.
        """
        if not self._may_rest:
            return
        from attn_deploy.fusing.copying import is_large
        from attn_deploy.fusing.resting import RestingWeights

        if self._weights is None and self._owned and is_large(self._module):
            self._weights = RestingWeights(self._module, self.folder)
        if self._weights is not None:
            self._weights.rest()

    def wake(self) -> None:
        """Have the weights in memory."""
        if self._weights is not None:
            self._weights.wake()

    def rests_with(self, deployed: nn.Module) -> None:
        """Take the weights out of memory within a block of `resting` that a deployed form of the module has of its own.

        Args:
            deployed: such as the fused one; made for one export, so that nobody else holds what it does not share.
        """
        from attn_deploy.fusing.copying import is_large
        from attn_deploy.fusing.resting import RestingWeights

        if deployed is self._deployed:
            return
        own = deployed is not self._module and is_large(deployed)
        self._deployed = deployed
        self._deployed_weights = RestingWeights(deployed, self.folder, beside=self._module) if own else None

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """At rest within the block, until the module runs there; awake behind it.

        Within it the module runs through this reference alone, and its deployed form not at all. Blocks do not nest.
        """
        self._may_rest = True
        try:
            self.rest()
            if self._deployed_weights is not None:
                self._deployed_weights.rest()
            yield
        finally:
            self._may_rest = False
            self.wake()
            if self._deployed_weights is not None:
                self._deployed_weights.wake()

    def neighbour(self, seed: int, steps: int = 1) -> Runner:
        """The module in float32, with weights that differ in the last bit, or by so many steps."""
        self.wake()
        return FreshRunner(neighbouring_module(self._module, seed, steps), self._names)

    def precise(self) -> Runner:
        """The module in float64; made at the first call."""
        if self._precise is None:
            from attn_deploy.fusing.copying import is_large

            runner = FreshRunner(self._module, self._names, precise=True, before=self.wake, behind=self.rest)
            # The maps of a large network in float64 take as much as everything else together.
            self._precise = RememberingRunner(ImageByImage(runner.fresh) if is_large(self._module) else runner)
        return self._precise
