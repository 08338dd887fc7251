"""The committed profiles in short: what `attn-deploy profiles` prints where the records themselves are not at hand.

``python -m attn_deploy.comparison.digest`` writes it from the records of a checkout (``--check`` only compares).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from attn_deploy.bench.statistics import Interval
from attn_deploy.comparison.library import RESULTS, known_runs, plain, unknown_name
from attn_deploy.comparison.overview import Entry, MeanSpeedup, Overview, overview
from attn_deploy.errors import InvalidRequestError

DIGEST = Path(__file__).with_name("digest.json")
SCHEMA_VERSION = 1
_DIGITS = 4  # significant; the records have all


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestRow:
    """One row of a profile: the columns that are printed, without samples and conditions.

    Attributes:
        device: the folder of the record; ``machine`` what it ran on, in words.
        model, runtime, precision, batch, size, cuda_graph: what was timed.
        status, reason: as in the record.
        p50_ms, p95_ms, p99_ms: milliseconds; None where the samples do not resolve them.
        items_per_second: throughput.
        baseline: what the speed-up is against; ``speedup`` with its interval and verdict.
        top1: share of right answers.
        floor_multiple: the median over the device's theoretical least time, which ``bound`` limits.
    """

    device: str
    machine: str
    model: str
    runtime: str
    precision: str
    batch: int
    size: str
    cuda_graph: bool
    status: str
    reason: str
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    items_per_second: float | None
    baseline: str
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    verdict: str
    top1: float | None
    floor_multiple: float | None
    bound: str


@dataclass(frozen=True, slots=True)
class Digest:
    """All rows, and the means over models of each machine."""

    rows: tuple[DigestRow, ...]
    means: tuple[MeanSpeedup, ...]

    def chosen(self, *, device: str | None = None, model: str | None = None) -> Digest:
        """The rows of a device or of a model; means are over all models, and stay only where all are shown.

        Raises:
            InvalidRequestError: if there is no such device or model.
        """
        rows = self.rows
        if device is not None:
            rows = tuple(r for r in rows if plain(r.device) == plain(device))
            if not rows:
                raise InvalidRequestError(unknown_name("device", device, [r.device for r in self.rows]))
        if model is not None:
            names = [r.model for r in rows]
            wanted = re.compile(re.escape(model.lower()).replace(r"\*", ".*"))
            rows = tuple(r for r in rows if wanted.fullmatch(r.model.lower()))
            if not rows:
                raise InvalidRequestError(unknown_name("model", model, names))
        machines = {r.machine for r in rows}
        return Digest(rows, () if model is not None else tuple(m for m in self.means if m.machine in machines))


def make_digest(folder: Path = RESULTS) -> Digest:
    """The digest of a folder of records."""
    rows: list[DigestRow] = []
    means: list[MeanSpeedup] = []
    for device in sorted(p for p in folder.iterdir() if p.is_dir()):
        report = overview(known_runs(device=device.name, folder=folder))
        rows += [_row(device.name, report, entry) for entry in report.entries]
        means += report.means
    return Digest(tuple(rows), tuple(means))


def render_digest(digest: Digest) -> str:
    """The digest as it stands in the file: one list for each row, columns and words named once."""
    columns = [f.name for f in fields(DigestRow)]
    words = list(dict.fromkeys(v for row in digest.rows for v in astuple(row) if isinstance(v, str)))
    numbers = {word: n for n, word in enumerate(words)}
    rows = [[numbers[v] if isinstance(v, str) else _short(v) for v in astuple(row)] for row in digest.rows]
    means = [{k: _short(v) for k, v in asdict(m).items()} for m in digest.means]
    data = {"schema_version": SCHEMA_VERSION, "columns": columns, "words": words, "means": means}
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    return f'{json.dumps(data, ensure_ascii=False)[:-1]}, "rows": [\n{lines}\n]}}\n'


def read_digest(path: Path = DIGEST) -> Digest:
    """The digest that comes with the package; an empty one where there is none.

    Raises:
        InvalidRequestError: if the file is damaged or of another schema version.
    """
    if not path.is_file():
        return Digest((), ())
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema_version"] != SCHEMA_VERSION:
            raise InvalidRequestError(f"{path} has schema version {data['schema_version']}; expected {SCHEMA_VERSION}.")
        words = data["words"]
        texts = {f.name for f in fields(DigestRow) if f.type == "str"}
        rows = tuple(
            DigestRow(**{c: words[v] if c in texts else v for c, v in zip(data["columns"], row, strict=True)})
            for row in data["rows"]
        )
        return Digest(rows, tuple(_mean(m) for m in data["means"]))
    except (ValueError, LookupError, TypeError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise InvalidRequestError(f"{path} is damaged: {error}. Install attn-deploy again.") from error


def _mean(data: Mapping[str, Any]) -> MeanSpeedup:
    size, interval = data["size"], data["interval"]
    values = {**data, "size": tuple(size) if size else None, "interval": Interval(**interval) if interval else None}
    return MeanSpeedup(**values)


def _row(device: str, report: Overview, entry: Entry) -> DigestRow:
    run, row = report.runs[entry.run], entry.row
    latency, speedup, limit = row.latency, row.speedup, entry.limit

    def percentile(q: int) -> float | None:
        return latency.percentile_ms(q) if latency is not None and latency.resolves(q) else None

    return DigestRow(
        device=device,
        machine=run.machine,
        model=run.record.name,
        runtime=row.runtime,
        precision=row.precision,
        batch=row.batch,
        size=f"{row.size[0]}x{row.size[1]}" if row.size else "",
        cuda_graph=row.cuda_graph,
        status=row.status,
        reason=row.reason or row.accuracy_missing,
        p50_ms=percentile(50),
        p95_ms=percentile(95),
        p99_ms=percentile(99),
        items_per_second=latency.throughput(row.batch) if latency is not None else None,
        baseline=run.record.baseline or "",
        speedup=speedup.speedup if speedup is not None else None,
        speedup_low=speedup.interval.low if speedup is not None else None,
        speedup_high=speedup.interval.high if speedup is not None else None,
        verdict=speedup.verdict if speedup is not None else "",
        top1=row.accuracy.top1 if row.accuracy is not None else None,
        floor_multiple=limit.multiple if limit is not None and limit.floor_ms else None,
        bound=limit.bound if limit is not None else "",
    )


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    return value


def main() -> int:
    """Command-line entry: 0 when the file is (now) right, 1 when ``--check`` finds it stale."""
    text = render_digest(make_digest())
    if "--check" in sys.argv[1:]:
        fresh = DIGEST.exists() and DIGEST.read_text(encoding="utf-8") == text
        print(
            "digest.json is up to date"
            if fresh
            else "digest.json is stale: run python -m attn_deploy.comparison.digest"
        )
        return 0 if fresh else 1
    DIGEST.write_text(text, encoding="utf-8")
    print(f"wrote {DIGEST}: {len(text.encode()):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
