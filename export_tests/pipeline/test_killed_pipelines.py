"""A pipeline that is killed takes the step that it runs with it, however deep its processes are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from export_tests.conftest import ROOT

PIPELINE = """
model = "resnet8"
output = "out"

[train]
dataset = "digits"
epochs = 400
on = "cpu"

[export]

[package]
for = ["python"]
"""


def those_in(folder: Path) -> list[int]:
    """Processes whose working directory is this one."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink() == folder and "Z" not in (entry / "stat").read_text().split()[2]:
                    pids.append(int(entry.name))
            except OSError:
                continue
    return pids


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_a_step_ends_with_its_pipeline(tmp_path):
    (tmp_path / "deploy.toml").write_text(PIPELINE)
    folder = tmp_path.resolve()
    running = subprocess.Popen(
        [sys.executable, "-m", "attn_deploy", "deploy", "deploy.toml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while len(those_in(folder)) < 4:  # the pipeline and its step, each with the process that does its work
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
        deadline = time.monotonic() + 20  # at once; the time is for a machine that has no time
        while those_in(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not those_in(folder)
    finally:
        for pid in those_in(folder):
            os.kill(pid, signal.SIGKILL)
