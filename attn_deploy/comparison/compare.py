"""Two profiles of the same things: what changed beyond noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from attn_deploy.accuracy.metrics import binomial_two_sided
from attn_deploy.bench.evidence import AccuracyRow
from attn_deploy.bench.row import ProfileRow
from attn_deploy.bench.statistics import Comparison, compare_rounds
from attn_deploy.comparison.collection import Run
from attn_deploy.errors import InvalidRequestError

Kind = Literal["slower", "faster", "broken", "removed", "repaired", "less accurate", "more accurate"]
REGRESSIONS: tuple[Kind, ...] = ("slower", "broken", "removed", "less accurate")
THRESHOLD = 0.05
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as it was.

    Attributes:
        model, key: the row.
        kind: what happened to it.
        before, after: medians in milliseconds, statuses or accuracies, in words.
        detail: the interval, the reason or the probability.
        ratio: time after over time before, where it is about time.
    """

    model: str
    key: str
    kind: Kind
    before: str
    after: str
    detail: str
    ratio: float | None = None

    @property
    def regression(self) -> bool:
        """Whether it is for the worse."""
        return self.kind in REGRESSIONS


@dataclass(frozen=True, slots=True)
class ProfileDiff:
    """What changed from one set of records to another.

    Attributes:
        changes: beyond noise, regressions first.
        same: rows that did not change beyond noise; ``undecided`` those with too few rounds to tell.
        removed, added: rows that only one side has, as model and key.
        unmeasured: rows that both have, and that have no number in either.
        notes: what makes the comparison weaker.
        threshold: changes of time up to this fraction count as none.
    """

    changes: tuple[Change, ...]
    same: int
    undecided: tuple[str, ...]
    removed: tuple[str, ...]
    added: tuple[str, ...]
    notes: tuple[str, ...]
    threshold: float
    unmeasured: int = 0

    @property
    def compared(self) -> int:
        """Rows that have a number in at least one of the two; with none, nothing was compared."""
        return len({(c.model, c.key) for c in self.changes if c.kind != "removed"}) + self.same + len(self.undecided)

    @property
    def passed(self) -> bool:
        """Whether something was compared, and nothing got worse."""
        return self.compared > 0 and not self.regressions

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes for the worse."""
        return tuple(c for c in self.changes if c.regression)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "passed": self.passed}


def compare_runs(
    before: Sequence[Run],
    after: Sequence[Run],
    *,
    threshold: float = THRESHOLD,
    alpha: float = ALPHA,
    confidence: float = 0.95,
    allow_removed: bool = False,
) -> ProfileDiff:
    """Compare records row by row, matched by model, runtime, precision, batch and size.

    A time has changed when the whole interval of its ratio, from a bootstrap over the rounds, lies beyond the
    threshold. An accuracy has changed when McNemar's exact test says so.

    Args:
        before: the earlier records.
        after: the later ones.
        threshold: two sessions of one model differ by memory layout and by what the machine was doing; changes up to
            this fraction count as none.
        alpha: probability below which a difference in accuracy is one.
        confidence: of the intervals.
        allow_removed: let rows be missing from the later records; otherwise one that had a number is a regression, since
            a check that no longer measures what it did would pass for ever.

    Raises:
        InvalidRequestError: if the two have no row in common, the threshold is not from 0 to 10, or the confidence or alpha not
            between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InvalidRequestError(f"the confidence is {confidence:g}, and must lie between 0 and 1, such as 0.95.")
    if not 0 < alpha < 1:
        raise InvalidRequestError(f"alpha is {alpha:g}, and must lie between 0 and 1, such as {ALPHA:g}.")
    if not 0 <= threshold <= 10:
        raise InvalidRequestError(
            f"the threshold is {threshold:g}; give a fraction from 0 to 10, such as 0.05 for 5 %."
        )
    old, new = _rows(before), _rows(after)
    common = [k for k in old if k in new]
    if not common:
        raise InvalidRequestError(
            f"the records have nothing in common: the first has {_some(old)}, the second {_some(new)}. Rows are matched "
            "by model, runtime, precision, batch and size."
        )
    changes: list[Change] = []
    undecided, same, unmeasured = [], 0, 0
    for key in common:
        if "ok" not in (old[key].status, new[key].status):
            unmeasured += 1
            continue
        differences = _changes(key, old[key], new[key], threshold, alpha, confidence)
        if isinstance(differences, str):
            undecided.append(f"{key[0]}: {key[1]}")
            continue
        changes += differences
        same += not differences
    if not allow_removed:
        gone = [k for k in old if k not in new and old[k].status == "ok"]
        why = "the later profile has no such row"
        changes += [Change(m, k, "removed", _number(old[m, k]), "not there", why) for m, k in gone]
    order = {k: i for i, k in enumerate((*REGRESSIONS, "repaired", "faster", "more accurate"))}
    return ProfileDiff(
        changes=tuple(sorted(changes, key=lambda c: (order[c.kind], -abs(math.log(c.ratio or 1)), c.model, c.key))),
        same=same,
        undecided=tuple(undecided),
        removed=tuple(f"{m}: {k}" for m, k in old if (m, k) not in new),
        added=tuple(f"{m}: {k}" for m, k in new if (m, k) not in old),
        notes=_notes(before, after, threshold),
        threshold=threshold,
        unmeasured=unmeasured,
    )


def mcnemar_bound(before: AccuracyRow, after: AccuracyRow) -> float:
    """The largest p that McNemar's exact test can have for two answers to the same images.

    Records keep how many images each got right, and where it differs from the reference, not each answer. The images on
    which two rows differ are at most those on which either differs from a common reference, and at most those that
    either got wrong; more of them make the test weaker, so this errs towards "no difference".
    """
    difference = abs(before.correct - after.correct)
    most = (before.images - before.correct) + (after.images - after.correct)
    apart = [_apart(r) for r in (before, after)]
    if before.reference == after.reference and before.reference and None not in apart:
        reference = [r.correct - (r.only_this or 0) + (r.only_reference or 0) for r in (before, after)]
        if reference[0] == reference[1]:  # the same model stood behind both
            most = min(most, sum(a or 0 for a in apart))
    most = max(most, difference)
    most -= (most - difference) % 2  # what one side lost and gained cancels in pairs
    return binomial_two_sided((most - difference) // 2, most)


def _apart(row: AccuracyRow) -> int | None:
    if row.only_reference is None or row.only_this is None:
        return None
    return row.only_reference + row.only_this


def _rows(runs: Sequence[Run]) -> dict[tuple[str, str], ProfileRow]:
    machines = len({r.machine for r in runs}) > 1
    rows = {}
    for run in runs:
        name = f"{run.record.name} · {run.machine}" if machines else run.record.name
        for row in run.record.rows:
            rows[name, row.key] = row
    return rows


def _changes(
    key: tuple[str, str], old: ProfileRow, new: ProfileRow, threshold: float, alpha: float, confidence: float
) -> list[Change] | str:
    model, name = key
    if old.status == "ok" and new.status != "ok":
        return [Change(model, name, "broken", "ok", new.status, new.reason)]
    if old.status != "ok" and new.status == "ok":
        return [Change(model, name, "repaired", old.status, "ok", old.reason)]
    changes: list[Change] = []
    if old.latency is not None and new.latency is not None:
        ratio = compare_rounds(old.latency.rounds, new.latency.rounds, confidence=confidence, margin=threshold)
        if ratio.verdict == "undecided":
            return f"{ratio.rounds} rounds"
        if ratio.verdict in ("faster", "slower"):
            before, after = f"{old.latency.p50_ms:.4g} ms", f"{new.latency.p50_ms:.4g} ms"
            kind: Kind = "faster" if ratio.verdict == "faster" else "slower"
            changes.append(Change(model, name, kind, before, after, _interval(ratio), 1 / ratio.speedup))
    if old.accuracy is not None and new.accuracy is not None and old.accuracy.sha256 == new.accuracy.sha256:
        p = mcnemar_bound(old.accuracy, new.accuracy)
        if p < alpha:
            kind = "less accurate" if new.accuracy.correct < old.accuracy.correct else "more accurate"
            before, after = f"{old.accuracy.top1:.2%}", f"{new.accuracy.top1:.2%}"
            words = f"McNemar p at most {p:.2g} over {new.accuracy.images} images"
            changes.append(Change(model, name, kind, before, after, words))
    return changes


def _number(row: ProfileRow) -> str:
    return f"{row.latency.p50_ms:.4g} ms" if row.latency is not None else row.status


def _interval(comparison: Comparison) -> str:
    low, high = 100 * (1 / comparison.interval.high - 1), 100 * (1 / comparison.interval.low - 1)
    return f"{low:+.1f} % to {high:+.1f} %"


def _notes(before: Sequence[Run], after: Sequence[Run], threshold: float) -> tuple[str, ...]:
    notes = []
    machines = [sorted({r.machine for r in runs}) for runs in (before, after)]
    if machines[0] != machines[1]:
        notes.append(
            f"the machines differ ({', '.join(machines[0])}; {', '.join(machines[1])}): their times differ for that reason too"
        )
    threads = [sorted({r.record.options.threads or 0 for r in runs}) for runs in (before, after)]
    if threads[0] != threads[1]:
        notes.append(f"the numbers of threads differ ({threads[0]}; {threads[1]})")
    if any(r.record.environment.busy for r in (*before, *after)):
        notes.append("a machine was busy while it measured")
    sets = [{x.accuracy.sha256 for r in runs for x in r.record.rows if x.accuracy} for runs in (before, after)]
    if sets[0] and sets[1] and not sets[0] & sets[1]:
        notes.append("accuracies are over different images, and were not compared")
    if threshold == 0:
        notes.append("with a threshold of 0 the layout of memory alone can look like a change")
    return tuple(notes)


def _some(rows: dict[tuple[str, str], ProfileRow]) -> str:
    shown = [f"{m} ({k})" for m, k in list(rows)[:2]]
    return ", ".join(shown) + (f" and {len(rows) - 2} more" if len(rows) > 2 else "")
