"""What must hold before a pipeline's package is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.comparison.collection import read_runs
from attn_deploy.comparison.compare import compare_runs
from attn_deploy.errors import InvalidRequestError
from attn_deploy.pipeline.plan import PipelinePlan

_LOSS = 0.005  # of top-1 that a later run may have without being worse


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate and what came of it.

    Attributes:
        name: as in the file.
        passed: whether it holds.
        words: both values.
    """

    name: str
    passed: bool
    words: str


def judge(gates: Mapping[str, Any], plan: PipelinePlan, folder: Path) -> tuple[Gate, ...]:
    """Every gate of a pipeline, from what its steps wrote.

    Args:
        gates: name and limit of each.
        plan: the steps, which were run.
        folder: that the paths in the gates are relative to.

    Raises:
        InvalidRequestError: if a baseline is missing, or was made of no profile.
    """
    results = []
    for name, limit in gates.items():
        if name == "max_latency_ms":
            results.append(_latency(float(limit), _profile(plan.output_of("profile"))))
        elif name == "min_top1":
            top1 = _top1(plan.output_of("evaluate"))
            results.append(Gate(name, top1 >= limit, f"top-1 is {top1:.2%}, and must be at least {limit:.2%}"))
        elif name == "max_size_mb":
            size = plan.artifact.stat().st_size / 1e6
            results.append(Gate(name, size <= limit, f"{plan.artifact.name} has {size:.3g} MB, and may have {limit:g}"))
        else:
            results.append(_regression(folder / str(limit), plan))
    return tuple(results)


def _profile(path: Path | None) -> ProfileRecord:
    return ProfileRecord.read(Path(str(path)) / "record.json")


def _latency(limit: float, profile: ProfileRecord) -> Gate:
    """The fastest row of the smallest batch; rows without a number say nothing."""
    medians = [(r, r.latency.p50_ms) for r in profile.rows if r.status == "ok" and r.latency is not None]
    if not medians:
        return Gate("max_latency_ms", False, "no row of the profile has a number")
    least = min(r.batch for r, _ in medians)
    best, median = min(((r, m) for r, m in medians if r.batch == least), key=lambda pair: pair[1])
    what = f"{best.runtime} {best.precision} b{best.batch}"
    return Gate("max_latency_ms", median <= limit, f"{what} takes {median:.3g} ms (median), and may take {limit:g}")


def _top1(path: Path | None) -> float:
    return AccuracyResult.read(Path(str(path))).top1


def _regression(baseline: Path, plan: PipelinePlan) -> Gate:
    """Against an earlier run's profile, as `attn-deploy compare` does, and its accuracy."""
    name = "no_regression"
    if not (baseline / "profile").is_dir():
        raise InvalidRequestError(
            f"gates.no_regression: {baseline} holds no profile; give the output folder of an earlier run."
        )
    diff = compare_runs(read_runs([baseline / "profile"]), read_runs([Path(str(plan.output_of("profile")))]))
    faults = [] if diff.passed else ["the profile is worse; attn-deploy compare says where"]
    now, before = plan.output_of("evaluate"), baseline / "evaluate.json"
    if now is not None and before.is_file():
        old, new = _top1(before), _top1(now)
        if new < old - _LOSS:
            faults.append(f"top-1 fell from {old:.2%} to {new:.2%}")
    return Gate(name, not faults, "; ".join(faults) or f"nothing is worse than in {baseline.name}")
