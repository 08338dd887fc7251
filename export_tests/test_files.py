"""Files that several processes write at once, and text that JSON can write and nobody can encode."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from onnx import TensorProto, helper

from attn_deploy import files
from attn_deploy.bench.profiler import profile
from attn_deploy.errors import GraphError, InvalidRequestError
from attn_deploy.files import alone_in, atomic_pair, moving_into
from attn_deploy.inputs.user_samples import load_arrays
from attn_deploy.matrix.cell import Cell, CellId, Check
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.run import run_matrix
from attn_deploy.matrix.store import MatrixFolder
from attn_deploy.reading import read_json, read_toml
from attn_deploy.resolve.checkpoints import read_checkpoint, read_weights
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from attn_deploy.training.checkpoint import TrainingFolder


def test_half_a_character_in_a_text_is_a_text(tmp_path):
    files.write_atomic(tmp_path / "page.md", "\ud800")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
def test_a_path_that_is_no_text_is_told_with_its_remedy(tmp_path):
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ("N", 4)) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff.onnx"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=r"bytes that are not UTF-8\. Rename the file"):
        OnnxRuntimeRunner(path)
    OnnxRuntimeRunner(path.rename(tmp_path / "m.onnx")).close()


def test_a_pipe_is_no_file_to_be_read(tmp_path):
    """Nobody may ever write into it."""
    for name, read in {
        "x.npz": load_arrays,
        "model.safetensors": read_weights,
        "w.safetensors": read_checkpoint,
        "r.json": read_json,
        "d.toml": lambda path: read_toml(path, "the device profile"),
        "any": files.sha256_of,
    }.items():
        os.mkfifo(tmp_path / name)
        with pytest.raises(InvalidRequestError, match=r"is no file|there is no checkpoint"):
            read(tmp_path / name)


@pytest.fixture
def events(monkeypatch):
    """What reaches the disk, is renamed and goes, in order: ``sync NAME``, ``move NAME``, ``drop NAME``."""
    seen: list[str] = []
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def synced(handle: int) -> None:
        seen.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        fsync(handle)

    def moved(path: Path, target: Path) -> Path:
        seen.append(f"move {path.name} {Path(target).name}")
        return replace(path, target)

    def dropped(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            seen.append(f"drop {path.name}")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", moved)
    monkeypatch.setattr(Path, "unlink", dropped)
    return seen


def assert_safe(events: list[str], folder: str) -> None:
    """Every file is on the disk before it gets its name, and its name is before anything goes."""
    moves = [n for n, event in enumerate(events) if event.startswith("move")]
    assert moves
    for place in moves:
        source = events[place].split()[1]
        assert f"sync {source}" in events[:place], f"{events[place]}: its bytes were not on the disk"
        after = next((n for n in range(place, len(events)) if events[n] == f"sync {folder}"), None)
        assert after is not None, f"{events[place]}: its name never was on the disk"
        gone = [e for e in events[place:after] if e.startswith("drop") and files.TEMPORARY not in e]
        assert not gone, f"{gone} went before {events[place]} was on the disk"


def test_bytes_are_on_the_disk_before_their_name_is(tmp_path, events):
    files.write_atomic(tmp_path / "record.json", "{}")
    assert_safe(events, tmp_path.name)


@pytest.mark.parametrize("rounds", [1, 2])
def test_pairs_are_on_the_disk_before_their_names_are(tmp_path, events, rounds):
    for _ in range(rounds):
        write_pair(tmp_path, "a")
    moved = [e for e in events if e.startswith("move")]
    assert len(moved) == (2 if rounds == 1 else 6)
    last = next(n for n in reversed(range(len(events))) if events[n].startswith("move"))
    assert f"sync {tmp_path.name}" in events[last:]
    assert all(f"sync {e.split()[1]}" in events[: events.index(e)] for e in moved if "m-" in e)


def test_a_state_is_on_the_disk_before_the_old_one_goes(tmp_path, events):
    folder = TrainingFolder(tmp_path)
    record = {"schema_version": 1}
    for epoch in (1, 2):
        folder.save({"w": torch.zeros(3)}, record, epoch)
    assert "drop state-0001.safetensors" in events
    assert_safe(events, tmp_path.name)


def test_cells_and_new_folders_are_on_the_disk(tmp_path, events):
    folder = MatrixFolder(tmp_path / "a" / "b", resume=False)
    assert [f"sync {n}" for n in ("a", tmp_path.name)] == events
    folder.append(Cell(id=CellId("se", "dynamo", 17), checks=(Check("export", "passed"),)))
    assert events[2:] == ["sync cells.jsonl", "sync b"]


def write_pair(folder: Path, mark: str) -> None:
    """A file that says which bytes its data file holds."""
    with atomic_pair(folder / "m", folder / "m.data") as pair:
        pair.data.write_text(mark)
        pair.refer = lambda name: f"{name} {mark}".encode()


def test_pairs_of_two_processes_do_not_mix(tmp_path, monkeypatch):
    moves = []
    put = files._put

    def slow(temporary: Path, path: Path, content: bytes) -> None:
        moves.append(content.split()[1].decode())
        time.sleep(0.02)
        put(temporary, path, content)

    monkeypatch.setattr(files, "_put", slow)
    for _ in range(5):
        writers = [threading.Thread(target=write_pair, args=(tmp_path, mark)) for mark in "abc"]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        name, mark = (tmp_path / "m").read_text().split()
        assert (tmp_path / name).read_text() == mark
        assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "m.data"]
    assert all(moves.count(mark) >= 5 for mark in "abc")
    runs = [mark for index, mark in enumerate(moves) if index == 0 or moves[index - 1] != mark]
    assert len(runs) <= 15, f"the moves of two writers were mixed: {moves}"


def test_a_lock_that_a_killed_process_left_is_taken(tmp_path):
    left = tmp_path / f"{files.TEMPORARY}lock"
    left.touch()
    with moving_into(tmp_path):
        assert left.exists()
    assert not list(tmp_path.iterdir())


def test_a_lock_is_waited_for_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LONGEST_MOVE", 0.1)
    with (
        moving_into(tmp_path),
        pytest.raises(InvalidRequestError, match="another process has been moving files into"),
        moving_into(tmp_path),
    ):
        pytest.fail("two processes hold one lock")


def test_no_lock_is_a_link_to_elsewhere(tmp_path):
    precious = tmp_path / "precious"
    (tmp_path / f"{files.TEMPORARY}lock").symlink_to(precious)
    with moving_into(tmp_path):
        pass
    assert not precious.exists()


def test_one_process_at_a_time_works_in_the_folder_of_a_run(tmp_path):
    options = MatrixOptions(models=("se",), opsets=(17,), exporters=("torchscript",), runtimes=("ort",))
    for name, run in {
        "making a matrix": lambda: run_matrix(options, output=tmp_path, executor="inline"),
        "profiling": lambda: profile("se", runtimes=("eager",), save=tmp_path),
    }.items():
        with alone_in(tmp_path, "at work"), pytest.raises(InvalidRequestError, match=f"another process is {name} in"):
            run()
        assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    with alone_in(tmp_path, "at work"):
        pass


def test_where_the_file_system_has_no_locks_work_goes_on(tmp_path, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with alone_in(tmp_path, "at work"), alone_in(tmp_path, "at work"):
        write_pair(tmp_path, "a")
    assert (tmp_path / "m").read_text() == "m.data a"
