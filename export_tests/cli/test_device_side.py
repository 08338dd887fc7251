"""The device side: files are built, inspected, profiled and evaluated without torch, and under Python 3.10."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attn_deploy.engine.builder import build
from attn_deploy.machine.gpu import find_gpu
from export_tests.cli.without_torch import ABSENT
from export_tests.engine.engine_graphs import classifier

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'attn-deploy[rtx]'")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "attn_deploy"
# An interpreter of version 3.10 with numpy, onnx, typer, rich, tomli, onnxruntime and tensorrt-rtx.
PYTHON310 = os.environ.get("ATTN_DEPLOY_PYTHON310", "")
# What entered the standard library after 3.10.
LATER = {
    "tomllib": None,
    "enum": {"StrEnum", "ReprEnum", "verify", "member", "nonmember"},
    "typing": {
        "Self", "Never", "LiteralString", "assert_never", "assert_type", "reveal_type", "Required", "NotRequired",
        "Unpack", "TypeVarTuple", "dataclass_transform", "override", "TypeAliasType", "ReadOnly", "TypeIs", "clear_overloads",
    },
    "datetime": {"UTC"},
    "contextlib": {"chdir"},
    "asyncio": {"TaskGroup", "Runner", "timeout"},
    "hashlib": {"file_digest"},
    "itertools": {"batched"},
    "logging": {"getLevelNamesMapping", "getHandlerByName"},
    "operator": {"call"},
    "math": {"cbrt", "exp2", "sumprod"},
    "warnings": {"deprecated"},
    "collections.abc": {"Buffer"},
    "inspect": {"getmembers_static"},
}  # fmt: skip
LATER_BUILTINS = {"ExceptionGroup", "BaseExceptionGroup", "PythonFinalizationError"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("device")
    build(classifier(made / "net.onnx"), targets="sm86", profiles="image:1x3x32x32,8x3x32x32,16x3x32x32")
    return made


_REASON = "ATTN_DEPLOY_PYTHON310 names no Python 3.10 that has the packages of a device"
INTERPRETERS = (
    pytest.param(sys.executable, id="this Python"),
    pytest.param(PYTHON310, id="Python 3.10", marks=pytest.mark.skipif(not PYTHON310, reason=_REASON)),
)


def run(python: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [python, str(Path(__file__).with_name("without_torch.py")), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def last_line(text: str) -> str:
    """Behind the sign of life of a command that takes its time to start."""
    return text.splitlines()[-1]


COMMANDS = {
    "build": (["build", "net.onnx", "-o", "new.engine", "--device", "rtx4090", "--json"], "sm89"),
    "inspect a graph": (["inspect", "net.onnx"], "GlobalAveragePool"),
    "inspect an engine": (["inspect", "net.engine"], "sm86"),
    "profile": (["profile", "net.onnx", "--input", "1x3x32x32", "--seconds", "0.02", "--threads", "1"], "ort-cpu"),
    "evaluate": (["evaluate", "net.onnx", "--dataset", "digits", "--images", "40"], "digits"),
    "doctor": (["doctor"], "builds engines"),
}


@pytest.mark.parametrize("python", INTERPRETERS)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "doctor")) for n in COMMANDS])
def test_files_need_no_torch(name, python, folder):
    words, told = COMMANDS[name]
    done = run(python, folder, *words)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout


@pytest.mark.parametrize("python", INTERPRETERS)
def test_an_engine_gets_as_far_as_the_gpu_without_torch(python, folder):
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    done = run(python, folder, "evaluate", "net.engine", "--dataset", "digits")
    assert done.returncode == 3, done.stderr
    assert last_line(done.stderr).startswith("error: net.engine runs on sm86, and this machine has no NVIDIA GPU")


def test_the_block_is_real(folder):
    done = run(sys.executable, folder, "export", "se")
    assert done.returncode == 3, done.stdout
    assert last_line(done.stderr).startswith(
        "error: this needs torch, which is not installed: pip install attn-deploy."
    )
    assert "torch" in ABSENT


# Python 3.10


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def later_names(tree: ast.AST) -> Iterator[str]:
    """Names of the standard library that 3.10 has not, but for those behind a check of the version."""
    guarded = {
        id(inner)
        for item in ast.walk(tree)
        if isinstance(item, ast.If) and "sys.version_info" in ast.unparse(item.test)
        for inner in ast.walk(item)
    }
    for item in ast.walk(tree):
        if id(item) in guarded:
            continue
        if isinstance(item, ast.Import):
            yield from (a.name for a in item.names if LATER.get(a.name, ()) is None)
        elif isinstance(item, ast.ImportFrom) and item.module in LATER:
            known = LATER[item.module]
            yield from (f"{item.module}.{a.name}" for a in item.names if known is None or a.name in known)
        elif isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name):
            if item.attr in (LATER.get(item.value.id) or ()):
                yield f"{item.value.id}.{item.attr}"
        elif isinstance(item, ast.Name) and item.id in LATER_BUILTINS:
            yield item.id


@pytest.mark.parametrize("folder_name", sorted({p.parent.relative_to(PACKAGE).as_posix() for p in sources()}))
def test_the_sources_are_python_3_10(folder_name):
    for path in sorted((PACKAGE / folder_name).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10))
        assert list(later_names(tree)) == [], path


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import tomllib", ["tomllib"]),
        ("from enum import StrEnum", ["enum.StrEnum"]),
        ("import datetime\nx = datetime.UTC", ["datetime.UTC"]),
        ("raise ExceptionGroup('a', [])", ["ExceptionGroup"]),
        ("import sys\nif sys.version_info >= (3, 11):\n    import tomllib", []),
        ("import datetime\nx = datetime.timezone.utc", []),
    ],
)
def test_the_check_for_python_3_10_can_fail(source, found):
    assert list(later_names(ast.parse(source))) == found


def test_newer_syntax_is_seen():
    with pytest.raises(SyntaxError):
        ast.parse("try:\n    pass\nexcept* ValueError:\n    pass\n", feature_version=(3, 10))


def test_pyproject_promises_3_10():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'requires-python = ">=3.10"' in text
    assert "tomli>=2; python_version < '3.11'" in text
    assert json.dumps("ml-dtypes>=0.5") in text
