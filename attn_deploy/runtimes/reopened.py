"""A runner that is closed while something else needs the memory, and made again when it is to run."""

from __future__ import annotations

from collections.abc import Callable

from attn_deploy.inputs.tensors import Arrays
from attn_deploy.runtimes.base import Runner, RuntimeInfo


class ReopenedRunner:
    """A runner that can be closed between two sets of inputs. Not for timing.

    Args:
        make: makes the runner; called at once, so that what it refuses is known, and again after each `release`.
        before: called before each set of inputs.
    """

    def __init__(self, make: Callable[[], Runner], before: Callable[[], None] = lambda: None) -> None:
        self._make, self._before = make, before
        self._runner: Runner | None = make()
        self._info = self._runner.info

    def _open(self) -> Runner:
        if self._runner is None:
            self._runner = self._make()
        return self._runner

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        return self._info

    def prepare(self, inputs: Arrays) -> None:
        """Take ``inputs``."""
        self._before()
        self._open().prepare(inputs)

    def enqueue(self) -> None:
        """Start one run."""
        self._open().enqueue()

    def synchronize(self) -> None:
        """Wait for the run."""
        self._open().synchronize()

    def outputs(self) -> Arrays:
        """The results of the last run, by output name."""
        return self._open().outputs()

    def release(self) -> None:
        """Close the runner; the next `prepare` makes another."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    close = release
