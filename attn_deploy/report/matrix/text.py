"""The differences between two matrices, in words."""

from __future__ import annotations

from attn_deploy.matrix.diff import MatrixDiff, left_out_text


def matrix_diff_text(diff: MatrixDiff) -> str:
    """One line for each change; removed and added cells as counts."""
    removed = set(diff.removed)
    gone = [c for c in diff.regressions if c.id in removed]
    lines = [
        f"regression  {c.id}: {c.check} {c.before} -> {c.after}: {c.reason}"
        for c in diff.regressions
        if c.id not in removed
    ]
    lines += [f"fixed       {c.id}: was {c.before}: {c.reason}" for c in diff.fixed]
    if gone:
        why = "though the newer run asks for them" if diff.subset else "which counts as a regression each"
        advice = "" if diff.subset else "; --subset compares what the newer run was asked for"
        lines.append(f"regression  {len(gone)} cells are gone, {why}, such as {gone[0].id}{advice}")
    rest = [i for i in diff.removed if i not in {c.id for c in gone}]
    lines += [f"removed     {len(rest)} cells, such as {rest[0]}"] if rest else []
    lines += [f"added       {len(diff.added)} cells, such as {diff.added[0]}"] if diff.added else []
    lines += [left_out_text(diff)] if diff.left_out else []
    count = len(diff.regressions)
    lines.append(f"{count} regression{'' if count == 1 else 's'}, {len(diff.fixed)} fixed.")
    return "\n".join(lines)
