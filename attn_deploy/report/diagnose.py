"""A diagnosis as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attn_deploy.report.text import rows_text, shapes_text

if TYPE_CHECKING:
    from attn_deploy.diagnosis.record import Diagnosis, Fault, Step

_SHOWN = 24
_QUESTIONS = {"build": "BUILD", "numbers": "NUMBERS"}


def diagnosis_text(diagnosis: Diagnosis, width: int | None = None) -> str:
    """Each fault with its place, words and remedy; the errors along the way; what was tried."""
    blocks = [_fault_text(f, width) for f in diagnosis.faults]
    if any(s.exceeds for s in diagnosis.steps):
        blocks.append(_steps_text(diagnosis.steps))
    refused = sum(t.refused for t in diagnosis.trials)
    rows = [
        ("model", f"{diagnosis.model}, {diagnosis.nodes} nodes, {diagnosis.precision}"),
        (
            "target",
            f"{diagnosis.target}: {len(diagnosis.trials)} trial{'s' * (len(diagnosis.trials) != 1)}, {refused} refused"
            if diagnosis.target
            else "not tried",
        ),
        ("compared", compared_text(diagnosis)),
        ("steps", _largest(diagnosis.steps)),
        ("overflow", diagnosis.overflow),
        ("notes", "\n".join(diagnosis.notes)),
        ("time", f"{diagnosis.seconds:.1f} s"),
        ("verdict", verdict_text(diagnosis)),
    ]
    blocks.append(rows_text([(k, v) for k, v in rows if v], width))
    return "\n\n".join(blocks)


def verdict_text(diagnosis: Diagnosis) -> str:
    """What is to blame, or that nothing is."""
    if diagnosis.passed:
        answers = [f"{diagnosis.target} takes it"] * bool(diagnosis.target) + ["its numbers are right"] * bool(
            diagnosis.against
        )
        return f"nothing found: {' and '.join(answers)}"
    return "; ".join(f"{_QUESTIONS[f.question].lower()}: {f.place}" for f in diagnosis.faults)


def compared_text(diagnosis: Diagnosis) -> str:
    """With what the numbers were compared, where, and what was allowed."""
    if not diagnosis.against:
        return "not compared"
    if not diagnosis.compared_at:
        return f"against {diagnosis.against}"
    if "root_mean_square" in diagnosis.tolerance:
        allowed = f"a root mean square of the error of {diagnosis.tolerance['root_mean_square']:.0%} of the tensor's"
    else:
        allowed = f"rtol {diagnosis.tolerance['rtol']:g}, atol {diagnosis.tolerance['atol']:g} * max(1, max|y|)"
    return f"against {diagnosis.against} at {shapes_text([diagnosis.compared_at])} (allowed: {allowed})"


def _largest(steps: Sequence[Step]) -> str:
    """The largest error on the way, where none exceeds what is allowed."""
    if not steps or any(s.exceeds for s in steps):
        return ""
    worst = max(steps, key=lambda s: s.ratio or 0.0)
    place = worst.module or worst.tensor
    return (
        f"{len(steps)} compared; the largest error is {_number(worst.ratio)} of what is allowed, at the end of {place}"
    )


def _fault_text(fault: Fault, width: int | None) -> str:
    part = ", ".join(f"{op} {n}" for op, n in fault.operators.items())
    if part and fault.subgraph:
        part = f"{part} in {fault.subgraph}" + (f", inputs in {fault.data}" if fault.data else "")
    alone = "" if fault.alone or not part else " (does not fail by itself)"
    rows = [
        (_QUESTIONS[fault.question], fault.place),
        ("operator", f"{fault.operator}, node {fault.node}" if fault.operator else ""),
        ("what", fault.what),
        ("remedy", fault.remedy),
        ("smallest part", part + alone if part else ""),
    ]
    return rows_text([(k, v) for k, v in rows if v], width)


def _steps_text(steps: Sequence[Step]) -> str:
    """The errors at module boundaries; of many, those around the first that exceeds what is allowed."""
    first = next((k for k, s in enumerate(steps) if s.exceeds), len(steps))
    start = max(0, min(first - _SHOWN // 2, len(steps) - _SHOWN))
    shown = steps[start : start + _SHOWN]
    places = [s.module or s.tensor for s in shown]
    left = max(len("at the end of"), *(len(p) for p in places)) + 2
    lines = [
        f"{'at the end of':<{left}}{'operator':<22}{'max error':>11}{'relative':>11}{'of allowed':>12}{'alone':>9}"
    ]
    for place, step in zip(places, shown, strict=True):
        error = "NaN or inf" if not step.finite else _number(step.max_abs_error)
        relative, ratio = _number(step.relative), _number(step.ratio)
        mark = "  <-" if step.exceeds else ""
        numbers = f"{error:>11}{relative:>11}{ratio:>12}{_alone(step.alone):>9}"
        lines.append(f"{place:<{left}}{step.operator:<22}{numbers}{mark}".rstrip())
    if len(shown) < len(steps):
        lines.append(f"{len(steps)} steps in all; the others are in the record (--json)")
    return "\n".join(lines)


def _alone(ratio: float | None) -> str:
    return "" if ratio is None else "inf" if ratio < 0 else f"{ratio:.3g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
