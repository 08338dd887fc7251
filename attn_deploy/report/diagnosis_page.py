"""A diagnosis as one HTML page that needs nothing else: each fault, and the error at the end of each module."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attn_deploy.diagnosis.record import Diagnosis, Fault, Step
from attn_deploy.pages.blocks import facts, table, tiles
from attn_deploy.pages.page import NOTHING, Html, html, joined, page
from attn_deploy.report.diagnose import compared_text, verdict_text

_TITLES = {"build": "What the target refuses", "numbers": "Where numbers go wrong"}
_DRAWN = 48  # steps of the chart, those around the first that exceeds what is allowed
_WIDTH, _VALUES, _ROW = 480, 56, 20
_LETTER, _LONGEST = 6.6, 28  # pixels of a letter, and letters of a name that are shown
_LOWEST = 1e-4  # of what is allowed: what lies below is drawn there


def diagnosis_html(diagnosis: Diagnosis) -> str:
    """The page."""
    parts = [
        html('<h1>{}: {}</h1><div class="soft">{} nodes, {}. {}.</div>', diagnosis.model,
             "nothing found" if diagnosis.passed else "what is wrong with it", f"{diagnosis.nodes:,}", diagnosis.precision,
             _sentence(verdict_text(diagnosis))),
        tiles(_figures(diagnosis)),
        joined((_fault(f) for f in diagnosis.faults), "\n"),
        _steps(diagnosis),
        _trials(diagnosis),
        html('<details open><summary>How it was found</summary>{}</details>', facts(_conditions(diagnosis))),
    ]  # fmt: skip
    return page(f"{diagnosis.model}: diagnosis", joined(parts, "\n"), kind="diagnosis")


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _figures(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    refused = sum(t.refused for t in diagnosis.trials)
    entries = []
    if diagnosis.target:
        built = diagnosis.build is None
        entries.append(("ok" if built else "failed", "builds" if built else "refused", diagnosis.target))
        entries.append(("", f"{len(diagnosis.trials):,}", f"trials, {refused:,} refused"))
    if diagnosis.against:
        right = diagnosis.numbers is None
        entries.append(
            ("ok" if right else "failed", "right" if right else "wrong", f"numbers, against {diagnosis.against}")
        )
        wrong = sum(s.exceeds for s in diagnosis.steps)
        entries.append(
            ("failed" if wrong else "ok", f"{wrong:,}", f"of {len(diagnosis.steps):,} modules out of tolerance")
        )
    return entries


def _fault(fault: Fault) -> Html:
    part = ", ".join(f"{name} {count}" for name, count in fault.operators.items())
    entries = [
        ("module", fault.place),
        ("operator", f"{fault.operator}, node {fault.node}" if fault.operator else ""),
        ("what", fault.what),
        ("remedy", fault.remedy),
        ("smallest part", part + ("" if fault.alone else " (does not fail by itself)")),
        ("written to", " and ".join(filter(None, (fault.subgraph, fault.data)))),
    ]
    return html('<h2>{}</h2><div class="card fault">{}</div>', _TITLES[fault.question], facts(entries))


def _steps(diagnosis: Diagnosis) -> Html:
    if not diagnosis.steps:
        return NOTHING
    shown = around_the_first(diagnosis.steps)
    left_out = len(diagnosis.steps) - len(shown)
    note = "The largest difference at the end of each module, in units of what is allowed, in order of computation."
    note += f" {left_out:,} others are in the table." if left_out else ""
    rows = [
        (s.module or s.tensor, s.operator, _number(s.max_abs_error), _number(s.relative), _number(s.ratio),
         "" if s.alone is None else _number(s.alone if s.alone >= 0 else None))
        for s in diagnosis.steps
    ]  # fmt: skip
    heads = ("at the end of", "operator", "max error", "relative", "of allowed", "fed with what is right")
    return html(
        '<figure class="card"><figcaption>The error on its way</figcaption><p class="soft">{}</p>{}</figure>'
        "<details><summary>Every module ({})</summary>{}</details>",
        note, errors_chart(shown), len(rows), table(heads, rows, (0, 1)),
    )  # fmt: skip


def around_the_first(steps: Sequence[Step]) -> Sequence[Step]:
    """Of many steps those around the first that exceeds what is allowed."""
    first = next((k for k, s in enumerate(steps) if s.exceeds), len(steps))
    start = max(0, min(first - _DRAWN // 2, len(steps) - _DRAWN))
    return steps[start : start + _DRAWN]


def errors_chart(steps: Sequence[Step]) -> Html:
    """A bar for each step on a logarithmic axis, and a line where the tolerance ends. Infinite ones end at the edge."""
    highest = max([10.0, *(s.ratio for s in steps if s.ratio is not None)]) * 2
    low, high = math.log10(_LOWEST), math.log10(highest)
    shown = [_short(s.module or s.tensor) for s in steps]
    names = 16 + _LETTER * max(map(len, shown))
    room = _WIDTH - names - _VALUES

    def across(ratio: float | None) -> float:
        value = high if ratio is None else math.log10(max(ratio, _LOWEST))
        return round(names + room * (value - low) / (high - low), 1)

    bottom = 8 + _ROW * len(steps)
    parts = []
    for power in range(math.ceil(low), math.floor(high) + 1):
        x = across(10.0**power)
        parts.append(html('<line class="grid" x1="{0}" y1="4" x2="{0}" y2="{1}"/>', x, bottom))
        parts.append(
            html('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>', x, bottom + 15, _tick(power))
        )
    for number, step in enumerate(steps):
        y = 8 + _ROW * number
        name, end = step.module or step.tensor, across(step.ratio)
        kind = "bar wrong" if step.exceeds else "bar"
        parts.append(
            html(
                '<text x="{}" y="{}" text-anchor="end">{}<title>{}</title></text>',
                names - 8,
                y + 13,
                _short(name),
                name,
            )
        )
        parts.append(
            html(
                '<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="2"/>',
                kind,
                names,
                y + 3,
                max(1.0, end - names),
                _ROW - 7,
            )
        )
        parts.append(html('<text x="{}" y="{}">{}</text>', end + 6, y + 13, _number(step.ratio)))
    parts.append(html('<line class="limit" x1="{0}" y1="4" x2="{0}" y2="{1}"/>', across(1.0), bottom))
    drawing = (
        '<svg class="drawn bars" viewBox="0 0 {} {}" role="img" aria-label="error at the end of each module">{}</svg>'
    )
    return html(drawing, _WIDTH, bottom + 24, joined(parts))


def _trials(diagnosis: Diagnosis) -> Html:
    if not diagnosis.trials:
        return NOTHING
    rows = [(t.what, f"{t.nodes:,}", "refused" if t.refused else "taken", f"{t.seconds:.1f}") for t in diagnosis.trials]
    body = table(("part", "nodes", "answer", "seconds"), rows, (0, 2))
    return html("<details><summary>What {} was given ({})</summary>{}</details>", diagnosis.target, len(rows), body)


def _conditions(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [
        ("compared", compared_text(diagnosis)),
        ("overflow", diagnosis.overflow),
        ("notes", " ".join(diagnosis.notes)),
        ("time", f"{diagnosis.seconds:.1f} s"),
        ("attn-deploy", diagnosis.attn_deploy),
    ]


def _tick(power: int) -> str:
    return {-1: "0.1", 0: "allowed", 1: "10 times", 2: "100"}.get(power, f"1e{power}")


def _number(value: float | None) -> str:
    return "NaN or inf" if value is None else f"{value:.3g}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]
