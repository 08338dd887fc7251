"""A command that made nothing never ends with 0, and nothing it meets is a traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from attn_deploy.cli import app, guard, inspect, process
from attn_deploy.errors import GraphError

ROOT = Path(__file__).resolve().parents[2]
MODULE = "from torch import nn\nclass Net(nn.Module):\n"


def start(*words, cwd, **settings):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings.pop("environment", {})}
    return subprocess.Popen(
        [sys.executable, "-m", "attn_deploy", *words],
        cwd=cwd,
        env=environment,
        stderr=subprocess.PIPE,
        **{"stdout": subprocess.PIPE, **settings},
    )


def command(*words, cwd, **settings):
    running = start(*words, cwd=cwd, **settings)
    _, said = running.communicate(timeout=120)
    text = said.decode(errors="replace")
    assert "Traceback" not in text
    return running.returncode, " ".join(text.split())


EXITS = {
    "import sys\nsys.exit(0)\n": r"net\.py, line 2 ended the program \(sys\.exit\(0\)\)",
    "raise SystemExit\n": r"net\.py, line 1 ended the program",
    "import os\nos._exit(0)\n": r"was ended by code that it ran \(os\._exit\(0\)\)",
    f"{MODULE}    def __init__(self):\n        quit()\n": r"net\.py, line 4 ended the program",
    f"{MODULE}    def forward(self, x):\n        raise SystemExit(0)\n": r"net\.py, line 4 ended the program",
    f"{MODULE}    def forward(self, x):\n        raise KeyboardInterrupt\n": r"net\.py, line 4 ended .*KeyboardInterrupt",
}


@pytest.mark.parametrize("text", [pytest.param(t, marks=[] if "os._exit" in t else pytest.mark.slow) for t in EXITS])
def test_code_that_exits_does_not_end_a_command_as_if_all_were_well(text, tmp_path):
    (tmp_path / "net.py").write_text(text)
    code, said = command("export", "net.py:Net", "--input", "1x3x8x8", "-o", "m.onnx", cwd=tmp_path)
    assert code == 2, said
    assert __import__("re").search(EXITS[text], said), said
    assert not (tmp_path / "m.onnx").exists()


def crashing(path):
    """INT64_MIN / -1, which ends ONNX Runtime with SIGFPE."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Div", ["a", "b"], ["c"]),
        helper.make_node("Cast", ["c"], ["f"], to=1),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.array([v]), n) for n, v in (("a", -(2**63)), ("b", -1))]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, (1, 4))], [value("y", TensorProto.FLOAT, (1, 4))], weights
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize(
    "words", [("convert", "--opset", "18"), ("convert", "--precision", "fp16"), ("profile", "--seconds", "0.02")]
)
def test_native_code_that_crashes_is_one_line(words, tmp_path):
    crashing(tmp_path / "m.onnx")
    name, *rest = words
    output = [] if name == "profile" else ["-o", "out.onnx"]
    code, said = command(name, "m.onnx", *rest, *output, cwd=tmp_path)
    assert code == 1
    assert "SIGFPE" in said or "refuse" in said, said
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (GraphError("planted"), 1, "error: planted"),
        (RuntimeError("planted\nin two lines"), guard.BUG, "RuntimeError: planted in two lines (test_guard.py"),
        (KeyError("key"), guard.BUG, "This is a bug, please report it"),
        (RecursionError("deep"), guard.BUG, "RecursionError: deep"),
        (MemoryError(), 1, "--memory-limit"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 1, "--memory-limit"),
        (RuntimeError("std::bad_alloc"), 1, "--memory-limit"),
        (PermissionError(13, "Permission denied", "/srv/x"), 2, "error: /srv/x: Permission denied."),
        (OSError(28, "No space left on device", "/tmp/x"), 2, "Free some space, or set TMPDIR"),
        (ModuleNotFoundError("no", name="torch"), 3, "this needs torch, which is not installed"),
        (SystemExit(0), 2, "ended the program (sys.exit(0))"),
        (KeyboardInterrupt(), process.INTERRUPTED, "interrupted"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_every_error_is_one_line_and_a_code(error, code, words, debug, monkeypatch):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr("attn_deploy.diagnosis.contents.inspect", broken)
    done = CliRunner().invoke(app, [*["--debug"] * debug, "inspect", "m.onnx"])
    assert done.exit_code == code, done.output
    assert words in " ".join(done.stderr.split())
    assert ("Traceback" in done.stderr) == (debug and code != process.INTERRUPTED)


def test_a_full_device_and_a_narrow_terminal(tmp_path):
    with Path("/dev/full").open("wb") as full:
        code, said = command("list", cwd=tmp_path, stdout=full)
    assert code in (1, 2)
    assert "No space left on device" in said
    for encoding in ("ascii", "latin-1"):
        code, _ = command("info", "se", cwd=tmp_path, environment={"PYTHONIOENCODING": encoding})
        assert code == 0


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(closed, tmp_path):
    """A file that is opened must not take the place of one: what is printed would go into it."""
    words = f"{sys.executable} -m attn_deploy export eca -o eca.onnx {closed}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["/bin/sh", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    nothing_to_print_on = ">&-" in closed.replace("2>&-", "")
    assert done.returncode == (1 if nothing_to_print_on else 0), done.stderr
    assert "Traceback" not in done.stderr
    if closed == ">&-":
        assert done.stderr.splitlines()[-1] == ("error: standard output is closed, so the result cannot be printed.")
    onnx.checker.check_model(onnx.load(tmp_path / "eca.onnx"), full_check=True)


def wait_until_it_is_ours(running, kind):
    """Until the program has the say over a signal: before, the system ends whatever is started with it."""
    status = Path(f"/proc/{running.pid}/status")
    blocked = 0
    while status.exists() and running.poll() is None and not blocked >> (kind - 1) & 1:
        time.sleep(0.01)
        blocked = int(re.search(r"SigBlk:\s*(\w+)", status.read_text())[1], 16)


@pytest.mark.parametrize(
    ("kind", "delay"),
    [
        *((kind, delay) for kind in (signal.SIGINT, signal.SIGTERM) for delay in (0.0, 0.15, 0.4, 0.8, 1.6)),
        (signal.SIGHUP, 0.4),
        (signal.SIGHUP, 1.6),
    ],
)
def test_signals_end_it_cleanly_from_the_first_moment(kind, delay, tmp_path):
    running = start("export", "eca", "-o", "m.onnx", cwd=tmp_path)
    wait_until_it_is_ours(running, kind)
    time.sleep(delay)
    running.send_signal(kind)
    _, said = running.communicate()
    assert b"Traceback" not in said
    assert running.returncode in (0, 128 + kind), said
    assert running.returncode == 0 or b"interrupted; nothing was left half-written" in said
    assert [p.name for p in tmp_path.iterdir() if p.name != "m.onnx"] == []


@pytest.mark.parametrize(
    "lines",
    [
        # What native code does that an exception goes through, as torch's does while it starts.
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.abort())\n"
        "pathlib.Path('begun').touch()\ntime.sleep(30)\n",
        # Nothing is raised in an import, for native code may stand between it and what catches.
        pytest.param("import inner\n", marks=pytest.mark.slow),
    ],
)
def test_a_signal_that_native_code_does_not_survive_is_an_interruption(lines, tmp_path):
    (tmp_path / "net.py").write_text(lines)
    (tmp_path / "inner.py").write_text(
        "import pathlib, time\npathlib.Path('begun').touch()\n"
        "try:\n    time.sleep(30)\nexcept BaseException:\n    pathlib.Path('raised').touch()\n"
    )
    running = start("export", "net.py:Net", "--input", "1x3x8x8", "-o", "m.onnx", cwd=tmp_path)
    while not (tmp_path / "begun").exists() and running.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate()
    assert running.returncode == 128 + signal.SIGTERM, said
    assert said.count(b"interrupted; nothing was left half-written") == 1
    assert b"crashed" not in said
    assert {p.name for p in tmp_path.iterdir()} <= {"net.py", "inner.py", "begun", "__pycache__"}


@pytest.mark.parametrize(
    "kind", [signal.SIGINT, *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGTERM, signal.SIGHUP))]
)
def test_a_signal_inside_a_finalizer_is_not_lost(kind, tmp_path):
    """Python ignores what is raised there, as in the callbacks of its own import locks."""
    (tmp_path / "net.py").write_text(
        "import pathlib, time\n"
        "class Slow:\n    def __del__(self):\n        time.sleep(0.3)\n"
        "pathlib.Path('begun').touch()\n"
        "for _ in range(40):\n    Slow()\n"
    )
    ours = signal.signal(kind, signal.SIG_DFL)  # where the tests themselves run under nohup
    try:
        running = start("export", "net.py:Net", "--input", "1x3x8x8", "-o", "m.onnx", cwd=tmp_path)
    finally:
        signal.signal(kind, ours)
    while not (tmp_path / "begun").exists() and running.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    running.send_signal(kind)
    _, said = running.communicate()
    assert running.returncode == 128 + kind, said
    assert b"Traceback" not in said
    assert b"interrupted; nothing was left half-written" in said
    assert {p.name for p in tmp_path.iterdir()} <= {"net.py", "begun", "__pycache__"}


@pytest.mark.slow
def test_under_nohup_a_closed_terminal_ends_nothing(tmp_path):
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = start("export", "eca", "-o", "m.onnx", cwd=tmp_path)
    finally:
        signal.signal(signal.SIGHUP, ignored)
    wait_until_it_is_ours(running, signal.SIGHUP)
    time.sleep(0.5)
    running.send_signal(signal.SIGHUP)
    _, said = running.communicate()
    assert running.returncode == 0, said
    assert (tmp_path / "m.onnx").is_file()


def test_the_memory_of_a_command_can_be_limited(tmp_path):
    (tmp_path / "net.py").write_text(
        f"import torch\n{MODULE}    def __init__(self):\n        super().__init__()\n"
        "        self.weight = nn.Parameter(torch.zeros(1 << 32))\n"
    )
    words = ("export", "net.py:Net", "--input", "1x3x8x8", "-o", "m.onnx")
    code, said = command(*words, "--memory-limit", "4GiB", cwd=tmp_path)
    assert code in (1, 2)
    assert "memory" in said.lower(), said
    code, said = command(*words, "--memory-limit", "much", cwd=tmp_path)
    assert code == 2
    assert "'much' cannot be read" in said


def test_the_commands_are_guarded():
    """Every command of the program goes through the guard, which wraps it."""
    callbacks = [c.callback for c in app.registered_commands]
    callbacks += [c.callback for g in app.registered_groups for c in g.typer_instance.registered_commands]
    assert callbacks
    assert all(c.__wrapped__ is not None for c in callbacks)
    assert inspect is not None
