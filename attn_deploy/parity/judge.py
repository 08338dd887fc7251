"""How far a coarser graph is from the float one: error of the output, answers that changed, accuracy.

`attn_deploy.parity.verify` says whether two files compute the same; a graph in 8 bits does not, and this says how much
that matters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from attn_deploy.errors import InvalidRequestError, ParityError, PrecisionError
from attn_deploy.graph.heads import read_outputs, scores_output
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.parity.distance import PartDistance, agreement, number_distances
from attn_deploy.parity.tolerance import TOLERANCES
from attn_deploy.parity.verify import structural_problem
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

# The root mean square of the error over that of the output. A product in 8 bits with a scale a channel adds about 1 %,
# and a dozen of them in a row 4 %; beyond 10 % it is a layer whose values do not fit 256 steps.
LARGEST_ERROR = 0.1
_MOST_BYTES = 1 << 30  # of right outputs that are kept
_FEW_ELEMENTS = 64 * 3 * 224 * 224  # of all inputs that a coarse judgement is made on


@dataclass(frozen=True, slots=True)
class Judgement:
    """A quantized graph against the float one, on samples that no range was measured on.

    Attributes:
        error: root mean square of the difference over that of the right values; of the worst part of an output.
        max_abs_error: the largest difference.
        samples: how many samples.
        same: how many have the same largest score; None where no output is known to be scores for classes.
        correct, correct_before: right answers after and before; None where the labels are not known.
        worst: the part of an output with that error, in words.
        choices: the share of equal choices (indices, classes, masks) by output, near ties among them.
    """

    error: float
    max_abs_error: float
    samples: int
    same: int | None = None
    correct: int | None = None
    correct_before: int | None = None
    worst: str = ""
    choices: Mapping[str, float] = field(default_factory=dict)

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
            InvalidRequestError: if no output is known to be scores, or the samples are too few.
        """
        if self.points is None:
            return
        if not judge.scores:
            raise InvalidRequestError(
                f"{owner}: --keep-accuracy needs an output with a score for each class, N x classes. None ends in a softmax "
                "or sigmoid, and no labels fit one: name it with --scores NAME, or leave --keep-accuracy out to bound the "
                "error of the output."
            )
        if self.points and 100.0 / judge.samples > self.points:
            raise InvalidRequestError(
                f"{owner}: {judge.samples} samples are held out, so accuracy is known in steps of "
                f"{100.0 / judge.samples:.2g} points; a limit of {self.points:g} needs at least {math.ceil(100 / self.points)}."
            )

    def __str__(self) -> str:
        if self.points is None:
            return f"an error of {LARGEST_ERROR:.0%} of each part of the output"
        return f"a loss of {self.points:g} points"


class Judge:
    """Compares graphs with the float one on given samples, whose right outputs are computed once.

    Args:
        model: the float graph.
        batches: the samples, by input name.
        labels: the right class for each sample, one array a batch; None where they are not known.
        scores: the output that holds a score for each class, as the user names it. None: one behind a softmax or
            sigmoid, or else, with labels, the first output that has a score for each of their classes.
        classes: of the labels; None if only the labels are known.
        owner: the model's name in messages.

    Attributes:
        samples: how many are judged on: those whose right outputs fit in a gigabyte.
        scores: the output that holds a score for each class; empty where none is known.

    Raises:
        InvalidRequestError: if ``scores`` is not such an output.
        ParityError: if an output is empty on all samples, NaN or infinite.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        batches: Sequence[Arrays],
        labels: Sequence[NDArray[np.int64]] | None = None,
        *,
        scores: str | None = None,
        classes: int | None = None,
        owner: str = "the model",
    ) -> None:
        wider, self._reading = read_outputs(model)
        # Optimised, which moves fp32 by its own rounding only.
        runner = OnnxRuntimeRunner(wider.SerializeToString(), optimize=True)
        self._right: list[Arrays] = []
        held = 0
        for batch in batches:
            self._right.append(run_once(runner, batch))
            held += sum(a.nbytes for a in self._right[-1].values())
            if held > _MOST_BYTES:  # maps of a thousand large images fit no memory; the first hundreds say enough
                break
        runner.close()
        batches = batches[: len(self._right)]
        self._batches, self._labels = batches, None if labels is None else labels[: len(self._right)]
        self._behind = {n: [r.pop(extra) for r in self._right] for n, extra in self._reading.scores.items()}
        self._check(owner)
        self.samples = sum(len(next(iter(b.values()))) for b in batches)
        self.scores = scores_output(model, scores) or self._as_wide_as_labels(classes)
        if self._labels is not None and (
            not self.scores or max(int(y.max()) for y in self._labels) >= self._right[0][self.scores].shape[1]
        ):
            self._labels = None

    def _check(self, owner: str) -> None:
        for name in self._right[0]:
            values = [r[name] for r in self._right]
            if not any(v.size for v in values):
                raise ParityError(
                    f"{owner}: nothing can be compared at the output {name!r}, which is empty on all samples. Give samples on "
                    "which it is not, with --calibration."
                )
            if any(v.dtype.kind not in "biu" and not np.isfinite(v.astype(np.float64)).all() for v in values):
                raise ParityError(f"{owner}: in float already, the output {name!r} is NaN or infinite.")

    def _as_wide_as_labels(self, classes: int | None) -> str:
        if self._labels is None:
            return ""
        largest = max(int(y.max()) for y in self._labels)
        for name, value in self._right[0].items():
            wide_enough = value.ndim == 2 and value.dtype.kind == "f" and value.shape[1] > max(1, largest)
            if wide_enough and classes in (None, value.shape[1]):
                return name
        return ""

    @property
    def few(self) -> int:
        """How many batches are enough for one layer's error."""
        return min(8, -(-self.enough // 6))

    @property
    def enough(self) -> int:
        """How many batches are enough to choose among methods: all of small inputs, fewer of large ones."""
        elements = sum(a.size for a in self._batches[0].values())
        return max(1, min(len(self._batches), _FEW_ELEMENTS // max(1, elements)))

    def __call__(
        self, model: onnx.ModelProto, *, optimize: bool = False, batches: int | None = None, beyond: float = math.inf
    ) -> Judgement:
        """Judge a graph.

        Args:
            model: the graph.
            optimize: as ONNX Runtime would run it; else each pair is computed as the standard says.
            batches: the first so many; all by default.
            beyond: an error above which no more is asked: once it is larger even if all samples that have not run had
                none, they are left out, and the judgement is of those that ran.

        Raises:
            GraphError: if it does not run.
            PrecisionError: if an output is NaN or infinite, or has another shape.
        """
        runner = OnnxRuntimeRunner(model.SerializeToString(), optimize=optimize)
        right = self._right[:batches]
        got: list[Arrays] = []
        for batch in self._batches[:batches]:
            got.append(run_once(runner, batch))
            if beyond < math.inf and self._at_least(right, got) > beyond:
                break
        runner.close()
        chosen = slice(0, len(got))
        right = right[chosen]
        parts, choices = self._compared(right, got)
        same = correct = before = None
        if self.scores:
            theirs = [r[self.scores].argmax(1) for r in right]
            ours = [g[self.scores].argmax(1) for g in got]
            same = sum(int((a == b).sum()) for a, b in zip(theirs, ours, strict=True))
            if self._labels is not None:
                labels = self._labels[chosen]
                correct = sum(int((a == y).sum()) for a, y in zip(ours, labels, strict=True))
                before = sum(int((a == y).sum()) for a, y in zip(theirs, labels, strict=True))
        samples = sum(len(next(iter(b.values()))) for b in self._batches[chosen])
        worst = max(parts, key=lambda p: p.relative, default=None)
        error, where = (0.0, "") if worst is None else (worst.relative, str(worst))
        largest = max((p.max_abs_error for p in parts), default=0.0)
        for name, share in choices.items():
            # Choices are judged where nothing else is, or where the scores that they were made by say which are ties.
            if 1.0 - share > error and (worst is None or self._reading.outputs[name].scores):
                error, where = 1.0 - share, f"the choices of output {name!r}"
        return Judgement(error, largest, samples, same, correct, before, where, choices)

    def _at_least(self, right: Sequence[Arrays], got: Sequence[Arrays]) -> float:
        """The error on all samples if those that have not run had none."""
        parts, _ = self._compared(right, [*got, *right[len(got) :]])
        return max((p.relative for p in parts), default=0.0)

    def _compared(self, right: Sequence[Arrays], got: Sequence[Arrays]) -> tuple[list[PartDistance], dict[str, float]]:
        parts: list[PartDistance] = []
        choices: dict[str, float] = {}
        tolerance = TOLERANCES["int8"]
        for name in right[0]:
            output = self._reading.outputs[name]
            wanted, ours = [r[name] for r in right], [g[name] for g in got]
            for one, other in zip(right, got, strict=True):
                problem = structural_problem({name: one[name]}, {name: other[name]}, {name: output})
                if problem:
                    raise PrecisionError(f"quantized, the {problem}.")
            if not output.choice:
                parts += number_distances(name, wanted, ours, tolerance, output.joined)
                continue
            behind = self._behind.get(name)
            choices[name] = agreement(
                name,
                wanted,
                ours,
                rows=output.set_of_rows,
                scores=None if behind is None else behind[: len(right)],
                axis=output.axis,
                tolerance=tolerance,
            ).share
        return [p for p in parts if p.elements], choices
