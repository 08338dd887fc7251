"""A pipeline's plan and its result as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attn_deploy.pipeline.plan import MAKERS, PipelinePlan
from attn_deploy.pipeline.run import PipelineResult
from attn_deploy.report.text import rows_text


def plan_text(plan: PipelinePlan, gates: Mapping[str, Any]) -> str:
    """A line for each step: whether it would run, and its command."""
    rows = []
    changed = anything = False
    for step in plan.steps:
        cached = step.cached and not changed
        rows.append((step.name, f"{'there already' if cached else 'run'}: {' '.join(step.argv)}"))
        anything = anything or not cached
        changed = changed or (not cached and step.command in MAKERS)
    rows += [("gate", f"{name} = {limit}") for name, limit in gates.items()]
    if plan.package is not None:
        state = "there already" if plan.package.cached and not anything else "run"
        rows.append(("package", f"{state}: {' '.join(plan.package.argv)}"))
    return rows_text(rows)


def pipeline_text(result: PipelineResult) -> str:
    """Steps, gates and what came of it."""
    rows = list(result.steps)
    rows += [(f"gate {g.name}", f"{'ok' if g.passed else 'FAILED'}: {g.words}") for g in result.gates]
    rows.append(("file", result.artifact))
    if result.package:
        rows.append(("package", result.package))
    failed = [g.name for g in result.gates if not g.passed]
    text = rows_text(rows)
    return f"{text}\nnothing was packaged: the gate {', '.join(failed)} failed" if failed else text
