"""All that can be learned of a model without exporting it: its source, and the calls of a few runs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from attn_deploy.rules.calls import SEEN_IN_CALLS, record_calls
from attn_deploy.rules.finding import Finding
from attn_deploy.rules.ran import noting
from attn_deploy.rules.source import read_source


def examine(model: nn.Module, examples: Sequence[tuple[Tensor, ...]] = ()) -> tuple[Finding, ...]:
    """What may break an export, from the source and, with ``examples``, in the calls of a run on each.

    A run knows better than the source which calls are made; of such rules only what ran is reported, and nothing of
    functions that did not run.
    """
    read = read_source(model)
    if not examples:
        return read
    with noting(model) as ran:
        seen = record_calls(model, examples)
    read = tuple(f for f in read if not ran.rules_out(f.place))
    words = {(f.rule, f.place.file, f.place.line): f.what for f in read}
    return (
        *(Finding(f.rule, words.get((f.rule, f.place.file, f.place.line), f.what), f.place, f.severity) for f in seen),
        *(f for f in read if f.rule not in SEEN_IN_CALLS or _is_range(f)),
    )


def _is_range(finding: Finding) -> bool:
    """A loop over ``range(batch)`` iterates no tensor, so that no run shows it."""
    return finding.rule == "loop-over-batch" and finding.severity == "error"
