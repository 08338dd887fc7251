"""A lint report as text."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attn_deploy.diagnosis.lint import LintReport


def lint_text(report: LintReport, width: int = 120) -> str:
    """Each finding with its place, its rule and what to do about it; then a verdict."""
    blocks = []
    for finding in report.findings:
        place = str(finding.place) or "(model)"
        head = f"{place}: {finding.severity} [{finding.rule}] {finding.what}"
        remedy = "export replaces it" if finding.severity == "rewritten" else finding.remedy
        wrapped = textwrap.wrap(head, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        wrapped += textwrap.wrap(remedy, width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
        blocks.append("\n".join(wrapped))
    counts = [sum(f.severity == s for f in report.findings) for s in ("error", "warning")]
    how = "source and a traced run" if report.traced else "source only; with --input, forward is traced too"
    verdict = (
        f"{report.model}, opset {report.opset}, {report.target}: {counts[0]} error{'' if counts[0] == 1 else 's'}, "
        f"{counts[1]} warning{'' if counts[1] == 1 else 's'} ({how})."
    )
    return "\n".join([*blocks, verdict])
