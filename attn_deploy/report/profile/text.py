"""Changes between profiles, and what is known of them, as plain text. No rich."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from attn_deploy.comparison.compare import ProfileDiff
from attn_deploy.comparison.digest import Digest
from attn_deploy.comparison.overview import MANY, MeanSpeedup, Overview
from attn_deploy.report.profile.models import ModelLine, digest_lines, model_cells, model_lines, reasons
from attn_deploy.report.profile.rows import cell_text, flat_rows, mean_text, used

WIDE = 10_000  # columns: nothing is left out
KNOWN = (
    "machine", "model", "runtime", "precision", "batch", "size", "p50_ms", "p95_ms", "p99_ms", "items_per_second",
    "speedup", "verdict", "top1", "floor_multiple", "bound",
)  # fmt: skip
TITLES = {
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "items_per_second": "items/s",
    "floor_multiple": "x floor",
    "top1": "top-1",
}
NUMBERS = frozenset(("batch", "p50_ms", "p95_ms", "p99_ms", "items_per_second", "speedup", "top1", "floor_multiple"))


def profile_diff_text(diff: ProfileDiff) -> str:
    """One line for each change, then the counts."""
    lines = [
        f"{'regression' if c.regression else 'better':<11} {c.model}: {c.key}: {c.kind}, {c.before} -> {c.after} ({c.detail})"
        for c in diff.changes
    ]
    lines += [f"undecided   {row}: too few rounds" for row in diff.undecided]
    lines += [f"removed     {len(diff.removed)} rows, such as {diff.removed[0]}"] if diff.removed else []
    lines += [f"added       {len(diff.added)} rows, such as {diff.added[0]}"] if diff.added else []
    lines += [f"note        {note}" for note in diff.notes]
    count, better = len(diff.regressions), len(diff.changes) - len(diff.regressions)
    lines.append(
        f"{count} regression{'s' * (count != 1)}, {better} for the better, {diff.same} rows without a change beyond noise "
        f"and {diff.threshold:.0%}."
    )
    if diff.unmeasured:
        several = diff.unmeasured != 1
        lines.append(f"{diff.unmeasured} row{'s have' if several else ' has'} no number in either.")
    if not diff.compared:
        lines.append("Nothing was compared: no row has a number.")
    return "\n".join(lines)


# What a narrow terminal does without, the first first.
_EXPENDABLE = ("bound", "floor_multiple", "p95_ms", "items_per_second", "p99_ms", "top1", "verdict")


def known_text(report: Overview, width: int = WIDE) -> str:
    """A table of the rows that have a number, columns that are the same everywhere named once above it.

    Of many runs there is a line for each model instead: its times, and the speed-ups of the rest. Columns that do not fit
    into ``width`` are left out, and named below the table.
    """
    if report.many:
        why = [f"{who}: {reason}" for who, reason in reasons(report)]
        return _models_text(
            model_lines(report), why, report.means, "Every row: --json, or -o with .html, .md or .csv.", width
        )
    return _rows_text(flat_rows(report), report.means, width)


def digest_text(digest: Digest, width: int = WIDE) -> str:
    """The same of the digest that comes with an installed package."""
    lines = digest_lines(digest.rows)
    if len({(line.model, line.machine) for line in lines}) > MANY:
        return _models_text(lines, [], digest.means, "Every row: --json.", width)
    return _rows_text([asdict(row) for row in digest.rows], digest.means, width)


def digest_json(digest: Digest) -> str:
    """The rows and means of a digest."""
    rows, means = [asdict(r) for r in digest.rows], [asdict(m) for m in digest.means]
    return json.dumps({"schema_version": 1, "kind": "profile digest", "rows": rows, "means": means}, indent=1) + "\n"


def _rows_text(rows: Sequence[Mapping[str, Any]], means: Sequence[MeanSpeedup], width: int) -> str:
    rows = [_told_apart(r) for r in rows if r["status"] == "ok"]
    if not rows:
        return "No row has a number."
    columns = used(rows, KNOWN)
    constant = [c for c in ("machine", "model") if c in columns and len({r[c] for r in rows}) == 1]
    columns = [c for c in columns if c not in constant]
    heads = [TITLES.get(c, c) for c in columns]
    cells = [[cell_text(c, r) for c in columns] for r in rows]
    lines = [f"{c}: {rows[0][c]}" for c in constant]
    ranks = [_EXPENDABLE.index(c) if c in _EXPENDABLE else None for c in columns]
    lines += _lined(heads, cells, [c in NUMBERS for c in columns], ranks, width)
    return "\n".join(lines + _means(means))


def _models_text(
    lines: Sequence[ModelLine], why: Sequence[str], means: Sequence[MeanSpeedup], more: str, width: int
) -> str:
    text: list[str] = []
    for name in dict.fromkeys(line.machine for line in lines):
        heads, cells = model_cells([line for line in lines if line.machine == name])
        ranks = [None if n < 3 else len(heads) - n for n in range(len(heads))]
        right = [h not in ("model", "size") for h in heads]
        text += [f"machine: {name}", *_lined(heads, cells, right, ranks, width)]
    text += ["", *why] if why else []
    return "\n".join([*text, *_means(means), more])


def _means(means: Sequence[MeanSpeedup]) -> list[str]:
    several = len({m.machine for m in means}) > 1
    return [""] * bool(means) + [mean_text(m, several) + "." for m in means]


def _told_apart(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its runtime in words that tell a captured graph from launches one by one."""
    return {**row, "runtime": f"{row['runtime']} graph"} if row.get("cuda_graph") else row


def _lined(
    heads: list[str], cells: list[list[str]], right: list[bool], ranks: Sequence[int | None], width: int
) -> list[str]:
    """A table whose columns are as wide as what stands in them.

    Args:
        heads: the titles.
        cells: the texts, a list for each line.
        right: which columns are of numbers.
        ranks: of the columns that a narrow terminal does without, the least first; None for those that stay.
        width: of the terminal.
    """
    widths = [max(len(h), *(len(line[i]) for line in cells)) for i, h in enumerate(heads)]
    order = sorted((r, i) for i, r in enumerate(ranks) if r is not None)
    left_out: list[int] = []
    while order and sum(w + 2 for i, w in enumerate(widths) if i not in left_out) - 2 > width:
        left_out.append(order.pop(0)[1])
    if left_out:
        names = ", ".join(heads[i] for i in sorted(left_out))
        kept = [i for i in range(len(heads)) if i not in left_out]
        heads, cells = [heads[i] for i in kept], [[line[i] for i in kept] for line in cells]
        table = _lined(heads, cells, [right[i] for i in kept], [None] * len(kept), width)
        return [*table, f"left out at {width} columns: {names}"]

    def line(values: list[str]) -> str:
        columns = zip(values, widths, right, strict=True)
        return "  ".join(v.rjust(w) if r else v.ljust(w) for v, w, r in columns).rstrip()

    return [line(heads), *(line(c) for c in cells)]
