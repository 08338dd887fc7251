"""Changes between profiles, and what is known of them, as plain text. No rich."""

from __future__ import annotations

from attn_deploy.comparison.compare import ProfileDiff
from attn_deploy.comparison.overview import Overview
from attn_deploy.report.profile.models import model_lines, reasons, table
from attn_deploy.report.profile.rows import flat_rows, mean_text, told, used

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


def diff_text(found: ProfileDiff) -> str:
    """One line for each change, then the counts."""
    lines = [
        f"{'regression' if c.regression else 'better':<11} {c.model}: {c.key}: {c.kind}, {c.before} -> {c.after} ({c.detail})"
        for c in found.changes
    ]
    lines += [f"undecided   {row}: too few rounds" for row in found.undecided]
    lines += [f"removed     {len(found.removed)} rows, such as {found.removed[0]}"] if found.removed else []
    lines += [f"added       {len(found.added)} rows, such as {found.added[0]}"] if found.added else []
    lines += [f"note        {note}" for note in found.notes]
    count, better = len(found.regressions), len(found.changes) - len(found.regressions)
    lines.append(
        f"{count} regression{'s' * (count != 1)}, {better} for the better, {found.same} rows without a change beyond noise "
        f"and {found.threshold:.0%}."
    )
    if found.unmeasured:
        several = found.unmeasured != 1
        lines.append(f"{found.unmeasured} row{'s have' if several else ' has'} no number in either.")
    if not found.compared:
        lines.append("Nothing was compared: no row has a number.")
    return "\n".join(lines)


def known_text(found: Overview) -> str:
    """A table of the rows that have a number, columns that are the same everywhere named once above it.

    Of many runs there is a line for each model instead: its times, and the speed-ups of the rest.
    """
    if found.many:
        return _models_text(found)
    rows = [r for r in flat_rows(found) if r["status"] == "ok"]
    if not rows:
        return "No row has a number."
    columns = used(rows, KNOWN)
    constant = [c for c in ("machine", "model") if c in columns and len({r[c] for r in rows}) == 1]
    columns = [c for c in columns if c not in constant]
    heads = [TITLES.get(c, c) for c in columns]
    cells = [[told(c, r) for c in columns] for r in rows]
    lines = [f"{c}: {rows[0][c]}" for c in constant]
    lines += _lined(heads, cells, [c in NUMBERS for c in columns])
    return "\n".join(lines + _means(found))


def _models_text(found: Overview) -> str:
    lines = []
    made = model_lines(found)
    for name in found.machines:
        heads, cells = table([line for line in made if line.machine == name])
        lines += [f"machine: {name}", *_lined(heads, cells, [h not in ("model", "size") for h in heads])]
    lines += [""] + [f"{who}: {why}" for who, why in reasons(found)] if reasons(found) else []
    lines += _means(found)
    return "\n".join([*lines, "Every row: --json, or -o with .html, .md or .csv."])


def _means(found: Overview) -> list[str]:
    return [""] * bool(found.means) + [mean_text(m, len(found.machines) > 1) + "." for m in found.means]


def _lined(heads: list[str], cells: list[list[str]], right: list[bool]) -> list[str]:
    """A table whose columns are as wide as what stands in them."""
    widths = [max(len(h), *(len(line[i]) for line in cells)) for i, h in enumerate(heads)]

    def line(values: list[str]) -> str:
        told = zip(values, widths, right, strict=True)
        return "  ".join(v.rjust(w) if r else v.ljust(w) for v, w, r in told).rstrip()

    return [line(heads), *(line(c) for c in cells)]
