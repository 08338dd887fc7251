"""Running a batch image by image, where that is the same: the maps of one image are in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from attn_deploy.inputs.tensors import Arrays
from attn_deploy.processes import give_freed_memory_back, large_blocks_apart
from attn_deploy.runtimes.base import Runner, RuntimeInfo, run_once

_SAME = 1e-9  # of the largest value; float64 rounds half a billion times finer than float32, which it is to judge


class ImageByImage:
    """Runs batches one image at a time, once the first pair of three or more has shown that images do not mix. Not for timing.

    The first two images give the same together as each by itself, at each output: a network that normalises by the batch,
    or that treats an image by its place in it, does not. Then the whole batch is run, as it is where an input or an output
    has no image for each one of the batch, and for a network that takes no image alone.

    Args:
        make: makes a runner in float64, with nothing of an earlier run in it; asked for each batch, and closed behind it.
    """

    def __init__(self, make: Callable[[], Runner]) -> None:
        self._make = make
        self._alone: bool | None = None  # whether images can be run alone; None until a batch has shown it
        self._info: RuntimeInfo | None = None
        self._inputs: Arrays = {}
        self._outputs: Arrays = {}

    @property
    def info(self) -> RuntimeInfo:
        """What runs here."""
        if self._info is None:
            runner = self._make()
            self._info = runner.info
            runner.close()
        return self._info

    def prepare(self, inputs: Arrays) -> None:
        """Take ``inputs``."""
        self._inputs = inputs

    def enqueue(self) -> None:
        """Run."""
        count = _images(self._inputs)
        answers: list[Arrays] = []
        if (count > 2 and self._alone is None) or (count > 1 and self._alone):
            try:
                answers = self._answers(count)
            except Exception:  # whatever a model of the user's raises: it may take no single image
                self._alone = False
        if self._alone and answers and all(a[n].shape == answers[0][n].shape for a in answers for n in answers[0]):
            self._outputs = {n: np.concatenate([a[n] for a in answers]) for n in answers[0]}
        else:
            self._outputs = self._runs([self._inputs])[0]

    def _answers(self, count: int) -> list[Arrays]:
        """What each image gives alone; whether that is right is known then."""
        images = [{n: a[k : k + 1] for n, a in self._inputs.items()} for k in range(count)]
        if self._alone:
            return self._runs(images)
        pair = self._runs([{n: a[:2] for n, a in self._inputs.items()}])[0]
        answers = self._runs(images)
        self._alone = _same(pair, answers[:2])
        return answers

    def _runs(self, batches: Sequence[Arrays]) -> list[Arrays]:
        """What a new runner gives for some batches, one after the other."""
        with large_blocks_apart():
            runner = self._make()
            self._info = runner.info
            try:
                return [run_once(runner, batch) for batch in batches]
            finally:
                runner.close()
                give_freed_memory_back()

    def synchronize(self) -> None:
        """Nothing to wait for: `enqueue` waits."""

    def outputs(self) -> Arrays:
        """The results of the last run, by output name."""
        return self._outputs

    def close(self) -> None:
        """Forget inputs and results."""
        self._inputs, self._outputs = {}, {}


def _images(inputs: Arrays) -> int:
    """The images in a batch; 1 where the inputs do not agree on it."""
    counts = {a.shape[0] if a.ndim else 1 for a in inputs.values()}
    return counts.pop() if len(counts) == 1 else 1


def _same(pair: Arrays, alone: Sequence[Arrays]) -> bool:
    """Whether images give alone what they give together."""
    for name, together in pair.items():
        parts = [a[name] for a in alone]
        if not together.ndim or len(together) != len(parts) or any(p.shape != (1, *together.shape[1:]) for p in parts):
            return False
        each = np.concatenate(parts)
        if together.dtype.kind not in "fc":
            if not np.array_equal(together, each):
                return False
            continue
        scale = float(np.abs(together).max(initial=0.0))
        if not np.isfinite(scale) or float(np.abs(together - each).max(initial=0.0)) > _SAME * scale:
            return False
    return True
