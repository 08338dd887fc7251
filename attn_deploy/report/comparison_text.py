"""Two files side by side as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attn_deploy.report.text import rows_text, shapes_text

if TYPE_CHECKING:
    from attn_deploy.parity.files import FileComparison, OutputComparison


def comparison_text(comparison: FileComparison) -> str:
    """Which output differs, where, and by how much; the worst part of each first."""
    rows = [
        ("right", comparison.reference),
        ("compared", comparison.candidate),
        ("at", shapes_text(comparison.inputs)),
        ("allowed", f"{comparison.rule} ({comparison.precision})"),
    ]
    for row in comparison.outputs:
        rows.append((f"{row.output} {row.part}".strip(), _row(row)))
    rows.append(("verdict", "the same within what is allowed" if comparison.passed else "different"))
    return rows_text(rows)


def _row(row: OutputComparison) -> str:
    verdict = "ok" if row.passed else "WRONG"
    if row.agreement is not None:
        return f"{verdict}: {row.agreement:.2%} of {row.elements:,} choices are the same (near ties among them)"
    return (
        f"{verdict}: error {row.relative:.3%} (root mean square), {row.max_abs_error:.3g} at most, at "
        f"{list(row.where)} of run {row.run}: {row.got:.6g} in place of {row.expected:.6g}"
    )
