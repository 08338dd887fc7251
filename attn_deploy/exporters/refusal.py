"""Refusals in the user's words: what broke, in which module and line, and the known remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attn_deploy.errors import AttnDeployError, ExportError
from attn_deploy.rules.finding import Finding
from attn_deploy.rules.location import Place
from attn_deploy.rules.rules import Rule, explain, rule

if TYPE_CHECKING:
    from attn_deploy.exporters.prepared import PreparedModel

# What makes a size constant, or the numbers wrong, without an exporter saying so; the likeliest first.
_SILENT_CAUSES = (
    "data-dependent-branch",
    "loop-over-batch",
    "groups-from-batch",
    "multi-head-attention",
    "adaptive-pooling",
    "pool-window-from-shape",
    "number-from-tensor",
    "cached-by-size",
    "number-from-shape",
    "branch-on-shape",
    "overlapping-write",
    "fft",
    "fold",
)

_OWN_REMEDY = frozenset({"later-form", "detector"})  # whose errors end with one that fits the case


def refusal(label: str, identifier: str, place: Place, *, detail: str = "") -> ExportError:
    """The error of a rule: what is wrong and where, what the exporter said, what to do."""
    entry = rule(identifier)
    said = f": {detail}" if detail else ""
    return ExportError(f"{label}: {entry.explanation}{place.phrase}{said}. {entry.remedy}", rule=identifier)


# Of the advice to let N alone move, what is left where N alone is asked for already.
_STATIC_INSTEAD = {
    "let only the other axes move, as in --dynamic N": "fix every axis with --dynamic none",
    "Let only the other axes move, as in --dynamic N": "Fix every axis with --dynamic none",
    "fix the sizes, as in --dynamic N": "fix the batch too with --dynamic none",
}


def most_telling(prepared: PreparedModel, failures: Sequence[tuple[str, AttnDeployError]]) -> AttnDeployError:
    """One error for those of all exporters that were tried, with the axes in its remedy that do move in this model."""
    telling = _most_telling(prepared, failures)
    stuck = {s for _, e in failures for s in re.findall(r"the axis (\w+) cannot be dynamic", str(e))}
    fit = [s for s in prepared.dynamic if s not in stuck]
    example = "as in --dynamic N"
    if example not in str(telling):
        return telling
    if prepared.dynamic == ("N",):  # it is in force
        text = str(telling)
        for advice, other in _STATIC_INSTEAD.items():
            text = text.replace(advice, other)
    elif "N" in stuck and fit:
        text = str(telling).replace(example, f"as in --dynamic {','.join(fit)}")
    else:
        return telling
    error = type(telling)(text, exit_code=telling.exit_code, rule=telling.rule)
    error.__cause__ = telling.__cause__
    return error


def _most_telling(prepared: PreparedModel, failures: Sequence[tuple[str, AttnDeployError]]) -> AttnDeployError:
    """One error for those of all exporters: that of a known cause, looked for in the model if no error names it."""
    entries = [(name, error, _entry(error)) for name, error in failures]
    for _, error, entry in entries:
        if entry is not None and not entry.general:
            says = entry.remedy in str(error) or (entry.id in _OWN_REMEDY and error.rule == entry.id)
            text = "" if says else f"{_stop(error)} {entry.remedy}"
            at = next((f for f in prepared.findings if f.rule == entry.id), None)
            if at is not None and "line " not in str(error):
                text += f" It is in {at.what!r}{at.place.phrase}."
            return _with_rule(error, entry.id, text + _others(failures, error, prepared.label))
    _, error, entry = entries[0]
    cause = _silent_cause(prepared.findings)
    if cause is not None:
        known = rule(cause.rule)
        text = f"{_stop(error)} The likely cause is {cause.what!r}{cause.place.phrase}: {known.explanation}. {known.remedy}"
        return _with_rule(error, cause.rule, text)
    remedy = f"{_stop(error)} {entry.remedy}" if entry is not None and entry.remedy not in str(error) else ""
    return _with_rule(error, entry.id if entry else None, remedy + _others(failures, error, prepared.label))


def _stop(error: AttnDeployError) -> str:
    return "" if str(error).endswith((".", ")")) else "."


def _entry(error: AttnDeployError) -> Rule | None:
    return rule(error.rule) if error.rule is not None else explain(error)


def _silent_cause(findings: Sequence[Finding]) -> Finding | None:
    order = {identifier: index for index, identifier in enumerate(_SILENT_CAUSES)}
    suspects = [f for f in findings if f.rule in order]
    return min(suspects, key=lambda f: order[f.rule], default=None)


def _others(failures: Sequence[tuple[str, AttnDeployError]], chosen: AttnDeployError, label: str) -> str:
    for name, error in failures:
        if error is not chosen and (error.rule is None or error.rule != chosen.rule):
            text = str(error).removeprefix(f"{label}: ")
            return f" ({name} failed too: {text if len(text) <= 160 else text[:160] + '...'})"
    return ""


def _with_rule(error: AttnDeployError, identifier: str | None, more: str) -> AttnDeployError:
    error = type(error)(f"{error}{more}", exit_code=error.exit_code, rule=identifier)
    error.__cause__ = error
    return error
