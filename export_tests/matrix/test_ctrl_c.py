"""Ctrl-C as a terminal sends it: to the whole process group, workers and what they started included."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NET = """
from pathlib import Path

from export_tests.matrix.matrix_models import Good, Hangs


class Awaits(Good):
    def forward(self, x):
        return super().forward(x) if Path(__file__).with_name("go").exists() else Hangs.forward(self, x)
"""


@pytest.fixture
def start(tmp_path):
    """Starts `attn-deploy matrix` as the leader of a process group, and leaves none of it behind."""
    (tmp_path / "net.py").write_text(NET)
    started = []

    def begin(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NOTE_OF_THE_SLEEPER": str(tmp_path / "sleeper")}
        command = [sys.executable, "-c", "from attn_deploy.cli import main; main()", "matrix", *arguments]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def family(pid):
    """The living descendants of a process, by id, with their command lines."""
    children, members, left = {}, {}, [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    while left:
        for child in children.get(left.pop(), []):
            with contextlib.suppress(OSError):
                members[child] = Path(f"/proc/{child}/cmdline").read_text()
            left.append(child)
    return members


def wait_until(holds, process, seconds=90):
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_alive(note):
    return note.is_file() and is_running(note.read_text())


def ends(holds):
    """Whether it ends within two seconds: what is killed needs a moment."""
    end = time.monotonic() + 2
    while holds() and time.monotonic() < end:
        time.sleep(0.05)
    return not holds()


OPTIONS = ("--opsets", "13,17", "--exporter", "torchscript", "--runtime", "ort", "--input", "2x4x9x12")


def test_what_is_done_is_kept_and_nothing_lives_on(start, tmp_path):
    folder, note = tmp_path / "run", tmp_path / "sleeper"
    process = start("--models", "net.py:Awaits,net.py:Good", *OPTIONS, "--jobs", "1", "-o", "run")
    cells = folder / "cells.jsonl"
    wait_until(lambda: note.is_file() and len(cells.read_text().splitlines()) == 2, process)
    workers = family(process.pid)
    assert workers
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    models = "-o run --resume --models net.py:Awaits,net.py:Good"
    assert f"interrupted; continue with: attn-deploy matrix {models}\n" in said
    assert "Traceback" not in said
    record = json.loads((folder / "record.json").read_text())
    assert record["interrupted"]
    assert [(c["model"], c["status"]) for c in record["cells"]] == [("net.py:Good", "passed")] * 2
    assert (folder / "matrix.html").is_file()
    assert ends(lambda: any(map(is_running, workers)))
    assert ends(lambda: is_alive(note)), "what a cell started is ended with it"
    (tmp_path / "go").touch()
    assert start("-o", "run", "--resume").wait(60) == 2, "what a folder says does not choose code to run"
    again = start(*models.split(), "--jobs", "1")
    assert again.wait(90) == 0
    record = json.loads((folder / "record.json").read_text())
    assert (record["counts"]["passed"], record["reused"], record["interrupted"]) == (4, 2, False)


def test_in_the_first_second_while_workers_start(start, tmp_path):
    process = start("--models", "net.py:Good,net.py:Awaits", *OPTIONS, "--jobs", "2", "-o", "run")
    wait_until(lambda: sum("isolate" in c for c in family(process.pid).values()) == 2, process)
    workers = family(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "interrupted; continue with: attn-deploy matrix -o run --resume --models net.py:Good,net.py:Awaits\n" in said
    assert "Traceback" not in said
    assert json.loads((tmp_path / "run" / "record.json").read_text())["cells"] == []
    assert ends(lambda: any(map(is_running, workers)))


@pytest.mark.parametrize("kind", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_nothing_outlives_a_matrix_that_is_killed(kind, start, tmp_path):
    note = tmp_path / "sleeper"
    process = start("--models", "net.py:Awaits", *OPTIONS, "--jobs", "1", "-o", "run")
    wait_until(lambda: note.is_file() and note.read_text(), process)
    workers = family(process.pid)
    process.send_signal(kind)
    process.wait(20)
    assert ends(lambda: any(map(is_running, workers)))
    assert ends(lambda: is_alive(note))


def test_a_second_one_does_not_wait_for_a_cell_of_this_process(start, tmp_path):
    note = tmp_path / "sleeper"
    process = start("--models", "net.py:Awaits", *OPTIONS, "--executor", "inline", "-o", "run")
    wait_until(note.is_file, process)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "a cell of this process cannot be ended, and is waited for"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) == 130
    assert ends(lambda: is_alive(note))
