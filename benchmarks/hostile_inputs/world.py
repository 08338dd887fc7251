"""Sound inputs in a hostile world: full disks, closed streams, terminals of another age, folders of others, few resources."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from hostile_inputs.case import OLD, ONNX_COMMANDS, Case, case_of
from hostile_inputs.graphs import proven, put_sound

NOBODY = 65534
OTHERS: tuple[Case, ...] = (
    Case(("list",)),
    Case(("doctor",)),
    Case(("info", "se")),
    Case(("--help",)),
    Case(("export", "eca", "-o", "out.onnx"), output="out.onnx"),
    Case(("lint", "eca")),
    Case(("matrix", "--models", "eca", "--opsets", "17", "--exporters", "torchscript", "--runtimes", "ort", "-o", "m")),
    Case(("train", "resnet8", "--dataset", "digits", "--epochs", "1", "-o", "run")),
    Case(("profile", "eca", "--runtime", "eager,ort-cpu", "--seconds", "0.02", "-o", "p")),
    Case(("deploy", "deploy.toml")),
)


def world(chance: random.Random, folder: Path) -> Case:
    """A sound command to which one or two things happen."""
    put_sound(folder)
    (folder / "m.onnx").write_bytes(proven())
    (folder / "deploy.toml").write_text(
        'model = "m.onnx"\noutput = "d"\n[profile]\nseconds = 0.02\nruntime = "ort-cpu"\n[package]\n'
    )
    case = case_of(chance.choice(ONNX_COMMANDS), "m.onnx") if chance.random() < 0.7 else chance.choice(OTHERS)
    if case.output.endswith(".onnx") and case.command[0] != "export":
        (folder / case.output).write_bytes(OLD)
    if chance.random() < 0.1:
        case = Case((*case.command, "--memory-limit", chance.choice(("1", "100MiB", "400MiB"))), output=case.output)
    names = chance.sample(list(FAULTS), chance.choice((1, 1, 2)))
    return Case(case.command, output=case.output, faults=tuple(names))


def _to(path: str, *streams: int) -> None:
    handle = os.open(path, os.O_WRONLY)
    for stream in streams:
        os.dup2(handle, stream)


def _broken_pipe() -> None:
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(reading)
    os.close(writing)


def _encoding(name: str) -> Callable[[], None]:
    def fault() -> None:
        os.environ.update(LC_ALL="C", PYTHONIOENCODING=name, PYTHONUTF8="0")
        sys.stdout = os.fdopen(1, "w", encoding=name, closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding=name, buffering=1, closefd=False)

    return fault


def _others_folder() -> None:
    """The folder belongs to root, and the command is run by somebody else."""
    Path().chmod(0o755)
    os.environ["HOME"] = "/nonexistent"
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _folder_gone() -> None:
    gone = Path("gone").absolute()
    gone.mkdir()
    os.chdir(gone)
    shutil.rmtree(gone)


def _limit(kind: int, value: int) -> Callable[[], None]:
    def fault() -> None:
        _, hard = resource.getrlimit(kind)
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)  # two may meet, and none may be raised
        resource.setrlimit(kind, (lower, lower))

    return fault


def _variables(**values: str) -> Callable[[], None]:
    def fault() -> None:
        import tempfile

        os.environ.update(values)
        tempfile.tempdir = None

    return fault


def _close(stream: int) -> Callable[[], None]:
    def fault() -> None:
        with contextlib.suppress(OSError):
            os.close(stream)
        setattr(sys, ("stdin", "stdout", "stderr")[stream], None)  # as Python begins with it

    return fault


FAULTS: dict[str, Callable[[], None]] = {
    "stdout is full": lambda: _to("/dev/full", 1),
    "stderr is full": lambda: _to("/dev/full", 2),
    "stdout is closed": _close(1),
    "stdin is closed": _close(0),
    "stderr is closed": _close(2),
    "nobody reads": _broken_pipe,
    "ASCII": _encoding("ascii"),
    "Latin-1": _encoding("latin-1"),
    "a full disk": _limit(resource.RLIMIT_FSIZE, 0),
    "a disk that fills": _limit(resource.RLIMIT_FSIZE, 3000),
    "few files": _limit(resource.RLIMIT_NOFILE, 24),
    "a folder of others": _others_folder,
    "a folder that is gone": _folder_gone,
    "no temporary folder": _variables(TMPDIR="/nonexistent", TMP="/nonexistent", TEMP="/nonexistent"),
    "a temporary folder that is a file": _variables(TMPDIR="/etc/passwd"),
    "no home": _variables(HOME="/nonexistent", XDG_CACHE_HOME="/dev/null/x"),
    "a narrow terminal": _variables(COLUMNS="1", TERM="dumb"),
    "a wide terminal": _variables(COLUMNS="100000"),
}


def befall(names: tuple[str, ...]) -> None:
    """Let it happen to this process, which is about to run the command; what drops rights or closes streams comes last."""
    for name in sorted(names, key=lambda n: 2 * (n == "a folder of others") + n.endswith("is closed")):
        FAULTS[name]()
