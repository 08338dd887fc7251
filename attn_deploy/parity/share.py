"""Comparing a graph in 8 bits with a float one: by the root mean square of the error, of each part of an output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attn_deploy.inputs.tensors import Arrays
from attn_deploy.parity.distance import number_distances
from attn_deploy.parity.report import ParityReport
from attn_deploy.parity.tolerance import TOLERANCES, Tolerance
from attn_deploy.parity.verify import compare_on
from attn_deploy.runtimes.base import Runner, run_once


def compare_by_share(
    reference: Runner,
    candidate: Runner,
    batches: Sequence[Arrays],
    share: float,
    *,
    tolerance: Tolerance = TOLERANCES["int8"],
    jointly: bool = False,
) -> ParityReport:
    """As `compare_on`, by the root mean square: one element of a tensor in 8 bits may well be far off.

    Args:
        reference: what is right.
        candidate: what is tested.
        batches: inputs by name.
        share: what the error of each part of an output may be of the part's right values.
        tolerance: for outputs that are choices.
        jointly: over all batches together, as for single images, of which one may well be worse; otherwise each by itself.
    """
    report = compare_on(reference, candidate, batches, tolerance=tolerance)
    if any(case.max_abs_error is None for case in report.cases):
        return report
    right = [run_once(reference, batch) for batch in batches]
    got = [run_once(candidate, batch) for batch in batches]
    groups = [range(len(batches))] if jointly else [range(k, k + 1) for k in range(len(batches))]
    cases = list(report.cases)
    for group in groups:
        # By parts with scales of their own: scores below 1 beside boxes in pixels would not be seen in one error.
        parts = [
            part
            for name, values in right[group[0]].items()
            if values.dtype.kind not in "biu"
            for part in number_distances(
                name, [right[k][name] for k in group], [got[k][name] for k in group], tolerance
            )
        ]
        if not parts:
            continue
        worst = max(parts, key=lambda part: part.relative)
        ratio = worst.relative / share
        problem = f"{worst}: the error is {worst.relative:.1%}, and {share:.0%} is allowed" if ratio > 1 else ""
        for k in group:
            cases[k] = replace(cases[k], passed=ratio <= 1, ratio=ratio, worst=str(worst), problem=problem)
    return replace(report, cases=tuple(cases))
