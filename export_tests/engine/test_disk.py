"""A disk that is full, and a library that dies: a clear error, nothing half-written, and what was there stays."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attn_deploy import files
from attn_deploy.engine.artifact import read_engine, sidecar_of
from attn_deploy.engine.builder import build
from attn_deploy.errors import EngineBuildError, InvalidRequestError
from export_tests.engine.engine_graphs import convolution, fake_modules, names_in
from export_tests.engine.engine_graphs import in_process as in_process

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")
ROOT = Path(__file__).resolve().parents[2]


class Full:
    """A file that takes half of what it is given before the disk is full."""

    def __init__(self, file: Any, at: Path) -> None:
        self._file, self._at = file, at

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        whole = bytes(data)
        self._file.write(whole[: len(whole) // 2])
        self._file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._at))


def fill(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """From now on the disk is full for files whose name ends so."""
    real_open, real_write = Path.open, Path.write_bytes

    def opening(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        file = real_open(self, mode, *rest, **named)
        return Full(file, self) if "w" in mode and self.name.endswith(suffix) else file

    def writing(self: Path, data: bytes) -> int:
        if not self.name.endswith(suffix):
            return real_write(self, data)
        with opening(self, "wb") as file:
            return int(file.write(data))

    monkeypatch.setattr(Path, "open", opening)
    monkeypatch.setattr(Path, "write_bytes", writing)


@pytest.mark.parametrize("suffix", [".engine", ".json"], ids=["plan", "sidecar"])
@pytest.mark.usefixtures("in_process")
def test_a_full_disk_leaves_nothing_behind(suffix, tmp_path, monkeypatch):
    onnx_file = convolution(tmp_path / "net.onnx")
    fill(monkeypatch, suffix)
    with pytest.raises(
        InvalidRequestError, match=r"net\.engine.* could not be written: No space left on device"
    ) as caught:
        build(onnx_file, targets="sm86")
    assert caught.value.exit_code == 2
    assert names_in(tmp_path) == {"net.onnx"}


@pytest.mark.usefixtures("in_process")
def test_an_engine_that_was_there_stays_usable(tmp_path, monkeypatch):
    onnx_file = convolution(tmp_path / "net.onnx")
    first = build(onnx_file, targets="sm86")
    before = first.path.read_bytes()
    fill(monkeypatch, ".engine")
    with pytest.raises(InvalidRequestError, match="No space left on device"):
        build(onnx_file, targets="sm89")
    monkeypatch.undo()
    assert first.path.read_bytes() == before
    assert read_engine(first.path) == first
    assert names_in(tmp_path) == {"net.onnx", "net.engine", "net.engine.json"}


def test_no_room_for_the_folder_to_build_in(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    onnx_file = convolution(tmp_path / "net.onnx")
    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    with pytest.raises(InvalidRequestError, match=r"no temporary folder can be created in .*: No space left on device"):
        build(onnx_file, targets="sm86")
    assert names_in(tmp_path) == {"net.onnx"}


@pytest.mark.usefixtures("in_process")
def test_a_sidecar_that_cannot_follow_takes_its_plan_along(tmp_path, monkeypatch):
    onnx_file = convolution(tmp_path / "net.onnx")
    real = Path.replace

    def replacing(self: Path, target: Path) -> Path:
        if Path(target) == sidecar_of(tmp_path / "net.engine"):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replacing)
    with pytest.raises(InvalidRequestError, match=r"net\.engine\.json could not be written: Disk quota exceeded"):
        build(onnx_file, targets="sm86")
    assert names_in(tmp_path) == {"net.onnx"}


def test_the_command_meets_the_limit_of_the_system(tmp_path):
    """A limit on the size of files, which a build in a child process meets as it would a full disk."""
    convolution(tmp_path / "net.onnx")
    command = [
        sys.executable,
        "-c",
        "from attn_deploy.cli import main; main()",
        "build",
        "net.onnx",
        "--target",
        "sm86",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 2, done.stderr
    assert "net.engine could not be written: File too large." in done.stderr
    assert "Traceback" not in done.stderr
    assert names_in(tmp_path) == {"net.onnx"}


def test_a_library_that_dies_in_the_middle_of_a_build(tmp_path, monkeypatch):
    """After its first phase, with a null pointer, as a real crash of the builder comes."""
    source = """
        import ctypes
        from tensorrt_rtx_bindings import *
        from tensorrt_rtx_bindings import __version__
        import tensorrt_rtx_bindings as real
        class Builder:
            def __init__(self, logger):
                self.real = real.Builder(logger)
            def __getattr__(self, name):
                return getattr(self.real, name)
            def build_serialized_network(self, network, config):
                config.progress_monitor.phase_start("Tactics", None, 4)
                ctypes.string_at(0)
    """
    onnx_file = convolution(tmp_path / "net.onnx")
    first = build(onnx_file, targets="sm86")
    fake_modules(tmp_path / "fakes", monkeypatch, tensorrt_rtx=source)
    with pytest.raises(EngineBuildError, match=r"crashed \(SIGSEGV\).* It was at: Tactics\. No engine was written\."):
        build(onnx_file, targets="sm89")
    assert names_in(tmp_path) == {"net.onnx", "net.engine", "net.engine.json", "fakes"}
    assert read_engine(first.path) == first
