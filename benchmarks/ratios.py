"""Two or more ONNX files of one computation against each other, interleaved, and the record of many such comparisons."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.statistics import Comparison, compare_rounds
from attn_deploy.bench.timer import measure
from attn_deploy.files import write_atomic
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.machine.environment import Environment, command_line, describe_environment, load_average
from attn_deploy.reading import typed
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

SCHEMA_VERSION = 1
MARGIN = 0.05  # differences up to this count as none: two sessions of one file differ by their memory layout


@dataclass(frozen=True, slots=True)
class Side:
    """One file: its median and least time in milliseconds, the samples taken, and its nodes."""

    p50_ms: float
    min_ms: float
    samples: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One computation.

    Attributes:
        name: what was timed.
        settings: at what sizes, in words.
        sides: by name, the first being the baseline.
        speedup: the first over the second.
        choice: what the package would take here; empty where it has no say.
        note: what is special about it.
    """

    name: str
    settings: str
    sides: Mapping[str, Side]
    speedup: Comparison
    choice: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """``faster`` or ``slower``, if the whole interval is beyond the margin on that side; ``equal`` if it is within.

        ``not slower`` if it begins within the margin and ends above, ``noise`` where it reaches below.
        """
        interval = self.speedup.interval
        if interval.low > 1 + MARGIN:
            return "faster"
        if interval.high < 1 / (1 + MARGIN):
            return "slower"
        if interval.low < 1 / (1 + MARGIN):
            return "noise"
        return "equal" if interval.high <= 1 + MARGIN else "not slower"


@dataclass(frozen=True, slots=True)
class Record:
    """One run of a benchmark."""

    title: str
    environment: Environment
    options: BenchOptions
    rows: tuple[Row, ...]
    argv: tuple[str, ...]
    created: str
    load_after: float | None
    schema_version: int = SCHEMA_VERSION

    @property
    def foot(self) -> str:
        """Where and when it was measured."""
        e = self.environment
        versions = ", ".join(f"{k} {e.packages[k]}" for k in ("onnxruntime", "torch") if k in e.packages)
        load = f"load {e.load_average} at the start and {self.load_after} at the end on {e.usable_cores} cores"
        return f"{e.cpu}, {self.options.threads} thread; {versions}; {load}; {self.created}."

    def write(self, path: Path, page: str) -> None:
        """The record as JSON, and the page for readers beside it."""
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text + "\n")
        write_atomic(path.with_suffix(".md"), page)

    @classmethod
    def read(cls, path: Path) -> Record:
        """The inverse of `write`."""
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema_version"] != SCHEMA_VERSION:
            raise SystemExit(f"{path} has schema version {data['schema_version']}, this reads {SCHEMA_VERSION}.")
        rows = tuple(_row(r) for r in data["rows"])
        made = {"environment": typed(data["environment"], Environment), "options": BenchOptions(**data["options"])}
        return cls(**{**data, **made, "rows": rows, "argv": tuple(data["argv"])})


def _row(data: dict[str, Any]) -> Row:
    sides = {k: Side(**v) for k, v in data["sides"].items()}
    return Row(**{**data, "sides": sides, "speedup": typed(data["speedup"], Comparison)})


def record(title: str, rows: Sequence[Row], options: BenchOptions, before: Environment) -> Record:
    """The record of a run that began in the environment ``before``."""
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Record(title, before, options, tuple(rows), command_line(), created, load_average())


def environment() -> Environment:
    """Where this runs, to be asked before anything is timed."""
    return describe_environment()


def time_files(
    name: str, settings: str, files: Mapping[str, tuple[bytes, int]], arrays: Arrays, options: BenchOptions, **told: str
) -> Row:
    """Time two files, given as (model, node count), on the same inputs; the first is the baseline.

    Raises:
        SystemExit: if the two do not give the same numbers.
    """
    runners = {side: OnnxRuntimeRunner(model, threads=options.threads) for side, (model, _) in files.items()}
    outputs = []
    for runner in runners.values():
        runner.prepare(arrays)
        runner.enqueue()
        runner.synchronize()
        outputs.append(list(runner.outputs().values()))
    for a, b in zip(*outputs, strict=True):
        scale = max(1.0, float(np.abs(a).max()))
        if not np.allclose(a, b, rtol=1e-3, atol=1e-4 * scale):
            raise SystemExit(
                f"{name}: the two files differ by {np.abs(a - b).max():.3g} at {settings}, of {scale:.3g}."
            )
    found = measure(runners, options)
    for result in found.values():
        if isinstance(result, Exception):
            raise result
    sides = {
        side: Side(found[side].p50_ms, min(min(r) for r in found[side].rounds) / 1e6, found[side].n, nodes)
        for side, (_, nodes) in files.items()
    }
    first, second = (found[side].rounds for side in files)
    return Row(name, settings, sides, compare_rounds(first, second, margin=MARGIN, seed=options.seed), **told)


def times(row: Row) -> list[str]:
    """The medians of a row, the ratio and its interval, as cells."""
    interval = f"{row.speedup.interval.low:.2f} to {row.speedup.interval.high:.2f}"
    return [*(f"{s.p50_ms:.3f}" for s in row.sides.values()), f"{row.speedup.speedup:.2f}", interval]


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A table whose first ``left`` columns are text."""
    rule = "|" + "|".join(["---"] * left + ["---:"] * (len(headings) - left)) + "|"
    return "\n".join([f"| {' | '.join(headings)} |", rule, *(f"| {' | '.join(r)} |" for r in rows)])


def default_path(where: Environment, name: str) -> Path:
    """Where the record of this processor belongs."""
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", where.cpu.lower())).strip("-")
    return Path(__file__).resolve().parents[1] / "profiles" / slug / f"{name}.json"
