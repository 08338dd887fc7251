"""What became of each network, as a record that grows row by row and merges with others, and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from network_names import NETWORKS

from attn_deploy.files import write_atomic
from attn_deploy.machine.environment import Environment
from attn_deploy.reading import typed

SCHEMA_VERSION = 1
OURS, DYNAMO, TORCHSCRIPT = "ours", "dynamo", "torchscript"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One exporter on one network.

    Attributes:
        outcome: right, wrong, refused or absent.
        axes: that move in the file.
        steps: what the extent of an axis must be a multiple of; one that is not in it takes any.
        least: the least extent of an axis.
        error: largest error against a fresh model, in units of what is allowed; None where the file gave no numbers.
        seconds, peak_mb: processor time and peak memory of the process.
        exporter: which of torch's exporters wrote our file.
        reason: of a refusal, or of what stays.
        load: of the machine when it ended.
    """

    outcome: str
    axes: tuple[str, ...] = ()
    steps: Mapping[str, int] = field(default_factory=dict)
    least: Mapping[str, int] = field(default_factory=dict)
    error: float | None = 0.0
    seconds: float = 0.0
    peak_mb: float = 0.0
    exporter: str = ""
    reason: str = ""
    load: float = 0.0

    @property
    def right(self) -> bool:
        """Whether the file gives what the model gives."""
        return self.outcome == "right"


@dataclass(frozen=True, slots=True)
class Latency:
    """Right files of one network in ONNX Runtime, interleaved; one image, one thread.

    Attributes:
        p50_ms: the median of each exporter's file.
        against: the plain exporter whose file is the faster.
        ratio: our time over its; low and high bound the 95 % interval.
        load: of the machine when it ended.
    """

    p50_ms: Mapping[str, float]
    against: str
    ratio: float
    low: float
    high: float
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """A network, and what became of it with each exporter."""

    name: str
    attempts: Mapping[str, Attempt] = field(default_factory=dict)
    latency: Latency | None = None

    @property
    def lost(self) -> str:
        """What plain torch exports right and ours does not, in words; empty if there is nothing."""
        ours = self.attempts.get(OURS)
        if ours is None or ours.outcome == "absent":
            return ""
        for exporter, plain in self.attempts.items():
            if exporter == OURS or not plain.right:
                continue
            missing = set(plain.axes) - set(ours.axes) if ours.right else set(plain.axes) or {"any"}
            if missing:
                return f"{exporter} gives {' '.join(sorted(missing))}"
        return ""


@dataclass(frozen=True, slots=True)
class Record:
    """Rows by name, and where they were made."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    environment: Environment | None = None
    schema_version: int = SCHEMA_VERSION

    def with_row(self, row: Row) -> Record:
        """The record with one row put in or replaced; all others stay."""
        return replace(self, rows={**self.rows, row.name: row})

    def merged(self, other: Record) -> Record:
        """Both records' rows; where both have a network, attempt by attempt, those of ``other`` win."""
        rows = dict(self.rows)
        for name, row in other.rows.items():
            mine = rows.get(name, Row(name))
            rows[name] = Row(name, {**mine.attempts, **row.attempts}, row.latency or mine.latency)
        return replace(self, rows=rows, environment=self.environment or other.environment)

    def write(self, path: Path) -> None:
        """The record as JSON, and the page for readers beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(asdict(self), indent=1) + "\n")
        write_atomic(path.with_suffix(".md"), page(self))

    @classmethod
    def read(cls, path: Path) -> Record:
        """The inverse of `write`; an empty record where there is no file."""
        if not path.exists():
            return cls()
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema_version"] != SCHEMA_VERSION:
            raise SystemExit(f"{path} has schema version {data['schema_version']}, this reads {SCHEMA_VERSION}.")
        return typed(data, cls)


def summary(rows: Sequence[Row]) -> str:
    """How many are right, with which axes, and what is lost or wrong."""
    ours = {r.name: r.attempts[OURS] for r in rows if OURS in r.attempts}
    counted = {n: a for n, a in ours.items() if a.outcome != "absent"}
    right = sum(a.right for a in counted.values())
    whole = sum(a.right and {"N", "H", "W"} <= set(a.axes) for a in counted.values())
    wrong = [n for n, a in counted.items() if a.outcome == "wrong"]
    lost = [f"{r.name} ({r.lost})" for r in rows if r.lost]
    ratios = [r.latency for r in rows if r.latency is not None]
    worst = max(ratios, key=lambda t: t.ratio, default=None)
    lines = [
        f"{right} of {len(counted)} right, {whole} of them with N, H and W; {len(wrong)} wrong; "
        f"{len(ours) - len(counted)} absent.",
        f"Right in plain torch with axes that ours lacks: {', '.join(lost) or 'none'}.",
    ]
    if wrong:
        lines.append(f"Wrong: {', '.join(wrong)}.")
    if worst is not None:
        beyond = [r.name for r in rows if r.latency is not None and r.latency.low > 1.05]
        lines.append(
            f"Our time over the faster plain file's in ONNX Runtime, {len(ratios)} networks: worst {worst.ratio:.2f} "
            f"({worst.low:.2f} to {worst.high:.2f}); above 1.05 beyond doubt: {', '.join(beyond) or 'none'}."
        )
    return "\n\n".join(lines)


def lines_of(row: Row) -> list[list[str]]:
    """The cells of a network, one line for each exporter."""
    lines = []
    for exporter, a in row.attempts.items():
        t = row.latency
        ms = f"{t.p50_ms[exporter]:.1f}" if t is not None and exporter in t.p50_ms else ""
        ratio = f"{t.ratio:.2f} ({t.low:.2f} to {t.high:.2f})" if t is not None and exporter == OURS else ""
        steps = " ".join([f"{s}%{n}" for s, n in a.steps.items()] + [f"{s}>={n}" for s, n in a.least.items()])
        cells = [a.outcome, " ".join(a.axes), steps, f"{a.error:.2g}" if a.right or a.error else ""]
        cost = [f"{a.seconds:.1f}" if a.seconds else "", f"{a.peak_mb:.0f}" if a.peak_mb else "", ms, ratio]
        lines.append([f"`{row.name}`" if not lines else "", exporter, *cells, *cost, a.reason[:160].replace("|", "/")])
    return lines


_HEADINGS = ("network", "exporter", "outcome", "axes", "steps", "error", "cpu s", "MB", "ms", "x plain", "reason")


def page(record: Record) -> str:
    """The record for readers, in Markdown."""
    rows = list(record.rows.values())
    e = record.environment
    where = ""
    if e is not None:
        versions = ", ".join(f"{k} {e.packages[k]}" for k in ("torch", "onnxruntime") if k in e.packages)
        where = f"{e.cpu}, one thread; {versions}; load {min(_loads(rows), default=0):.1f} to "
        where += f"{max(_loads(rows), default=0):.1f} on {e.usable_cores} cores while it ran."
    table = [f"| {' | '.join(_HEADINGS)} |", f"|{'---|' * len(_HEADINGS)}"]
    table += [f"| {' | '.join(cells)} |" for row in rows for cells in lines_of(row)]
    text = (
        "Each network is exported by name with defaults; its file is compared with a fresh model of the same weights at "
        "other batches and sizes. Errors are in units of what is allowed (1e-4 of the value plus 1e-5 of the largest); "
        "times are medians of interleaved rounds. `python benchmarks/public_networks.py --plain --output "
        "profiles/amd-epyc/public-networks.json` makes this page and goes on where it stopped."
    )
    missing = [n for n in NETWORKS if n not in record.rows]
    rest = f"{len(missing)} of the {len(NETWORKS)} networks of the list have no row here yet." if missing else ""
    parts = ["# Public networks", text, summary(rows), rest, where, "\n".join(table)]
    return "\n\n".join(p for p in parts if p) + "\n"


def _loads(rows: Sequence[Row]) -> list[float]:
    return [a.load for r in rows for a in r.attempts.values()]
