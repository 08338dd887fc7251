"""What stands in a file is text on a terminal, and never something that the terminal obeys."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import onnx
import pytest
from rich.table import Table
from typer.testing import CliRunner

import attn_deploy
from attn_deploy.cli import app
from attn_deploy.report.console import PlainConsole
from attn_deploy.report.printable import printable
from export_tests.engine.engine_graphs import convolution

EVIL = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb"


def test_what_a_terminal_obeys_is_shown():
    assert printable(EVIL) == r"a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb"
    assert printable("two\n\tlines of caf\xe9 \u2501") == "two\n\tlines of caf\xe9 \u2501"


def test_a_console_styles_and_passes_nothing_on():
    table = Table("name", title=EVIL)
    table.add_row(f"[red]{EVIL}[/red]")
    stream = io.StringIO()
    PlainConsole(file=stream, force_terminal=True, color_system="standard", width=200).print(table)
    text = stream.getvalue()
    assert "\x1b[31m" in text  # its own
    for part in ("\x1b[2J", "\x1b]0", "\x07", "\x9b", "\u202e"):
        assert part not in text
    assert r"\x1b[2J" in text


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = onnx.load(convolution(tmp_path / "m.onnx"))
    for node in model.graph.node:
        node.name = EVIL + node.name
    model.graph.node[-1].output[0] = model.graph.output[0].name = EVIL
    model.doc_string = model.producer_name = model.graph.name = EVIL
    onnx.save(model, tmp_path / "evil.onnx")


@pytest.mark.parametrize(
    "words",
    [
        "inspect evil.onnx",
        "inspect m.onnx evil.onnx --diff",
        "verify m.onnx evil.onnx",
        "convert evil.onnx --opset 17 -o out.onnx",
        "diagnose evil.onnx --precision fp16 --no-build -o part.onnx",
        "run evil.onnx --data none.npz -o out.npz",
        "package evil.onnx -o out",
        "inspect no\x1b[2Jne.onnx",
    ],
)
def test_no_command_lets_a_file_speak_to_the_terminal(hostile, words):
    done = CliRunner().invoke(app, words.split(" "), color=True)
    assert done.exit_code in (0, 1, 2), done.output
    for part in ("\x1b[2J", "\x1b]0", "\x07", "\x9b", "\u202e"):
        assert part not in done.output


def test_commands_print_by_this_way_alone():
    """``typer.echo`` passes on whatever a terminal obeys."""
    for path in Path(attn_deploy.__file__).parent.joinpath("cli").glob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Attribute)]
        by_typer = [n for n in calls if n.attr in ("echo", "secho") and ast.unparse(n.value) in ("typer", "click")]
        assert len(by_typer) == (1 if path.name == "streams.py" else 0), path.name
