"""One run, one folder: the plan, the rows of each shape as they come, the files that were timed, the record."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.bench.plan import ProfilePlan, Shape, Variant
from attn_deploy.bench.row import ProfileRow
from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import make_folder, write_atomic
from attn_deploy.machine.environment import Environment
from attn_deploy.reading import read_json

PLAN, RECORD = "plan.json", "record.json"


class ProfileStore:
    """A folder that holds what is finished of a profile.

    The rows of one shape are kept together, because they were timed in turn: a shape is made whole or made again. What
    was measured with other versions, or on another machine, is made again too.

    Args:
        folder: made if it is not there.
        plan: what is to be made.
        resume: go on with what lies there; without it, a folder that holds a profile is refused.
        progress: is called with what is made again, and why.

    Raises:
        InvalidRequestError: if the folder cannot be written, holds a profile and ``resume`` is not given, or holds one
            that was asked for something else.
    """

    def __init__(self, folder: Path, plan: ProfilePlan, *, resume: bool, progress: Callable[[str], None]) -> None:
        self._folder, self._progress = folder, progress
        self.files, self.record = folder / "files", folder / RECORD
        self._begun_before = (folder / PLAN).exists()
        for part in (self.files, folder / "rows", folder / "accuracy"):
            make_folder(part)
        if (folder / PLAN).exists():
            if not resume:
                raise InvalidRequestError(
                    f"{folder} already holds a profile; continue it with --resume, or choose another folder."
                )
            changed = plan.differences(read_plan(folder))
            if changed:
                raise InvalidRequestError(
                    f"{folder} holds a profile of another plan: {'; '.join(changed)}. Only batch sizes and sizes may be "
                    "added; choose another folder for the rest."
                )
        self._write(folder / PLAN, plan.to_dict())

    def forget(self) -> None:
        """Take out what was put here, where nothing has come of it: the next try finds the folder as this one did."""
        if self._begun_before:
            return
        (self._folder / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.files, ignore_errors=True)
        for part in ("rows", "accuracy"):
            with contextlib.suppress(OSError):  # what somebody else keeps there stays
                (self._folder / part).rmdir()

    def read(self, shape: Shape, environment: Environment) -> list[ProfileRow] | None:
        """The rows of a shape, if they were finished in this environment."""
        path = self._rows(shape)
        data = self._load(path, f"the rows of {shape.key}")
        if data is None:
            return None
        if data.get("made_in") != _identity(environment):
            self._progress(f"{shape.key} was measured with other versions or on another machine, and is measured again")
            return None
        try:
            return [ProfileRow.from_dict(r) for r in data["rows"]]
        except (LookupError, TypeError, InvalidRequestError) as error:
            self._progress(f"{path} is broken ({error}); {shape.key} is measured again")
            return None

    def write(self, shape: Shape, rows: Sequence[ProfileRow], environment: Environment) -> None:
        """Keep the rows of a shape."""
        self._write(self._rows(shape), {"made_in": _identity(environment), "rows": [asdict(r) for r in rows]})

    def read_accuracy(self, variant: Variant) -> AccuracyResult | None:
        """The accuracy of a variant, if it was finished."""
        path = self._accuracy(variant)
        data = self._load(path, f"the accuracy of {variant.key}")
        try:
            return AccuracyResult.from_dict(data) if data is not None else None
        except InvalidRequestError as error:
            self._progress(f"{path} is broken ({error}); it is measured again")
            return None

    def write_accuracy(self, variant: Variant, result: AccuracyResult) -> None:
        """Keep the accuracy of a variant, every answer in it."""
        result.write(self._accuracy(variant))

    def _rows(self, shape: Shape) -> Path:
        return self._folder / "rows" / f"{shape.key}.json"

    def _accuracy(self, variant: Variant) -> Path:
        return self._folder / "accuracy" / f"{variant.key.replace(' ', '-')}.json"

    def _load(self, path: Path, what: str) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        try:
            data = read_json(path)
        except InvalidRequestError as error:
            self._progress(f"{error} So {what} are measured again")
            return None
        return data if isinstance(data, dict) else None

    def _write(self, path: Path, data: Any) -> None:
        write_atomic(path, json.dumps(data, default=str) + "\n")


def read_plan(folder: Path) -> ProfilePlan:
    """The plan of a run.

    Raises:
        InvalidRequestError: if the folder holds none, or it cannot be read.
    """
    path = folder / PLAN
    if not path.is_file():
        raise InvalidRequestError(f"{folder} holds no profile: there is no {path}.")
    try:
        return ProfilePlan.from_dict(read_json(path))
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{path} is broken: {error} Choose another folder, or remove this one.") from error


def _identity(environment: Environment) -> dict[str, Any]:
    """What must be the same for two measurements to stand in one record."""
    return {
        "cpu": environment.cpu,
        "cores": environment.usable_cores,
        "gpus": [g.name for g in environment.gpus],
        "packages": {n: v for n, v in environment.packages.items() if n != "attn-deploy"},
        "python": environment.python,
    }
