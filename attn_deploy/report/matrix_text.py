"""The differences between two matrices, in words."""

from __future__ import annotations

from attn_deploy.matrix.diff import MatrixDiff


def diff_text(found: MatrixDiff) -> str:
    """One line for each change; removed and added cells as counts."""
    lines = [f"regression  {c.id}: {c.check} {c.before} -> {c.after}: {c.reason}" for c in found.regressions]
    lines += [f"fixed       {c.id}: was {c.before}: {c.reason}" for c in found.fixed]
    lines += [f"removed     {len(found.removed)} cells, such as {found.removed[0]}"] if found.removed else []
    lines += [f"added       {len(found.added)} cells, such as {found.added[0]}"] if found.added else []
    count = len(found.regressions)
    lines.append(f"{count} regression{'' if count == 1 else 's'}, {len(found.fixed)} fixed.")
    return "\n".join(lines)
