"""How the seconds are shared, and the child process that a step runs in.

A step that hangs or crashes costs its own share: its process is ended at the end of it, the unit that was in progress is
recorded as failed, and with time left the step begins again after that unit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from campaign.units import StepFolder, say

# In order of worth, and of what the seconds bring.
WEIGHTS = {"environment": 1.5, "latency": 4.0, "training": 3.0, "prepare": 1.5, "tensorrt": 3.0, "ort": 1.5}
GRACE = 5.0  # seconds between asking a process to end and making it


def shares(steps: Sequence[str], budget: float) -> dict[str, float]:
    """Seconds for each step, by weight; what a step leaves over goes to those after it (see `run_steps`)."""
    whole = sum(WEIGHTS[s] for s in steps)
    return {s: budget * WEIGHTS[s] / whole for s in steps}


def run_steps(script: Path, steps: Sequence[str], budget: float, words: Sequence[str], out: Path) -> dict[str, str]:
    """Each step in a process of its own, within its share; what became of each."""
    ends = time.monotonic() + budget
    outcome: dict[str, str] = {}
    for index, step in enumerate(steps):
        left = ends - time.monotonic()
        share = left if index == len(steps) - 1 else shares(steps[index:], left)[step]
        say(f"{step}: {share:.0f} s of {left:.0f} s")
        outcome[step] = _run_step(script, step, share, words, out)
        say(f"{step}: {outcome[step]}")
    return outcome


def _run_step(script: Path, step: str, share: float, words: Sequence[str], out: Path) -> str:
    folder = StepFolder(out, step)
    deadline = time.monotonic() + share
    folder.bury()
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return "its share is spent"
        command = [sys.executable, str(script), "--child", step, "--budget", f"{left:.1f}", *words]
        with subprocess.Popen(command, start_new_session=hasattr(os, "setsid")) as child:
            try:
                code = child.wait(left + GRACE)
            except subprocess.TimeoutExpired:
                _end(child)
                stopped = folder.bury()
                return f"ended at the end of its share, in {stopped or 'between two units'}"
            except BaseException:
                _end(child)
                raise
        buried = folder.bury()
        if code == 0:
            return "done"
        if buried is None:
            return f"its process ended with {code} outside of a unit"
        say(f"{step}/{buried}: the process died with {code}; going on after it")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask the child and what it started to end, then make them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except (ProcessLookupError, PermissionError):
            return
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
