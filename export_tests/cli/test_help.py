"""The help of every command, as it stands in a terminal of 80 columns."""

from __future__ import annotations

import functools
import re

import pytest
import typer.main
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.cli.panels import write_panels

ROOT = typer.main.get_command(app)
COMMANDS = {(name,): command for name, command in ROOT.commands.items()}
COMMANDS |= {("matrix", name): command for name, command in ROOT.commands["matrix"].commands.items()}


@functools.cache
def shown(*words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_a_page_of_help_fits_the_terminal(words):
    assert [line for line in shown(*words).splitlines() if len(line) > 80] == []


def test_every_command_stands_under_a_heading_with_its_whole_summary():
    page = shown()
    for name, command in ROOT.commands.items():
        assert command.rich_help_panel, name
        assert re.search(rf"^  {name} +{re.escape(command.short_help)}$", page, re.MULTILINE), name


def option_texts() -> list[tuple[str, str]]:
    return [
        (f"{' '.join(words)} {parameter.opts[0]}", parameter.help or "")
        for words, command in COMMANDS.items()
        for parameter in command.params
        if parameter.opts[0] != "--help"
    ]


def test_every_option_is_described_in_sentences_of_one_form():
    texts = option_texts()
    assert len(texts) > 250
    assert [place for place, text in texts if not re.fullmatch(r".*(\.|\.\.\.)", text)] == []
    # Fragments whose noun is in the option's name, and defaults and repetition in other words than everywhere else.
    assert [f"{place}: {text}" for place, text in texts if re.match(r"Of \S+( \S+)*\.", text)] == []
    assert [f"{place}: {text}" for place, text in texts if re.search(r"by default|default:|once for each", text)] == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_option_that_may_be_repeated_says_so(words):
    repeated = [p for p in COMMANDS[words].params if p.param_type_name == "option" and p.multiple]
    unsaid = [
        p.opts[0] for p in repeated if not re.search("repeatable|separated by commas|as N,H,W|another profile", p.help)
    ]
    assert unsaid == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_many_options_are_in_panels_and_the_output_comes_first(words):
    sections = re.split(r"(?m)^(\S.*):$", shown(*words))
    panels = {
        title: re.findall(r"(?m)^  (-\S+)", text) for title, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    panels = {title: options for title, options in panels.items() if options}
    assert sum(map(len, panels.values())) >= len(COMMANDS[words].params) - 3
    assert {title: len(options) for title, options in panels.items() if len(options) > 13} == {}
    assert "-o," not in panels["Options"][1:]


class Rows:
    """Stands in for a formatter: keeps what it is given."""

    width = 80

    def __init__(self) -> None:
        self.rows: list[object] = []

    def section(self, title: str):
        self.rows.append(title)
        return pytest.MonkeyPatch.context()

    def write_dl(self, rows):
        self.rows += rows


def test_an_option_without_a_panel_stands_under_options():
    command = ROOT.commands["compare"]
    rows = Rows()
    with command.make_context("compare", ["a", "b"]) as context:
        write_panels(command.params, context, rows)
    assert [r for r in rows.rows if isinstance(r, str)] == ["Arguments", "Options"]
