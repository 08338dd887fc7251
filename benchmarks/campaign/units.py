"""Units of work of a step: each leaves one record, whole or not at all, and is not done twice.

    OUT/latency/resnet18.json     a unit that is done: what it measured, or why it could not
    OUT/latency/RUNNING           the unit that is in progress; what is there when a step begins was killed or died

No torch, and nothing that Python 3.10 lacks.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_deploy.files import write_atomic

SCHEMA_VERSION = 1
RUNNING = "RUNNING"


@dataclass(frozen=True)
class Unit:
    """Something that is measured.

    Attributes:
        name: of its record, unique within the step.
        work: measures it; returns JSON-ready data, whose key ``line`` is what the log shows.
        seconds: that it is expected to take on a GPU; it is not begun with less than half of them left.
    """

    name: str
    work: Callable[[], Mapping[str, Any]]
    seconds: float = 5.0


@dataclass(frozen=True)
class Settings:
    """What all steps are given.

    Attributes:
        out: the campaign's folder.
        rehearse: CPU runtimes in place of GPU ones, tiny sizes.
        data_dir: where CIFAR-10 is; None to look where `attn_deploy.data` looks.
        graphs: the folder that the step ``prepare`` filled.
        deadline: `time.monotonic` at which the step's share is spent.
    """

    out: Path
    rehearse: bool
    data_dir: str | None
    graphs: Path
    deadline: float

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


class StepFolder:
    """The records of one step."""

    def __init__(self, out: Path, step: str) -> None:
        self.step = step
        self.path = out / step
        self.path.mkdir(parents=True, exist_ok=True)

    def file(self, unit: str) -> Path:
        """Where a unit's record is."""
        return self.path / f"{unit}.json"

    def done(self, unit: str) -> bool:
        """Whether a unit left its record."""
        return self.file(unit).exists()

    def write(self, unit: str, status: str, data: Mapping[str, Any], seconds: float) -> None:
        """Leave a record."""
        record = {
            "schema_version": SCHEMA_VERSION,
            "step": self.step,
            "unit": unit,
            "status": status,
            "seconds": round(seconds, 3),
            **data,
        }
        write_atomic(self.file(unit), json.dumps(record, indent=1) + "\n")

    def bury(self) -> str | None:
        """A record of failure for the unit that was in progress when the last process ended; its name, if there was one."""
        marker = self.path / RUNNING
        if not marker.exists():
            return None
        unit, begun = json.loads(marker.read_text(encoding="utf-8"))
        if not self.done(unit):
            words = "the process ended while this was measured: killed at the end of its share, or crashed"
            self.write(unit, "failed", {"reason": words, "line": f"{unit}: {words}"}, time.time() - begun)
        marker.unlink()
        return str(unit)


def run_units(units: list[Unit], settings: Settings, folder: StepFolder) -> None:
    """All that is not done, in order, until the share is spent; a unit that fails costs its own record.

    Prints one line for each.
    """
    for unit in units:
        if folder.done(unit.name):
            continue
        if settings.left < unit.seconds / 2:
            say(f"{folder.step}/{unit.name}: left out, {max(0.0, settings.left):.0f} s of the share remain")
            continue
        marker = folder.path / RUNNING
        write_atomic(marker, json.dumps([unit.name, time.time()]))
        started = time.perf_counter()
        try:
            data: Mapping[str, Any] = unit.work()
            status = "ok"
        except Exception as error:  # whatever a library raises: the next unit goes on
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            where = traceback.extract_tb(error.__traceback__)[-1]
            data = {"reason": reason, "at": f"{Path(where.filename).name}:{where.lineno}", "line": reason[:300]}
            status = "failed"
        seconds = time.perf_counter() - started
        folder.write(unit.name, status, data, seconds)
        marker.unlink()
        say(
            f"{folder.step}/{unit.name}: {'' if status == 'ok' else 'FAILED '}{data.get('line', 'done')} [{seconds:.1f} s]"
        )


def say(text: str) -> None:
    """A line for the tail of a log."""
    print(text, flush=True)
