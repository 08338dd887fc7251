"""One cell of the matrix: what it stands for, and what was found. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from attn_deploy.reading import field_error, typed

Status = Literal["passed", "failed", "skipped"]
CheckName = Literal["export", "opset", "checker", "axes", "operators", "parity", "precision", "engine"]

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
# The checks of a cell in the order in which they are made.
CHECKS = ("export", "opset", "checker", "axes", "operators", "parity", "precision", "engine")
# How a cell failed when it was not a check that said no: such a cell says little of the model, and is tried again.
TIMEOUT, CRASH = "timeout", "crash"


@dataclass(frozen=True, slots=True, order=True)
class CellId:
    """The coordinates of a cell."""

    model: str
    exporter: str
    opset: int
    dynamic: str = "all"
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"{self.model} {self.exporter} opset {self.opset} dynamic {self.dynamic} {self.precision}"

    @property
    def group(self) -> tuple[str, str]:
        """Cells of one group share the prepared model, its trace and its eager outputs."""
        return (self.model, self.dynamic)


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a cell.

    Attributes:
        name: one of `CHECKS`.
        status: passed, failed, or skipped: not made, because it does not apply or cannot be made here.
        detail: what was found; the reason where it did not pass.
        seconds: what it took, where it took work of its own.
    """

    name: str
    status: str
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What was found for one cell.

    Attributes:
        id: the coordinates.
        checks: in order; a cell that failed has none after the one that failed.
        kind: ``timeout`` or ``crash`` where the process was ended or died, else the name of the error's class.
        rule: the rule of `attn_deploy.rules` that explains the failure, where one does.
        seconds: wall clock, with what the cell made for others of its group.
        key: hash of the model's source, the toolkit, the versions and the options: equal keys give equal results.
        found: facts about the finished file: sha256, bytes, nodes, error, shapes, engine bytes.
    """

    id: CellId
    checks: tuple[Check, ...]
    kind: str = ""
    rule: str | None = None
    seconds: float = 0.0
    key: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """Failed if a check failed, passed if the file was made, else skipped."""
        statuses = {c.status for c in self.checks}
        if FAILED in statuses:
            return FAILED
        return PASSED if PASSED in statuses else SKIPPED

    @property
    def reason(self) -> str:
        """Why the cell failed or was skipped; empty for one that passed."""
        wanted = self.status
        return "" if wanted == PASSED else next(c.detail for c in self.checks if c.status == wanted)

    @property
    def failed_check(self) -> str:
        """The name of the check that failed; empty if none did."""
        return next((c.name for c in self.checks if c.status == FAILED), "")

    def check(self, name: str) -> Check | None:
        """The check of that name, if it was reached."""
        return next((c for c in self.checks if c.name == name), None)

    @property
    def is_final(self) -> bool:
        """Whether the same request would find the same again."""
        return self.kind not in (TIMEOUT, CRASH)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            **asdict(self.id),
            "status": self.status,
            "checks": [[c.name, c.status, c.detail, c.seconds] for c in self.checks],
            "kind": self.kind,
            "rule": self.rule,
            "seconds": self.seconds,
            "key": self.key,
            "found": dict(self.found),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cell:
        """The inverse of `to_dict`.

        Raises:
            InvalidRequestError: if a field is missing, of another type, or none of its values; the message names it.
        """
        return typed(data, CellData).cell()


@dataclass(frozen=True, slots=True, kw_only=True)
class CellData:
    """A cell as it stands in a file."""

    model: str
    exporter: Literal["dynamo", "torchscript"]
    opset: int
    dynamic: Literal["none", "batch", "all"]
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    status: Status
    checks: tuple[tuple[CheckName, Status, str, float], ...]
    kind: str
    rule: str | None
    seconds: float
    key: str
    found: Mapping[str, Any]

    def cell(self, where: str = "") -> Cell:
        """The cell; ``where`` it stands in a record.

        Raises:
            InvalidRequestError: if its status is not what its checks say.
        """
        inside = f"{where}." if where else ""
        if not self.checks:
            raise field_error(f"{inside}checks", self.checks, "those that were made, at least one")
        cell = Cell(
            id=CellId(self.model, self.exporter, self.opset, self.dynamic, self.precision),
            checks=tuple(Check(*c) for c in self.checks),
            kind=self.kind,
            rule=self.rule,
            seconds=self.seconds,
            key=self.key,
            found=dict(self.found),
        )
        if cell.status != self.status:
            raise field_error(f"{inside}status", self.status, f"{cell.status!r}, which its checks say")
        return cell


def skipped(cell: CellId, reason: str, key: str = "") -> Cell:
    """A cell that does not apply, or cannot be made here."""
    return Cell(id=cell, checks=(Check("export", SKIPPED, reason),), key=key)


def failed(cell: CellId, kind: str, reason: str, *, seconds: float, key: str = "", check: str = "export") -> Cell:
    """A cell whose process was ended or died."""
    return Cell(id=cell, checks=(Check(check, FAILED, reason),), kind=kind, seconds=round(seconds, 3), key=key)


def sorted_cells(cells: Iterable[Cell]) -> list[Cell]:
    """Cells in the order of their coordinates."""
    return sorted(cells, key=lambda c: c.id)
