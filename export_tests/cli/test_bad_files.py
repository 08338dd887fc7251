"""Whatever a command reads may be missing, damaged, another's, or no file at all: one line says so, and nothing is written."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.deploy.package.make import package
from attn_deploy.machine.environment import describe_environment
from attn_deploy.matrix.cell import Cell, CellId, Check
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.record import MatrixRecord
from attn_deploy.training.recipe import recipe_for
from attn_deploy.training.run import train
from export_tests.bench.profile_records import record, row
from export_tests.cli.file_doors import DOOR, DOORS, WORDS, parameters
from export_tests.engine.engine_graphs import convolution

COMMANDS = typer.main.get_command(app)
NOBODY = 65534
SOUND = {".npz": "in.npz", ".json": "profile/record.json"}


def folder(path):
    path.mkdir()


def truncated(path):
    content = Path(SOUND.get(path.suffix, "m.onnx")).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "x")


def pipe(path):
    """Whose writer goes after a while, so that a command that waits for it ends too."""
    os.mkfifo(path)
    handle = os.open(path, os.O_RDWR)
    threading.Timer(5, os.close, (handle,)).start()


def denied(path):
    path.write_bytes(b"x")
    path.chmod(0)


KINDS = {
    "missing": lambda path: None,
    "folder": folder,
    "empty": Path.touch,
    "truncated": truncated,
    "foreign": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "text": lambda path: path.write_text("dear diary, \x1b[2J <b>{x} not what you want\n" * 9),
    "latin": lambda path: path.write_bytes("caf\xe9 = 'x'\n".encode("latin-1")),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "record": lambda path: shutil.copyfile("matrix/record.json", path),
    "graph": lambda path: shutil.copyfile("m.onnx", path),
    "archive": archive,
    "picture": lambda path: Image.new("RGB", (8, 8)).save(path, "PNG"),
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "null": lambda path: path.symlink_to("/dev/null"),
    "without end": lambda path: path.symlink_to("/dev/zero"),
    "pipe": pipe,
    "denied": denied,
    "under a file": lambda path: None,
    "too long": lambda path: None,
    "not UTF-8": lambda path: path.write_bytes(b"\0foreign"),
    "a line of its own": lambda path: path.write_bytes(b"\0foreign"),
}
NAMES = {
    "under a file": "m.onnx/bad",
    "too long": "bad" * 100,
    "not UTF-8": "bad\udcff\udce9",
    "a line of its own": "bad\x1b[2J\x07",
}
USUAL = ("missing", "foreign")  # of every parameter in the default tier, and one of the others in turn
OTHERS = [kind for kind in KINDS if kind not in USUAL]
RIGHT = {"graph": (".onnx", ".engine"), "record": (".json", ".txt")}  # what a file of that ending may well be


def _quick(door, index, kind):
    turn = OTHERS[sum("".join(door.words).encode()) % len(OTHERS)]
    return index == 0 and not door.slow and kind in (*USUAL, turn)


CASES = [
    pytest.param(
        key,
        door,
        kind,
        id=f"{'-'.join(key)}-{index}-{kind}",
        marks=[] if _quick(door, index, kind) else pytest.mark.slow,
    )
    for key, doors in DOORS.items()
    for index, door in enumerate(doors)
    for kind in KINDS
    if not (kind == "folder" and door.folder) and door.ending not in RIGHT.get(kind, ())
    if not (kind == "record" and key[0].startswith("matrix")) and not (kind == "denied" and key == ("profile", "model"))
]


@pytest.fixture(scope="module")
def sound():
    """A sound file of each kind, for the commands that read two; where everybody may read and write."""
    place = Path(tempfile.mkdtemp(prefix="doors-"))
    place.chmod(0o777)
    convolution(place / "m.onnx")
    np.savez(place / "in.npz", x=np.random.default_rng(0).random((2, 3, 16, 16), np.float32))
    cell = Cell(id=CellId("se", "dynamo", 17), checks=(Check("export", "passed"), Check("parity", "passed")))
    options = MatrixOptions(models=("se",), opsets=(17,), exporters=("dynamo",), runtimes=("ort",))
    (place / "matrix").mkdir()
    text = MatrixRecord(cells=(cell,), options=options, environment=describe_environment()).to_json()
    (place / "matrix" / "record.json").write_text(text)
    (place / "profile").mkdir()
    record(row("eager", 2.0), row("ort-cpu", 1.0)).write(place / "profile" / "record.json")
    package(place / "m.onnx", place / "pkg")
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def trained(sound):
    train("resnet8", dataset="digits", recipe=recipe_for("digits", epochs=1), threads=1, output=sound / "run")


@pytest.fixture
def place(sound, monkeypatch):
    monkeypatch.chdir(sound)
    return sound


def test_every_parameter_of_the_command_line_is_known_to_read_a_file_or_not_to():
    """A new command, or a new option, is met by the tests below, or says here that it reads nothing."""
    texts = set(parameters())
    assert {
        k for k in texts if k not in DOORS and k[1] not in WORDS and k not in WORDS and k[0] not in ("list", "info")
    } == set()
    assert set(DOORS) <= texts


def invoke(words):
    """Exit code, output and errors, as `CliRunner` has them; the commands are put together once, not for each call."""
    with CliRunner().isolation() as streams:
        code = 0
        try:
            COMMANDS.main(args=words, prog_name="attn-deploy")
        except SystemExit as error:
            code = error.code
        sys.stdout.flush()
        sys.stderr.flush()
        return code, streams[0].getvalue().decode(), streams[1].getvalue().decode()


@contextlib.contextmanager
def as_nobody(really):
    """Root reads what nobody may."""
    if not really or os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()


@pytest.mark.parametrize(("key", "door", "kind"), CASES)
def test_a_bad_file_is_one_line_and_nothing_is_written(key, door, kind, place, request):
    if "run" in door.words[1:]:
        request.getfixturevalue("trained")
    path = Path(NAMES.get(kind, "bad") + door.ending)
    KINDS[kind](path)
    there = set(place.rglob("*"))
    try:
        with as_nobody(kind == "denied"):
            code, output, text = invoke([word.replace(DOOR, str(path)) for word in door.words])
        new = sorted(map(str, set(place.rglob("*")) - there))
    finally:
        for left in sorted(set(place.rglob("*")) - there, reverse=True):
            remove(left)
        if "bad" in path.name and kind != "under a file":
            with contextlib.suppress(OSError):
                remove(path)
    assert code in (1, 2), (code, text, output)
    assert "Traceback" not in text
    assert "This is a bug" not in text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, text
    assert "bad" in errors[0], text
    assert all(c.isprintable() or c == "\n" for c in text), ascii(text)
    assert len(errors[0]) < 900
    assert "Errno" not in text, text
    assert new == []
