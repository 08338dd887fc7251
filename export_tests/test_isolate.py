"""Native helpers may crash, hang or talk: none of it may hurt the process that called them."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from attn_deploy.errors import GraphError, MissingDependencyError, WorkerError
from attn_deploy.files import atomic_path, check_writable, write_atomic
from attn_deploy.isolate import run_isolated

HERE = "export_tests.test_isolate"


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
