"""What a package takes over from records of others: the rows of a profile, and results of `evaluate`, typed when read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attn_deploy.errors import InvalidRequestError
from attn_deploy.reading import field_error, read_json, typed


@dataclass(frozen=True, slots=True)
class MedianInterval:
    """A confidence interval, in milliseconds."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class RowSummary:
    """Of a row that was timed."""

    p50_ms: float | None = None
    median_interval_ms: MedianInterval | None = None
    items_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class RowFacts:
    """A row of a profile, as far as a package looks at it."""

    runtime: str
    precision: str
    batch: int
    status: Literal["ok", "invalid", "failed"]
    size: tuple[int, ...] | None = None
    summary: RowSummary | None = None


@dataclass(frozen=True, slots=True)
class _Profile:
    rows: tuple[RowFacts, ...]


@dataclass(frozen=True, slots=True)
class _Ran:
    runtime: str = ""
    precision: str = ""


@dataclass(frozen=True, slots=True)
class _Data:
    name: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True)
class AccuracyFacts:
    """A result of `evaluate`, as far as a package looks at it."""

    labels: tuple[int, ...]
    predictions: tuple[int, ...]
    info: _Ran | None = None
    dataset: _Data | None = None


def read_profile(path: Path) -> tuple[RowFacts, ...]:
    """The rows of a profile's record, or of the record in a folder.

    Raises:
        InvalidRequestError: if it is no record of a profile; the message names the field.
    """
    file = path / "record.json" if path.is_dir() else path
    try:
        return typed(read_json(file), _Profile, signed=("temperature", "settings")).rows
    except InvalidRequestError as error:
        raise InvalidRequestError(f"--profile {path}: that is no record of a profile: {error}") from error


def read_accuracy(path: Path) -> AccuracyFacts:
    """A result of `evaluate`.

    Raises:
        InvalidRequestError: if it is none; the message names the field.
    """
    try:
        facts = typed(read_json(path), AccuracyFacts, signed=("mean", "settings", "record"))
        if not facts.labels or len(facts.labels) != len(facts.predictions):
            raise field_error(
                "predictions", len(facts.predictions), f"as many as labels, {len(facts.labels)} and not 0"
            )
    except InvalidRequestError as error:
        raise InvalidRequestError(f"--accuracy {path}: that is no result of evaluate: {error}") from error
    return facts
