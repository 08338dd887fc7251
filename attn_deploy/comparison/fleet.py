"""One plan on every accelerator type of a Ray cluster, and the records side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attn_deploy.bench.plan import ProfilePlan
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.comparison.collection import CPU, RECORD_NAME, Run, named_runs
from attn_deploy.errors import InvalidRequestError, MissingDependencyError, WorkerError
from attn_deploy.files import scratch_folder, write_atomic

Tell = Callable[[str], None]
_PREFIX = "accelerator_type:"


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """What a cluster measured.

    Attributes:
        records: by accelerator type; each names its type in ``device``.
        failures: why there is no record of a type.
        stopped: types that Ctrl-C left to be made.
    """

    records: Mapping[str, ProfileRecord]
    failures: Mapping[str, str]
    stopped: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every type has a record whose rows all have a number."""
        return (
            not self.failures
            and not self.stopped
            and bool(self.records)
            and all(r.passed for r in self.records.values())
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        records = {t: r.to_dict() for t, r in self.records.items()}
        return {"records": records, "failures": dict(self.failures), "stopped": list(self.stopped)}

    def runs(self, folder: Path) -> tuple[Run, ...]:
        """The records as the runs of one report; ``folder`` is where they were saved."""
        return named_runs([(folder / _plain(t) / RECORD_NAME, r, ()) for t, r in self.records.items()])


def profile_fleet(
    plan: ProfilePlan, *, save: Path | str, resume: bool = False, memory: bool = True, progress: Tell | None = None
) -> FleetRecord:
    """Make a plan once on each accelerator type of the cluster that ``RAY_ADDRESS`` names.

    Each type's share runs in a task of its own, as soon as the cluster has a free node, and there in processes of its
    own (see `attn_deploy.profile`). Each record is written when it comes; after Ctrl-C those are kept, and the rest is
    cancelled. Nodes need the same version of this package, and the plan's files under the same
    paths. A cluster without accelerators is measured on one of its nodes.

    Args:
        plan: see `attn_deploy.bench.request.plan_profile`.
        save: a folder; each type gets a folder in it, with its record.
        resume: keep the records that are whole.
        memory: as `attn_deploy.profile`.
        progress: called with a few words at each step.

    Raises:
        InvalidRequestError: if the folder cannot be written, or holds records and ``resume`` is not given.
        MissingDependencyError: if Ray is not installed.
        WorkerError: if no type could be measured.
    """
    report = progress or (lambda _: None)
    folder = Path(save)
    kept = _kept(folder, resume)
    ray = connect()
    types = accelerator_types(ray)
    pending = {}
    for kind, gpus in types.items():
        if kind not in kept:
            report(f"waiting for {kind}")
            resources = {} if kind == CPU else {_PREFIX + kind: 0.001}
            task = ray.remote(num_cpus=1, num_gpus=gpus, resources=resources, max_retries=0, max_calls=1)(_measure)
            pending[task.remote(plan.to_dict(), memory)] = kind
    records, failures = dict(kept), {}

    def take(done: Any) -> None:
        kind = pending.pop(done)
        try:
            record = replace(ProfileRecord.from_dict(json.loads(ray.get(done))), device=kind)
        except Exception as error:  # whatever a node raises comes wrapped in a class that Ray makes for it
            failures[kind] = _cause(error)
            report(f"{kind} failed: {failures[kind]}")
            return
        place = folder / _plain(kind)
        place.mkdir(parents=True, exist_ok=True)
        record.write(place / RECORD_NAME)
        records[kind] = record
        report(f"{kind} is measured")

    try:
        while pending:
            (done, *_), _ = ray.wait(list(pending), num_returns=1)
            take(done)
    except KeyboardInterrupt:
        # What came while another was written is whole, and must not be measured again.
        for done in ray.wait(list(pending), num_returns=len(pending), timeout=0)[0] if pending else ():
            take(done)
        for task in pending:
            ray.cancel(task)
    stopped = tuple(pending.values())
    state = {"types": list(types), "failures": failures, "stopped": stopped}
    write_atomic(folder / "fleet.json", json.dumps(state, indent=1) + "\n")
    if failures and not records and not stopped:
        reasons = "; ".join(f"{k}: {why}" for k, why in failures.items())
        raise WorkerError(f"the plan could not be run on any of {', '.join(failures)}: {reasons}")
    return FleetRecord({t: records[t] for t in types if t in records}, failures, stopped)


def accelerator_types(ray: Any) -> dict[str, float]:
    """The accelerator types of the cluster, with the GPUs that a task on one must ask for.

    A cluster that has none is measured as ``cpu``.
    """
    types: dict[str, float] = {}
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        for name in node["Resources"]:
            if name.startswith(_PREFIX):
                types[name.removeprefix(_PREFIX)] = 1.0 if node["Resources"].get("GPU") else 0.0
    return dict(sorted(types.items())) or {CPU: 0.0}


def connect() -> Any:
    """Ray, connected to the cluster that ``RAY_ADDRESS`` names, or to one started here.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "ray is not installed; it runs a profile on every accelerator type of a cluster: "
            "pip install 'attn-deploy[ray]', or leave --executor ray out."
        ) from error
    if not ray.is_initialized():
        local: dict[str, Any] = {"include_dashboard": False}
        ray.init(log_to_driver=False, **({} if os.environ.get("RAY_ADDRESS") else local))
    return ray


def _measure(plan: dict[str, Any], memory: bool) -> str:
    """On a node: the record as JSON."""
    from attn_deploy.bench.isolated import ChildMaker
    from attn_deploy.bench.profiler import run_plan
    from attn_deploy.bench.request import with_threads

    wanted = with_threads(ProfilePlan.from_dict(plan))
    with scratch_folder() as folder:
        maker = ChildMaker(wanted, Path(folder), memory=memory, progress=lambda _: None)
        return run_plan(wanted, maker, None).to_json()


def _kept(folder: Path, resume: bool) -> dict[str, ProfileRecord]:
    """Whole records of an earlier run, by type; a broken one is made again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequestError(
            f"the folder {str(folder)!r} cannot be written: {error.strerror or error}; choose another."
        ) from error
    records = sorted(folder.glob("*/record.json"))
    if records and not resume:
        raise InvalidRequestError(
            f"{folder} already holds records ({', '.join(p.parent.name for p in records)}); continue it with --resume, or choose "
            "another folder."
        )
    kept = {}
    for path in records:
        try:
            record = ProfileRecord.read(path)
        except InvalidRequestError:
            continue
        if not record.unfinished and record.device:
            kept[record.device] = record
    return kept


def _cause(error: Exception) -> str:
    inner = getattr(error, "cause", None) or error
    return " ".join(str(inner).split())[:500] or type(inner).__name__


def _plain(kind: str) -> str:
    """A type as the name of a folder."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in kind)
