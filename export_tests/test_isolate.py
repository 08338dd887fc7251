"""Native helpers may crash, hang or talk: none of it may hurt the process that called them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attn_deploy import isolate
from attn_deploy.errors import (
    GraphError,
    InvalidRequestError,
    MissingDependencyError,
    WorkerCrashError,
    WorkerError,
    WorkerTimeoutError,
)
from attn_deploy.files import atomic_path, check_writable, write_atomic
from attn_deploy.isolate import IsolatedWorker, run_isolated
from attn_deploy.processes import threads

HERE = "export_tests.test_isolate"
ROOT = Path(__file__).resolve().parent.parent


def double(emit, number):
    print("a native library talks on standard output")
    os.write(1, b"so does its C code\n")
    emit({"half": number})
    return number * 2


def crash(emit):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(emit):
    time.sleep(60)


def refuse(emit):
    raise GraphError("refused in the child", exit_code=2)


def fail(emit):
    raise RuntimeError("broken\nin two lines")


def hold_the_lock(emit):
    """Native code that keeps the interpreter's lock: no thread of Python runs meanwhile."""
    re.match(r"(a|aa)+$", "a" * 80 + "b")


def exit_quietly(emit):
    sys.exit(0)


def interrupt(emit):
    raise KeyboardInterrupt


def process_id(emit):
    return os.getpid()


def allocate(emit, mib):
    return len(bytearray(mib << 20))


def be_a_parent(emit, note, target):
    worker = IsolatedWorker()
    pid = worker.call(f"{HERE}:process_id", {}, what="starting", timeout=60)
    with Path(note).open("w") as file:
        file.write(f"{os.getpid()} {pid}")
    worker.call(f"{HERE}:{target}", {}, what="hanging", timeout=600)


def leave(emit):
    print("goodbye", file=sys.stderr)
    os._exit(7)


def test_result_and_events_come_back():
    events = []
    assert run_isolated(f"{HERE}:double", {"number": 21}, what="doubling", timeout=60, on_event=events.append) == 42
    assert events == [{"half": 21}]


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("crash", WorkerError, r"testing crashed \(SIGSEGV\)"),
        ("refuse", GraphError, "refused in the child"),
        ("crash", WorkerCrashError, "SIGSEGV"),
        ("exit_quietly", InvalidRequestError, r"test_isolate\.py, line \d+ ended the program \(sys\.exit\(0\)\)"),
        ("interrupt", InvalidRequestError, r"test_isolate\.py, line \d+ ended the program \(KeyboardInterrupt\)"),
        ("fail", WorkerError, "testing failed: RuntimeError: broken in two lines"),
        ("leave", WorkerError, r"exit code 7\)\. Its last words: goodbye"),
        ("no_such_function", WorkerError, "AttributeError"),
    ],
)
def test_what_goes_wrong_in_the_child_is_told(function, error, message):
    with pytest.raises(error, match=message) as caught:
        run_isolated(f"{HERE}:{function}", {}, what="testing", timeout=60)
    if function == "refuse":
        assert caught.value.exit_code == 2


def test_a_child_that_hangs_is_ended():
    started = time.monotonic()
    with pytest.raises(WorkerError, match="took longer than 2 s"):
        run_isolated(f"{HERE}:hang", {}, what="waiting", timeout=2)
    assert time.monotonic() - started < 30


def test_a_child_to_which_nobody_listens_any_more_is_no_hang(monkeypatch):
    """The thread that reads its answers may die where no memory is left."""
    monkeypatch.setattr(isolate, "_pump", lambda stream, put: None)
    monkeypatch.setattr(isolate, "_LOOK", 0.1)
    monkeypatch.setattr(isolate, "_LAST_WORDS", 0.5)
    started = time.monotonic()
    with pytest.raises(WorkerCrashError, match="waiting"):
        run_isolated(f"{HERE}:hang", {}, what="waiting", timeout=600)
    assert time.monotonic() - started < 60


def test_a_child_whose_readers_never_begin_is_no_hang(monkeypatch):
    monkeypatch.setattr(threads, "_PATIENCE", 0.1)
    monkeypatch.setattr(threads.HelperThread, "_bootstrap", lambda self: None)
    with pytest.raises(MemoryError):
        run_isolated(f"{HERE}:hang", {}, what="waiting", timeout=600)


def test_lines_that_do_not_fit_into_memory_end_the_reading():
    lines = []

    def stream():
        yield b"one"
        raise MemoryError

    isolate._pump(stream(), lines.append)
    assert lines == [b"one", None]


def test_a_limit_holds_inside_too(monkeypatch):
    """Where the parent cannot end it in time, the child's own alarm does, whoever holds the interpreter's lock."""
    monkeypatch.setattr(isolate, "_ALARM_MARGIN", -8.0)
    started = time.monotonic()
    with pytest.raises(WorkerTimeoutError, match="took longer than 9 s and was stopped"):
        run_isolated(f"{HERE}:hold_the_lock", {}, what="matching", timeout=9)
    assert time.monotonic() - started < 9


def test_memory_is_limited():
    with pytest.raises(WorkerError, match="MemoryError"):
        run_isolated(f"{HERE}:allocate", {"mib": 4096}, what="allocating", timeout=60, memory=1 << 30)
    assert run_isolated(f"{HERE}:allocate", {"mib": 64}, what="allocating", timeout=60, memory=1 << 30) == 64 << 20


def test_a_worker_lives_until_a_call_ends_it():
    worker = IsolatedWorker()

    def call(function):
        return worker.call(f"{HERE}:{function}", {}, what="working", timeout=60)

    first = call("process_id")
    assert call("process_id") == first
    with pytest.raises(GraphError):
        call("refuse")
    assert call("process_id") == first
    with pytest.raises(WorkerCrashError):
        call("crash")
    second = call("process_id")
    assert second != first
    worker.close()
    assert not is_alive(second)
    with pytest.raises(WorkerCrashError, match="was stopped"):
        call("process_id")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("target", ["hang", "hold_the_lock"])
def test_children_die_with_their_parent(target, tmp_path):
    note = tmp_path / "note"
    code = f"from {HERE} import be_a_parent; be_a_parent(None, {str(note)!r}, {target!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        end = time.monotonic() + 60
        while not (note.is_file() and note.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        parent, child = map(int, note.read_text().split())
        assert parent == process.pid
        time.sleep(0.3)
        assert is_alive(child)
    finally:
        process.kill()
        process.wait()
    end = time.monotonic() + 2
    while is_alive(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_alive(child)


def test_files_of_the_users_folder_do_not_shadow_modules(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise RuntimeError('the wrong queue')")
    (tmp_path / "onnx.py").write_text("raise RuntimeError('the wrong onnx')")
    monkeypatch.chdir(tmp_path)
    assert run_isolated(f"{HERE}:double", {"number": 1}, what="doubling", timeout=60) == 2


def test_files_are_whole_or_not_there(tmp_path):
    target = tmp_path / "out.bin"
    write_atomic(target, b"first")

    def interrupted_write():
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half of the sec")
            raise MissingDependencyError("stop")

    with pytest.raises(MissingDependencyError):
        interrupted_write()
    assert target.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["out.bin"]


@pytest.mark.parametrize("where", ["missing/out.onnx", "file/out.onnx", "folder"])
def test_outputs_that_cannot_be_written_are_refused_early(where, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="output"):
        check_writable(tmp_path / where)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "out.bin"

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(target), "write_bytes", full)
    with pytest.raises(ValueError, match="No space left on device"):
        write_atomic(target, b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_is_idle_removes_what_it_kept(tmp_path):
    worker = IsolatedWorker()
    kept = worker.call("export_tests.sleeper:keep", {"beside": str(tmp_path / "x")}, what="a call", timeout=60)
    assert Path(kept).is_dir()
    worker.close()
    assert not Path(kept).exists()
