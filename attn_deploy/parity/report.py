"""The result of comparing two runtimes."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from attn_deploy.errors import ParityError


@dataclass(frozen=True, slots=True)
class ParityCase:
    """One comparison at one set of input shapes.

    Attributes:
        shapes: input shapes by name.
        traced: whether these are the shapes that the file was traced with.
        passed: whether every element of every output is within tolerance.
        max_abs_error: largest absolute difference; None when the outputs could not be compared.
        ratio: largest difference in units of what the tolerance allows; at most 1 when passed.
        noise: largest distance of the reference itself from float64, when it was needed.
        problem: why the case failed, in words.
        elements: how many values of each output were compared; empty in records from before this was counted.
        worst: the part of an output with the largest error in units of the tolerance.
        choices: the share of equal choices (indices, classes, masks) by output, near ties among them.
        unsteady: the model itself goes as far from its own result with the last bit of its weights and inputs, by picking
            other elements: these inputs prove nothing.
        redrawn: how many such inputs at these shapes were given up before these.
    """

    shapes: Mapping[str, tuple[int, ...]]
    traced: bool
    passed: bool
    max_abs_error: float | None
    ratio: float | None
    noise: float | None = None
    problem: str = ""
    elements: Mapping[str, int] = field(default_factory=dict)
    worst: str = ""
    choices: Mapping[str, float] = field(default_factory=dict)
    unsteady: bool = False
    redrawn: int = 0


@dataclass(frozen=True, slots=True)
class ParityReport:
    """A candidate against a reference over several shapes."""

    reference: str
    candidate: str
    rtol: float
    atol: float
    cases: tuple[ParityCase, ...]

    @property
    def passed(self) -> bool:
        """Whether there is at least one case, all pass, and every output was compared somewhere."""
        return bool(self.cases) and all(c.passed for c in self.cases) and not self.uncompared

    @property
    def uncompared(self) -> tuple[str, ...]:
        """The outputs that were empty in every case: nothing is known of them."""
        counts: collections.Counter[str] = collections.Counter()
        for case in self.cases:
            counts.update(case.elements)
        return tuple(name for name, count in counts.items() if count == 0)

    @property
    def worst(self) -> str:
        """The part of an output whose error is largest in units of the tolerance."""
        return max(self.cases, key=lambda c: c.ratio or 0.0).worst if self.cases else ""

    @property
    def max_abs_error(self) -> float:
        """The largest absolute difference over all cases; infinite if one could not be compared."""
        return max((float("inf") if c.max_abs_error is None else c.max_abs_error for c in self.cases), default=0.0)

    @property
    def untraced_shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """The shapes, other than the traced ones, at which the candidate passed."""
        return [dict(c.shapes) for c in self.cases if c.passed and not c.traced]

    @property
    def choices(self) -> dict[str, float]:
        """The least share of equal choices over all cases, by output."""
        names = dict.fromkeys(n for c in self.cases for n in c.choices)
        return {n: min(c.choices.get(n, 1.0) for c in self.cases) for n in names}

    @property
    def redrawn(self) -> int:
        """How many inputs were given up because the model itself is not the same there."""
        return sum(c.redrawn for c in self.cases)

    def summary(self) -> dict[str, Any]:
        """What the evidence in a file keeps of it."""
        return {
            "max_abs_error": self.max_abs_error,
            "rtol": self.rtol,
            "atol": self.atol,
            "reference": self.reference,
            "candidate": self.candidate,
            "cases": len(self.cases),
            "worst": self.worst,
            **({"choices": agreed} if (agreed := self.choices) else {}),
            **({"redrawn": self.redrawn} if self.redrawn else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "passed": self.passed}

    def raise_if_failed(self, owner: str) -> None:
        """Raise the first failed case.

        Raises:
            ParityError: naming the shapes, the error and the tolerance, or the output that was empty.
        """
        for case in self.cases:
            if not case.passed:
                shapes = ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in case.shapes.items())
                traced = " (the traced size)" if case.traced else " (not the traced size)"
                raise ParityError(
                    f"{owner}: {self.candidate} and {self.reference} disagree at {shapes}{traced}: {case.problem}"
                )
        if self.uncompared or not self.cases:
            raise ParityError(
                f"{owner}: nothing was compared"
                + (
                    f" at the output {self.uncompared[0]!r}, which was empty on every test input"
                    if self.uncompared
                    else ""
                )
                + ". Give inputs on which it is not, with --sample FILE.npz."
            )
