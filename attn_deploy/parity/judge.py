"""How far a coarser graph is from the float one: error of the output, answers that changed, accuracy.

`attn_deploy.parity.verify` says whether two files compute the same; a graph in 8 bits does not, and this says how much
that matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from attn_deploy.errors import InvalidRequestError, PrecisionError
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.runtimes.base import Runner, run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

# The root mean square of the error over that of the output. A product in 8 bits with a scale a channel adds about 1 %,
# and a dozen of them in a row 4 %; beyond 10 % it is a layer whose values do not fit 256 steps.
LARGEST_ERROR = 0.1


@dataclass(frozen=True, slots=True)
class Judgement:
    """A quantized graph against the float one, on samples that no range was measured on.

    Attributes:
        error: root mean square of the difference over that of the right output; of the worst output.
        max_abs_error: the largest difference.
        samples: how many samples.
        same: how many have the same largest class; None where the first output is not a score for each class.
        correct, correct_before: right answers after and before; None where the labels are not known.
    """

    error: float
    max_abs_error: float
    samples: int
    same: int | None = None
    correct: int | None = None
    correct_before: int | None = None

    @property
    def points_lost(self) -> float | None:
        """Points of top-1 lost; without labels, the share of answers that changed, in points."""
        if self.correct is not None and self.correct_before is not None:
            return 100.0 * (self.correct_before - self.correct) / self.samples
        return None if self.same is None else 100.0 * (self.samples - self.same) / self.samples

    def rank(self) -> tuple[float, float]:
        """Less is better: answers that changed, then the error."""
        return (0.0 if self.same is None else float(self.samples - self.same), self.error)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a coarser graph must keep: ``points`` of top-1 that may be lost; None bounds the error of the output."""

    points: float | None

    def met(self, judged: Judgement) -> bool:
        """Whether a graph keeps to it."""
        if self.points is None:
            return judged.error <= LARGEST_ERROR
        return judged.points_lost is not None and judged.points_lost <= self.points + 1e-9

    def check(self, judge: Judge, owner: str) -> None:
        """Refuse a limit that the samples of a judge cannot resolve.

        Raises:
            InvalidRequestError: if the outputs are no classes, or the samples are too few.
        """
        if self.points is None:
            return
        if not judge.classes:
            raise InvalidRequestError(
                f"{owner}: points of accuracy need scores for classes, N x classes, as first output; leave "
                "--keep-accuracy out to bound the error of the output."
            )
        if self.points and 100.0 / judge.samples > self.points:
            raise InvalidRequestError(
                f"{owner}: {judge.samples} samples are held out, so accuracy is known in steps of "
                f"{100.0 / judge.samples:.2g} points; a limit of {self.points:g} needs at least {math.ceil(100 / self.points)}."
            )

    def __str__(self) -> str:
        if self.points is None:
            return f"an error of {LARGEST_ERROR:.0%} of the output"
        return f"a loss of {self.points:g} points"


class Judge:
    """Compares graphs with the float one on given samples, whose right outputs are computed once.

    Args:
        reference: runs the float graph.
        batches: the samples, by input name.
        labels: the right class for each sample, one array a batch; None where they are not known.

    Attributes:
        samples: how many there are.
        classes: whether the first output is a score for each class.
    """

    def __init__(
        self, reference: Runner, batches: Sequence[Arrays], labels: Sequence[NDArray[np.int64]] | None = None
    ) -> None:
        self._batches, self._labels = batches, labels
        self._right = [run_once(reference, batch) for batch in batches]
        first = [next(iter(r.values())) for r in self._right]
        self.classes = all(f.ndim == 2 and f.shape[1] > 1 for f in first)
        if self._labels is not None and (
            not self.classes or max(int(y.max()) for y in self._labels) >= first[0].shape[1]
        ):
            self._labels = None
        self.samples = sum(len(f) for f in first)

    @property
    def few(self) -> int:
        """How many batches are enough for one layer's error."""
        return min(8, len(self._batches))

    def __call__(self, model: onnx.ModelProto, *, optimize: bool = False, batches: int | None = None) -> Judgement:
        """Judge a graph.

        Args:
            model: the graph.
            optimize: as ONNX Runtime would run it; else each pair is computed as the standard says.
            batches: the first so many; all by default.

        Raises:
            GraphError: if it does not run.
            PrecisionError: if an output is NaN or infinite.
        """
        runner = OnnxRuntimeRunner(model.SerializeToString(), optimize=optimize)
        chosen = slice(0, batches)
        got = [run_once(runner, batch) for batch in self._batches[chosen]]
        runner.close()
        right = self._right[chosen]
        errors = [_errors(name, right, got) for name in right[0]]
        same = correct = before = None
        if self.classes:
            theirs = [next(iter(r.values())).argmax(1) for r in right]
            ours = [next(iter(g.values())).argmax(1) for g in got]
            same = sum(int((a == b).sum()) for a, b in zip(theirs, ours, strict=True))
            if self._labels is not None:
                labels = self._labels[chosen]
                correct = sum(int((a == y).sum()) for a, y in zip(ours, labels, strict=True))
                before = sum(int((a == y).sum()) for a, y in zip(theirs, labels, strict=True))
        samples = sum(len(next(iter(r.values()))) for r in right)
        return Judgement(max(e for e, _ in errors), max(m for _, m in errors), samples, same, correct, before)


def _errors(name: str, right: Sequence[Arrays], got: Sequence[Arrays]) -> tuple[float, float]:
    """Relative root mean square error and largest error of one output over all batches."""
    wanted: NDArray[np.float64] = np.concatenate([r[name].astype(np.float64).ravel() for r in right])
    result: NDArray[np.float64] = np.concatenate([g[name].astype(np.float64).ravel() for g in got])
    if not np.isfinite(result).all():
        raise PrecisionError(f"quantized, the output {name!r} is NaN or infinite.")
    size = float(np.sqrt(np.mean(np.square(wanted)))) if wanted.size else 0.0
    error = np.abs(result - wanted)
    root = float(np.sqrt(np.mean(np.square(error)))) if error.size else 0.0
    return (root / size if size else (0.0 if root == 0 else float("inf"))), float(error.max(initial=0.0))
