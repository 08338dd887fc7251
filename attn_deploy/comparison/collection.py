"""Records of several runs, read from files and folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_deploy import reading
from attn_deploy.bench.layers import LAYERS_NAME, LayerReport
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.errors import InvalidRequestError
from attn_deploy.machine.environment import Environment

RECORD_NAME = "record.json"
CPU = "cpu"  # the type of a cluster's node that has no accelerator: it is named as the same machine without a cluster
_MARKS = {
    "schema_version",
    "name",
    "environment",
    "options",
    "rows",
    "baseline",
}  # what tells a profile from other JSON
_OTHERS = ({"recipe", "history"}, {"cells", "counts"})  # fields of a training's record, and of a matrix's


@dataclass(frozen=True, slots=True)
class Run:
    """One record and where it comes from.

    Attributes:
        label: model and machine, with the time where two runs have both in common.
        machine: in a few words.
        path: of the file.
        record: what it holds.
        layers: the per-layer views that were saved beside it.
    """

    label: str
    machine: str
    path: Path
    record: ProfileRecord
    layers: tuple[LayerReport, ...] = ()


def read_runs(paths: Iterable[Path | str]) -> tuple[Run, ...]:
    """Read every record that the paths name.

    Args:
        paths: record files, and folders: the ``record.json`` of each folder below, or, where there is none of that name,
            every ``.json`` file in which a profile stands.

    Raises:
        InvalidRequestError: if a path does not exist, a folder holds no record, or a record is broken or of another
            schema version; the message names the file.
    """
    records: dict[Path, ProfileRecord] = {}
    for path in map(Path, paths):
        for file in _files(path):
            records.setdefault(file.resolve(), read_profile_record(file))
    if not records:
        raise InvalidRequestError("no record was named; give the folder or the file of a profile that was saved.")
    return named_runs([(path, record, _layers(path)) for path, record in records.items()])


def named_runs(records: Sequence[tuple[Path, ProfileRecord, tuple[LayerReport, ...]]]) -> tuple[Run, ...]:
    """The runs under labels that tell them apart, in order of model and machine."""
    machines = [machine_label(r.environment, r.device) for _, r, _ in records]
    several = len(set(machines)) > 1
    plain = [f"{r.name} · {m}" if several else r.name for (_, r, _), m in zip(records, machines, strict=True)]
    runs = []
    for (path, record, layers), machine, label in zip(records, machines, plain, strict=True):
        full_label = f"{label} · {record.created}" if plain.count(label) > 1 and record.created else label
        runs.append(Run(full_label, machine, path, record, layers))
    labels = [r.label for r in runs]
    runs = [
        Run(f"{r.label} · {r.path.parent.name}/{r.path.name}", r.machine, r.path, r.record, r.layers)
        if labels.count(r.label) > 1
        else r
        for r in runs
    ]
    return tuple(sorted(runs, key=lambda r: (r.record.name, r.machine, r.record.created, r.label)))


def machine_label(environment: Environment, device: str = "") -> str:
    """A machine in a few words: its GPU, else its accelerator type, else its processor with the cores that were usable."""
    if environment.gpus:
        return environment.gpus[0].name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    cores = environment.usable_cores
    if device and device != CPU:
        return device
    return f"{environment.cpu}, {cores} core{'s' * (cores != 1)}"


def is_profile(data: Any) -> bool:
    """Whether JSON data are meant to be a profile record, be it of another version or one that has lost a field."""
    return isinstance(data, dict) and len(_MARKS - set(data)) <= 1


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidRequestError(f"{path} does not exist; name a record, or a folder that holds one.")
    records = [p for p in sorted(path.rglob(RECORD_NAME)) if not _is_of_another_kind(p)]
    if records:
        return records
    others = [p for p in sorted(path.rglob("*.json")) if p.name != LAYERS_NAME and is_profile(read_possible_record(p))]
    if not others:
        raise InvalidRequestError(f"{path} holds no profile record; save one with attn-deploy profile NAME -o {path}.")
    return others


def _is_of_another_kind(path: Path) -> bool:
    """Whether a ``record.json`` among others is that of a training or a matrix; a broken one is not passed over."""
    try:
        data = reading.read_json(path)
    except InvalidRequestError:
        return False
    return isinstance(data, dict) and any(marks <= set(data) for marks in _OTHERS)


def read_possible_record(path: Path) -> Any:
    """The data of a file among others; a broken one may have been a record, so it is told."""
    try:
        return reading.read_json(path)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{error} Repair or remove it.") from error


def read_profile_record(path: Path) -> ProfileRecord:
    """Read one record; every error names the file.

    Raises:
        InvalidRequestError: if it is broken, of another schema version, or holds no rows.
    """
    try:
        record = ProfileRecord.read(path)
    except InvalidRequestError as error:
        if str(path) in str(error):
            raise
        raise InvalidRequestError(f"{path}: {error}") from error
    except (ValueError, LookupError, RecursionError) as error:
        raise InvalidRequestError(f"{path}: the record is broken: {error}.") from error
    if not record.rows:
        raise InvalidRequestError(f"{path}: the record has no rows; nothing was measured.")
    return record


def _layers(path: Path) -> tuple[LayerReport, ...]:
    beside = path.with_name(LAYERS_NAME)
    return LayerReport.read_all(beside) if beside.is_file() else ()
