"""`attn-deploy train-table`: one backbone with every module in turn, trained alike, tested, exported and timed.

    DIR/table.json            what the table is of
    DIR/resnet8-se-s0/        a training run (see `attn_deploy.training.checkpoint`)
    DIR/resnet8-se-s0/deployed.json
    DIR/resnet8-pyconv-s0/refused.json     why a module has no number
    DIR/summary.json

Every piece is whole or not there, so the whole can be stopped at any moment; shards write to the same folder, or to
folders that are put together afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from attn_deploy import registry
from attn_deploy.data import load_dataset
from attn_deploy.errors import (
    AttnDeployError,
    ExportError,
    GraphError,
    InvalidRequestError,
    ParityError,
    PrecisionError,
    TrainingError,
)
from attn_deploy.files import write_atomic
from attn_deploy.machine.environment import describe_environment
from attn_deploy.resolve.resolve import resolve
from attn_deploy.training.checkpoint import TrainingFolder
from attn_deploy.training.deployed import measure_deployed, write_deployed
from attn_deploy.training.plan import DEPLOYED, PLAIN, PLAN, REFUSED, SUMMARY, TablePlan
from attn_deploy.training.recipe import Recipe
from attn_deploy.training.record import TrainingRecord
from attn_deploy.training.run import RUNS, TrainProgress, train
from attn_deploy.training.summary import TableSummary, summarise_table

FAMILIES = ("attention", "convolution", "context", "fusion")
# Attention of every kind and three convolutions, with groups that fit the 16 channels of small ResNets.
USUAL = (
    "se", "eca", "cbam", "bam", "simam", "coord_attention", "triplet_attention", "ema", "gc", "sge:groups=8",
    "shuffle_attention", "scse", "sk:groups=8", "ghostmodule", "condconv", "dgc",
)  # fmt: skip


def default_folder(backbone: str, dataset: str) -> Path:
    """Where a table stands when no folder is named."""
    from attn_deploy.resolve.names import parse_name

    return RUNS / "train-table" / f"{parse_name(backbone).stem}-{dataset}"


def choose_modules(words: Sequence[str]) -> tuple[str, ...]:
    """The modules of a table, the plain backbone first.

    ``all`` stands for every module that could fill a slot, ``usual`` for those of `USUAL`.

    Raises:
        UnknownModelError: if one is unknown.
        InvalidRequestError: if one is a backbone.
    """
    chosen: list[str] = [PLAIN]
    for word in words:
        if word == "all":
            chosen += [s.name for family in FAMILIES for s in registry.list_models(family)]
        elif word == "usual":
            chosen += USUAL
        elif word != PLAIN:
            spec = registry.get(word.partition(":")[0])
            if spec.family == "backbone":
                raise InvalidRequestError(f"{word!r} is a backbone; name modules, such as se,eca, or all.")
            chosen.append(spec.name + word[len(word.partition(":")[0]) :])
    return tuple(dict.fromkeys(chosen))


def train_table(
    root: Path | str,
    plan: TablePlan,
    *,
    resume: bool = False,
    shard: tuple[int, int] = (1, 1),
    only_report: bool = False,
    device: str | None = None,
    amp: bool | None = None,
    threads: int | None = None,
    data_dir: Path | str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    on_step: Callable[[TrainProgress], None] = lambda _: None,
    on_row: Callable[[TableSummary], None] = lambda _: None,
) -> TableSummary:
    """Train, test, export and time what is missing of a table, and summarise it.

    A module that does not fit, or whose training comes to nothing, becomes a row with the reason; the others go on.

    Args:
        root: the table's folder.
        plan: what the table is of.
        resume: go on with the table in that folder.
        shard: (k, n): of the rows, the k-th of every n.
        only_report: run nothing; summarise what is there.
        device: see `attn_deploy.train`.
        amp: likewise; a run that was begun goes on as it was where nothing is asked for.
        threads: likewise; by default those that a run was begun with.
        data_dir: likewise.
        progress: called with a few words between steps.
        on_step: called after each step of training.
        on_row: called with the summary after each row.

    Raises:
        InvalidRequestError: if the folder holds another table, or holds this one and ``resume`` is not given, or holds
            none and there is nothing to report.
        DatasetError: if the images cannot be had.
    """
    folder = Path(root)
    if only_report:
        require_table(folder)
    plan = _begin(folder, plan, resume or only_report)
    if not only_report:
        own = [m for index, m in enumerate(plan.modules) if index % shard[1] == shard[0] - 1]
        for module in own:
            _row(folder, plan, module, plan.seeds_of(module), device, amp, threads, data_dir, progress, on_step)
            on_row(summarise_table(folder, plan))
        for module in best_modules(folder, plan):
            if module in own:
                seeds = plan.seeds_of(module, among_best=True)
                _row(folder, plan, module, seeds, device, amp, threads, data_dir, progress, on_step)
                on_row(summarise_table(folder, plan))
    summary = summarise_table(folder, plan)
    write_atomic(folder / SUMMARY, json.dumps(summary.to_dict(), indent=1, allow_nan=False) + "\n")
    on_row(summary)
    return summary


def best_modules(folder: Path, plan: TablePlan) -> tuple[str, ...]:
    """The rows that get more seeds, by their first ones: none until every row that can be had is there.

    The choice looks at no further seed, so that it is the same whenever it is made.
    """
    if plan.best < 1 or plan.more_seeds <= plan.seeds:
        return ()
    first = summarise_table(folder, replace(plan, more_seeds=0, best=0)).rows
    if any(len(r.top1) < plan.seeds and r.reason is None for r in first):
        return ()
    ranked = sorted((r for r in first if r.mean is not None and r.module != PLAIN), key=lambda r: -(r.mean or 0.0))
    return tuple(r.module for r in ranked[: plan.best])


def plan_table(
    backbone: str,
    modules: Sequence[str],
    dataset: str,
    recipe: Recipe,
    seeds: int,
    data_dir: Path | str | None = None,
    *,
    more_seeds: int = 0,
    best: int = 0,
) -> TablePlan:
    """A plan, checked: the backbone exists, the modules exist, the images can be had.

    Raises:
        InvalidRequestError: if the backbone is none, or there are no seeds.
        DatasetError: if the images cannot be had.
    """
    spec = resolve(backbone).spec
    if spec is None or spec.family != "backbone" or "+" in backbone:
        raise InvalidRequestError(f"{backbone!r} is not a backbone; `attn-deploy list --family backbone` shows all.")
    if seeds < 1:
        raise InvalidRequestError(f"seeds is {seeds}; it must be at least 1.")
    if best < 0 or more_seeds < 0:
        raise InvalidRequestError(f"best is {best} and more_seeds is {more_seeds}; neither can be negative.")
    source = load_dataset(dataset, "test", data_dir=data_dir).source
    return TablePlan(
        backbone=backbone,
        modules=choose_modules(modules),
        dataset=dataset,
        source=source,
        recipe=recipe,
        seeds=seeds,
        more_seeds=more_seeds,
        best=best,
    )


def require_table(folder: Path) -> None:
    """Refuse a folder in which there is nothing to report.

    Raises:
        InvalidRequestError: if it holds no table.
    """
    if not (folder / PLAN).is_file():
        raise InvalidRequestError(
            f"{folder} holds no table: there is no {folder / PLAN}. Leave out --only-report to train one."
        )


def _begin(folder: Path, plan: TablePlan, resume: bool) -> TablePlan:
    """The plan that holds from now on: a table may grow by modules and seeds, and changes in nothing else."""
    if (folder / PLAN).exists():
        if not resume:
            raise InvalidRequestError(
                f"{folder} already holds a table; continue it with --resume, or choose another folder."
            )
        earlier = TablePlan.read(folder)
        for name in ("backbone", "dataset", "source", "recipe"):
            was, now = getattr(earlier, name), getattr(plan, name)
            if was != now:
                raise InvalidRequestError(f"{folder} holds a table with {name} {was}, and {now} was asked for.")
        plan = replace(
            plan,
            modules=tuple(dict.fromkeys((*earlier.modules, *plan.modules))),
            seeds=max(earlier.seeds, plan.seeds),
            more_seeds=max(earlier.more_seeds, plan.more_seeds),
            best=max(earlier.best, plan.best),
        )
        if plan == earlier:
            return plan
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / PLAN, json.dumps(plan.to_dict(), indent=1) + "\n")
    return plan


def _row(
    root: Path,
    plan: TablePlan,
    module: str,
    seeds: int,
    device: str | None,
    amp: bool | None,
    threads: int | None,
    data_dir: Path | str | None,
    progress: Callable[[str], None],
    on_step: Callable[[TrainProgress], None],
) -> None:
    name = plan.name(module)
    for seed in range(seeds):
        run = plan.folder(root, module, seed)
        if (run / REFUSED).exists():
            return
        progress(f"{name}, seed {seed}")
        try:
            resolve(name)
        except InvalidRequestError as error:
            _refuse(run, name, error)
            return
        try:
            train(
                name,
                dataset=plan.dataset,
                recipe=plan.recipe,
                seed=seed,
                device=device,
                amp=amp,
                threads=threads if threads is not None else _threads_of(run),
                output=run,
                resume=True,
                data_dir=data_dir,
                progress=progress,
                on_step=on_step,
            )
            if seed == 0 and not (run / DEPLOYED).exists():
                files = measure_deployed(run, data_dir=data_dir, progress=progress)
                write_deployed(run / DEPLOYED, files, describe_environment().to_dict())
        except (TrainingError, ExportError, ParityError, GraphError, PrecisionError) as error:
            _refuse(run, name, error)
            return


def _threads_of(run: Path) -> int | None:
    """Those that a run was begun with: with others it could not go on."""
    folder = TrainingFolder(run)
    return TrainingRecord.from_dict(folder.read_record()).threads if folder.begun else None


def _refuse(run: Path, name: str, error: AttnDeployError) -> None:
    run.mkdir(parents=True, exist_ok=True)
    write_atomic(run / REFUSED, json.dumps({"model": name, "reason": str(error)}, indent=1) + "\n")
