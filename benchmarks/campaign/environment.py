"""Step (a): what the machine is, and the part of the tests that needs a GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from campaign.units import Settings, Unit

ROOT = Path(__file__).resolve().parents[2]
# In a rehearsal, tests of the same rooms that need no GPU.
REHEARSED = ("export_tests/runtimes/test_table.py", "-k", "unknown or listed or device", "-m", "not gpu and not slow")
TESTED = ("export_tests/runtimes", "export_tests/engine", "export_tests/bench", "-m", "gpu")


def units(settings: Settings) -> list[Unit]:
    """The machine, what the package says of it, and the tests."""
    return [
        Unit("machine", _machine, 2),
        Unit("doctor", _doctor, 10),
        Unit("tests", lambda: _tests(settings), 60),
    ]


def _machine() -> Mapping[str, Any]:
    from attn_deploy.machine.conditions import machine_state
    from attn_deploy.machine.environment import command_line, describe_environment

    environment = describe_environment(ROOT)
    gpus = ", ".join(g.name for g in environment.gpus) or "no GPU"
    return {
        "environment": environment.to_dict(),
        "state": str(machine_state()),
        "argv": command_line(),
        "line": f"{gpus}; CUDA {environment.cuda}; {environment.cpu}, {environment.usable_cores} cores",
    }


def _doctor() -> Mapping[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "attn_deploy", "doctor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return {"text": done.stdout, "exit_code": done.returncode, "line": f"doctor ends with {done.returncode}"}


def _tests(settings: Settings) -> Mapping[str, Any]:
    words = REHEARSED if settings.rehearse else TESTED
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-o", "addopts=", *words]
    limit = max(20.0, settings.left - 5)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    last = (done.stdout.strip().splitlines() or ["pytest said nothing"])[-1]
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|errors?|deselected)", last)}
    if not counts:
        raise RuntimeError(f"pytest ended with {done.returncode}: {last} {done.stderr.strip()[-300:]}")
    return {"counts": counts, "exit_code": done.returncode, "tail": done.stdout[-4000:], "line": last}
