"""The answers that README and the guide show are those that the commands give."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from export_tests.conftest import ROOT

README, GUIDE = ROOT / "README.md", ROOT / "docs" / "guide.md"
BLOCK = re.compile(r"```text\n(.*?)```", re.DOTALL)
# What the versions of other packages decide.
VOLATILE = re.compile(
    r"^(file|sha256|nodes|max error) .*$|\d+\.\d+\.\d+\.\d+|node_\w+|\S*deepblocks-failing", re.MULTILINE
)


def shown(page, word: str) -> str:
    return next(b for b in BLOCK.findall(page.read_text(encoding="utf-8")) if word in b)


def answer(*words: str, folder) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.pop("COLUMNS", None)
    done = subprocess.run(
        [sys.executable, "-m", "attn_deploy", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.stdout


def lasting(text: str) -> str:
    return " ".join(VOLATILE.sub("", text).split())


@pytest.mark.slow
def test_the_export_of_the_readme(tmp_path):
    assert lasting(shown(README, "read back from the file")) == lasting(
        answer("export", "ghostmodule", "--opset", "17", folder=tmp_path)
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["lint", "diagnose"])
def test_the_answers_of_the_guide(command, tmp_path):
    call, _, expected = shown(GUIDE, f"$ attn-deploy {command} ").partition("\n")
    words = call.removeprefix("$ attn-deploy ").split()
    file = str(ROOT / words[1])
    output = answer(command, file, *words[2:], folder=tmp_path).replace(f"{ROOT}/", "")
    assert lasting(expected) in lasting(output)
