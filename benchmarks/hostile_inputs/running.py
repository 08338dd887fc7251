"""One case run in a process of its own, and the column of the table that it belongs to."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import onnx

from hostile_inputs.case import MARK, OLD, Case
from hostile_inputs.world import befall

HANG = 120.0  # seconds of wall time; those of a machine that has other work
HANG_CPU = 60.0  # seconds of processor time
BAD = ("tracebacks", "deaths", "hangs", "silent", "lost", "code runs")
COLUMNS = ("refused", "done", "contained", *BAD)


def run(case: Case, folder: Path) -> tuple[int | None, str]:
    """The exit code of a command, None for a hang, and what it printed."""
    output = folder.parent / f"{folder.name}.output"
    began = os.times()
    pid = os.fork()
    if pid == 0:
        _be_the_command(case, folder, output)
    end = time.monotonic() + HANG * 5
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            now = os.times()
            used = now.children_user + now.children_system - began.children_user - began.children_system
            text = output.read_text(errors="replace")
            output.unlink()
            return (None if used > HANG_CPU else os.waitstatus_to_exitcode(status)), text
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    text = output.read_text(errors="replace")
    output.unlink()
    return None, text


def _be_the_command(case: Case, folder: Path, output: Path) -> None:
    os.setsid()
    os.chdir(folder)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.close(handle)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = ["attn-deploy", *case.command]
    os.environ.update(case.environment)
    code = 99
    try:
        befall(case.faults)
        from attn_deploy.__main__ import main

        main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    finally:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        os._exit(code)


def judged(case: Case, code: int | None, text: str, folder: Path) -> str:
    """The column of the table that a case belongs to."""
    if any(folder.rglob(MARK)) or Path(MARK).exists():
        Path(MARK).unlink(missing_ok=True)
        return "code runs"
    if code is None:
        return "hangs"
    if "Traceback (most recent call last)" in text or "This is a bug" in text or code in (70, 99):
        return "tracebacks"
    if code < 0:
        return "deaths"
    if _lost(case, code, folder):
        return "lost"
    if code == 0:
        missing = case.output and not _whole(folder / case.output)
        silent = case.must_fail or (case.must_say and case.must_say not in text) or missing
        return "silent" if silent else "done"
    return "contained" if "crashed (SIG" in text else "refused"


def _lost(case: Case, code: int, folder: Path) -> bool:
    """Whether something is gone that was there, half-written, or left behind."""
    precious = folder / "precious"
    if precious.is_dir() and len(list(precious.rglob("data"))) != 2:
        return True
    if list(folder.rglob(".attn-deploy-*")):
        return True
    target = folder / case.output
    return bool(case.output) and code != 0 and target.is_file() and target.read_bytes() != OLD and not _whole(target)


def _whole(path: Path) -> bool:
    """Whether an output is there, and can be read."""
    if path.is_dir():
        return True
    if not path.is_file() or path.stat().st_size == 0:
        return False
    if path.suffix == ".onnx":
        try:
            onnx.checker.check_model(onnx.load(path))
        except Exception:  # whatever is wrong with it
            return False
    return True
