"""The rows of a training table from the records of its runs; everything that is computed for the pages is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from attn_deploy.accuracy.metrics import mean_and_spread, wilson_interval
from attn_deploy.accuracy.seeds import SeedDifference, compare_seeds, holm
from attn_deploy.errors import CheckpointError, InvalidRequestError
from attn_deploy.reading import read_typed
from attn_deploy.training.checkpoint import TrainingFolder
from attn_deploy.training.deployed import Deployed, read_deployed
from attn_deploy.training.plan import PLAIN, TablePlan
from attn_deploy.training.record import TrainingRecord

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One module.

    Attributes:
        module: its name, or ``none``; ``model`` the whole name.
        top1: of each finished seed; ``mean`` of them, ``spread`` their standard deviation (None for one seed).
        low, high: 95 % interval of the mean for the number of test images alone: what other images would have given.
        against_plain: the difference to the plain backbone, judged by how much seeds differ; None for that row itself.
        corrected_p: its p value, corrected for the number of rows (Holm); None with too few seeds.
        parameters, macs: of the model; MACs at batch 1, 32x32.
        seconds: mean training time of the finished runs; ``device`` where they ran.
        fp32, int8: the exported file in ONNX Runtime; None where not measured.
        reason: why there is no number, where the module does not fit or its training failed.
        progress: epochs done of a run that has begun and is not finished.
        on_front: no other row is as accurate and faster, or as fast and more accurate.
    """

    module: str
    model: str
    top1: tuple[float, ...] = ()
    mean: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None
    against_plain: SeedDifference | None = None
    corrected_p: float | None = None
    parameters: int | None = None
    macs: int | None = None
    seconds: float | None = None
    device: str | None = None
    fp32: Deployed | None = None
    int8: Deployed | None = None
    reason: str | None = None
    progress: str | None = None
    on_front: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSummary:
    """A table, finished or not.

    Attributes:
        plan: what it is of, as data.
        rows: in the order of the plan.
        environments: processor and software of the runs, each once.
        arithmetics: what the runs were computed in, and why, each once.
        busy: the highest load that a run began or a latency was measured under; None where the machine was idle.
    """

    plan: dict[str, Any]
    rows: tuple[TableRow, ...]
    environments: tuple[str, ...]
    busy: float | None
    arithmetics: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def summarise_table(root: Path, plan: TablePlan) -> TableSummary:
    """The rows from what is in the folder.

    Raises:
        CheckpointError: if a record cannot be read.
    """
    environments: dict[str, None] = {}
    arithmetics: dict[str, None] = {}
    loads: list[float] = []
    rows = [_row(root, plan, module, environments, arithmetics, loads) for module in plan.modules]
    front = pareto_front([(r.fp32.p50_ms, r.mean) if r.fp32 and r.mean is not None else None for r in rows])
    marked = _against_plain([_marked(row, index in front) for index, row in enumerate(rows)])
    loads += [f.busy for r in marked for f in (r.fp32, r.int8) if f is not None and f.busy is not None]
    return TableSummary(
        plan=plan.to_dict(),
        rows=tuple(marked),
        environments=tuple(environments),
        arithmetics=tuple(arithmetics),
        busy=max(loads) if loads else None,
    )


def pareto_front(points: Sequence[tuple[float, float] | None]) -> set[int]:
    """Indices of the points (cost, value) that no other point beats: at most its cost, at least its value, and not both equal."""
    defined = [(i, p) for i, p in enumerate(points) if p is not None]
    return {
        i
        for i, (cost, value) in defined
        if not any(c <= cost and v >= value and (c, v) != (cost, value) for _, (c, v) in defined)
    }


def _row(
    root: Path,
    plan: TablePlan,
    module: str,
    environments: dict[str, None],
    arithmetics: dict[str, None],
    loads: list[float],
) -> TableRow:
    model = plan.name(module)
    finished: list[TrainingRecord] = []
    progress: str | None = None
    reason: str | None = None
    for seed in range(plan.most_seeds):
        run = plan.folder(root, module, seed)
        if (run / "refused.json").exists():
            reason = _reason(run / "refused.json")
        folder = TrainingFolder(run)
        if not folder.begun:
            continue
        record = TrainingRecord.from_dict(folder.read_record())
        environments[_software(record)] = None
        if record.arithmetic:
            arithmetics[record.arithmetic] = None
        if (load := record.environment).busy and load.load_average is not None:
            loads.append(load.load_average)
        if record.finished:
            folder.check_weights()
            finished.append(record)
        else:
            progress = f"seed {seed}: {len(record.history)} of {record.recipe.epochs} epochs"
    if not finished:
        return TableRow(module=module, model=model, reason=reason, progress=progress)
    from attn_deploy.resolve.catalog import count_macs

    top1 = tuple(r.test["top1"] for r in finished if r.test is not None)
    mean, spread = mean_and_spread(top1)
    images = finished[0].test["images"] if finished[0].test is not None else 0
    low, high = wilson_interval(round(mean * images), images)
    files = {f.precision: f for f in read_deployed(plan.folder(root, module, 0) / "deployed.json")}
    return TableRow(
        module=module,
        model=model,
        top1=top1,
        mean=mean,
        spread=spread,
        low=low,
        high=high,
        parameters=finished[0].parameters,
        macs=count_macs(model),
        seconds=sum(r.seconds for r in finished) / len(finished),
        device=finished[0].device,
        fp32=files.get("fp32"),
        int8=files.get("int8"),
        reason=reason,
        progress=progress,
    )


def _against_plain(rows: list[TableRow]) -> list[TableRow]:
    """The rows with their differences to the plain one, which must be there for that."""
    plain = next((r for r in rows if r.module == PLAIN), None)
    if plain is None or not plain.top1:
        return rows
    compared = [compare_seeds(r.top1, plain.top1) if r.top1 and r is not plain else None for r in rows]
    corrected = holm([None if d is None else d.p_value for d in compared])
    return [replace(r, against_plain=d, corrected_p=p) for r, d, p in zip(rows, compared, corrected, strict=True)]


def _marked(row: TableRow, on_front: bool) -> TableRow:
    return replace(row, on_front=on_front) if on_front else row


def _reason(path: Path) -> str:
    try:
        return read_typed(path, _Refusal, "the reason of a row").reason
    except InvalidRequestError as error:
        raise CheckpointError(f"{error} Remove it to try the row again.") from error


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str


def _software(record: TrainingRecord) -> str:
    environment = record.environment
    packages = environment.packages
    where = (
        record.device
        if record.device != "cpu"
        else f"{environment.cpu}, {record.threads} thread{'s' * (record.threads != 1)}"
    )
    return f"{where}; torch {packages.get('torch')}, onnxruntime {packages.get('onnxruntime', 'not installed')}"
