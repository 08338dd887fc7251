"""`attn-deploy deploy`: runs a pipeline's steps, skips what is there, judges the gates and makes the package."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_deploy.errors import AttnDeployError, InvalidRequestError
from attn_deploy.files import alone_in, make_folder, write_atomic
from attn_deploy.pipeline.commands import Commands
from attn_deploy.pipeline.gates import Gate, judge
from attn_deploy.pipeline.plan import (
    MAKERS,
    RESUMABLE,
    PipelinePlan,
    PipelineStep,
    is_own,
    note,
    plan_pipeline,
    was_begun,
)
from attn_deploy.pipeline.settings import PipelineSettings
from attn_deploy.processes import LIFELINE

Progress = Callable[[str], None]
SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What a pipeline came to.

    Attributes:
        folder: of the results.
        artifact: the file to deploy.
        steps: name of each step, and whether it was run or there already.
        gates: and what came of them.
        package: the folder of the package; empty where none was asked for, or a gate failed.
    """

    folder: str
    artifact: str
    steps: tuple[tuple[str, str], ...]
    gates: tuple[Gate, ...]
    package: str

    @property
    def passed(self) -> bool:
        """Whether all gates hold."""
        return all(g.passed for g in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "passed": self.passed}


def run_pipeline(settings: PipelineSettings, commands: Commands, *, progress: Progress | None = None) -> PipelineResult:
    """Run what is not there already; a step that was stopped goes on, and what was finished is kept.

    Raises:
        AttnDeployError: if a step fails; the message is its own, and the exit code too.
    """
    report = progress or (lambda _: None)
    plan = plan_pipeline(settings, commands)
    make_folder(plan.folder)
    with alone_in(plan.folder, "deploying"):
        return _run_plan(plan_pipeline(settings, commands), settings, report)  # another may have ended meanwhile


def _run_plan(plan: PipelinePlan, settings: PipelineSettings, report: Progress) -> PipelineResult:
    done: list[tuple[str, str]] = []
    changed = False
    for step in plan.steps:
        if step.cached and not changed:
            done.append((step.name, "there already"))
            continue
        _run(step, plan.folder, settings.folder, report)
        done.append((step.name, "run"))
        changed = changed or step.command in MAKERS
    gates = judge(settings.gates, plan, settings.folder)
    package = ""
    if plan.package is not None and all(g.passed for g in gates):
        package = str(plan.package.output)
        if plan.package.cached and not any(w == "run" for _, w in done):
            done.append(("package", "there already"))
        else:
            _run(plan.package, plan.folder, settings.folder, report)
            done.append(("package", "run"))
    result = PipelineResult(str(plan.folder), str(plan.artifact), tuple(done), gates, package)
    write_atomic(plan.folder / SUMMARY, json.dumps(result.to_dict(), indent=1) + "\n")
    return result


def plan_of(settings: PipelineSettings, commands: Commands) -> PipelinePlan:
    """What `run_pipeline` would run."""
    return plan_pipeline(settings, commands)


def _run(step: PipelineStep, folder: Path, cwd: Path, progress: Progress) -> None:
    """Run one step in a process of its own.

    Raises:
        AttnDeployError: if it fails.
    """
    resumed = was_begun(folder, step) and step.command in RESUMABLE
    if not is_own(folder, step):
        raise InvalidRequestError(
            f"the step {step.name} would write {step.output}, which is there and was not made by this pipeline; move it, or "
            "name another output."
        )
    if not resumed:
        _remove(step.output)
    step.output.parent.mkdir(parents=True, exist_ok=True)
    note(folder, step, finished=False)
    argv = [*step.argv, RESUMABLE[step.command]] if resumed else list(step.argv)
    progress(f"{step.name}: attn-deploy {' '.join(argv)}")
    source = str(Path(__file__).resolve().parents[2])  # the same attn-deploy, wherever the file lies
    paths = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH")) if p)
    process: subprocess.Popen[str] | None = None
    watched, held = os.pipe()  # a step whose pipeline is killed ends with it
    try:
        with _signals_waiting():
            process = subprocess.Popen(
                [sys.executable, "-m", "attn_deploy", *argv],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": paths, LIFELINE: f"{os.getpid()}:{watched}"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=(watched,) if os.name == "posix" else (),
            )
        _, errors = process.communicate()
    except KeyboardInterrupt:
        if process is not None:
            process.terminate()
            process.communicate()
        raise
    finally:
        os.close(watched)
        os.close(held)
    if process.returncode != 0:
        lines = [line for line in errors.strip().splitlines() if line.strip()]
        reason = lines[-1].removeprefix("error: ") if lines else f"it ended with {process.returncode}"
        raise AttnDeployError(f"the step {step.name} failed: {reason}", exit_code=max(1, process.returncode))
    if not step.output.exists():
        raise AttnDeployError(f"the step {step.name} ended well and wrote no {step.output}.")
    note(folder, step, finished=True)


@contextlib.contextmanager
def _signals_waiting() -> Iterator[None]:
    """Ctrl-C is answered after the block: a step that is cut off from who starts it would go on alone."""
    if threading.current_thread() is not threading.main_thread():  # which no signal interrupts
        yield
        return
    came: list[int] = []
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if came:
        signal.raise_signal(came[0])


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
