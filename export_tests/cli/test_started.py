"""A command gives a sign of life before it loads anything large, in a log and on a terminal; a mistyped one none."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from attn_deploy.cli import guard, process, started
from export_tests.conftest import ROOT

# What is loaded when the sign is given: the command stands still where it would import PyTorch.
SCRIPT = """
import sys, time
from attn_deploy import cli
from attn_deploy.resolve import wanted

def waits(*args, **kwargs):
    time.sleep(1.5)
    assert "torch" not in sys.modules
    raise SystemExit(9)

wanted.check_name = waits
sys.argv = ["attn-deploy", "export", "se"]
cli.main()
"""


def run(stderr):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=stderr, env=environment)


def test_a_log_gets_a_line():
    with run(subprocess.PIPE) as command:
        assert command.stderr.readline() == b"export: starting\n"


def test_a_terminal_gets_a_word_that_is_written_over():
    own, its = pty.openpty()
    with run(its):
        os.close(its)
        assert os.read(own, 100) == b"starting\r"
    os.close(own)


@pytest.mark.parametrize(("seconds", "said"), [(0.0, ""), (0.2, "se: starting\n")])
def test_what_ends_at_once_says_nothing(seconds, said, capsys):
    with started.saying_so("se"):
        time.sleep(seconds)
    assert capsys.readouterr().err == said


def test_only_a_program_of_its_own_says_so(monkeypatch):
    def quiet() -> None:
        time.sleep(0.2)

    seen = []
    monkeypatch.setattr(started, "_say", seen.append)
    guard.guarded(quiet)()
    monkeypatch.setattr(process, "is_supervised", lambda: True)
    monkeypatch.setattr(guard, "_prepare", lambda: None)
    guard.guarded(quiet)()
    assert seen == ["quiet"]
