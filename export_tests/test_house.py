"""The house itself: the files at its root, its floors, its documents, and the commands that its messages name."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from pathlib import Path

import click
import pytest
import typer.main
from typer.testing import CliRunner

from attn_deploy.cli import app
from export_tests.conftest import ROOT

PACKAGE = ROOT / "attn_deploy"
ROOT_FILES = {"__init__", "__main__", "_version", "errors", "files", "isolate", "registry"}
PUBLIC_VERBS = {"export", "diagnose", "profile", "evaluate", "build", "convert", "quantize", "train", "lint", "inspect"}
PUBLIC_VERBS |= {"verify", "fuse", "simplify", "package"}
ROOMS = sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file())


def script(name: str):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_seven_files_stand_at_the_root():
    assert {p.stem for p in PACKAGE.glob("*.py")} == ROOT_FILES


def test_no_room_is_called_like_a_public_function():
    assert not PUBLIC_VERBS & set(ROOMS)


def test_every_room_has_a_purpose_a_place_in_the_design_and_a_folder_of_tests():
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for room in ROOMS:
        purpose = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
        assert purpose, f"attn_deploy/{room}/__init__.py says no purpose"
        assert f"`{room}`" in design, f"docs/design.md does not name {room}"
    tested = {p.name for p in (ROOT / "export_tests").iterdir() if p.is_dir() and list(p.rglob("test_*.py"))}
    # `parity` is tested through the exporters and conversions it judges.
    assert set(ROOMS) - tested <= {"parity"}


def too_long(root: Path, most: int = 400) -> list[str]:
    """The project's Python files of more than ``most`` lines."""
    folders = ("attn_deploy", "benchmarks", "docs", "examples", "export_tests")
    lengths = {p: p.read_text(encoding="utf-8").count("\n") for f in folders for p in (root / f).rglob("*.py")}
    return [f"{p.relative_to(root)}: {n} lines" for p, n in sorted(lengths.items()) if n > most]


def test_a_file_holds_one_idea_and_never_more_than_400_lines(tmp_path):
    assert too_long(ROOT) == []
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "long.py").write_text("x = 1\n" * 401)
    (tmp_path / "docs" / "whole.py").write_text("x = 1\n" * 400)
    assert too_long(tmp_path) == ["docs/long.py: 401 lines"]


def test_no_arrow_runs_up_and_the_picture_is_up_to_date():
    floors = script("floors")
    house, imports = floors.rooms(), floors.arrows()
    assert not floors.upward(house, imports)
    assert ("cli", "report") in imports
    assert ("report", "cli") not in imports
    broken = {**imports, ("errors", "cli"): 1, ("graph", "inputs"): 1}
    assert floors.upward(house, broken) == [("errors", "cli"), ("graph", "inputs")]
    drawing = (ROOT / "docs" / "floors.svg").read_text(encoding="utf-8")
    assert all(f">{name}</text>" in drawing for name in house), "run python docs/floors.py docs/floors.svg"


def test_a_release_needs_tag_version_and_changelog_to_agree(tmp_path):
    check = script("check_release")
    (tmp_path / "attn_deploy").mkdir()
    (tmp_path / "attn_deploy" / "_version.py").write_text('__version__ = "1.2.3"\n')
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nversion = "1.2.3"\n[project.urls]\nRepository = "https://example.org"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 1.2.3 (2030-01-01)\n")
    assert check.problems("v1.2.3", tmp_path) == []
    assert len(check.problems("v1.2.4", tmp_path)) == 3
    assert "not of the form" in check.problems("1.2.3", tmp_path)[0]
    (tmp_path / "README.md").write_text("[a](docs/a.md) [b](https://example.org)\n")
    assert "docs/a.md" in check.problems("v1.2.3", tmp_path)[0]
    project.write_text('[project]\nversion = "1.2.3"\n')
    assert "no [project.urls]" in check.problems("v1.2.3", tmp_path)[0]
    version = re.search(r'= "(.+)"', (PACKAGE / "_version.py").read_text())[1]
    assert not [p for p in check.problems(f"v{version}") if "the tag is" in p], "the two version numbers differ"


# The commands that messages, help texts and documents name.


def commands(group: click.Group) -> dict[str, click.Command]:
    """Every command by the words that call it."""
    named: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        named[name] = command
        if hasattr(command, "commands"):
            named |= {f"{name} {n}": c for n, c in command.commands.items()}
    return named


COMMANDS = commands(typer.main.get_command(app))
PROSE = {"again", "and", "at", "raises", "reads", "uses"}  # "install attn-deploy again", "this attn-deploy reads ..."
CALL = re.compile(r"attn-deploy ([a-z][a-z-]*)((?: [^\s`'\"()]+)*)")


@functools.cache
def texts() -> list[tuple[str, str]]:
    """Every string of the source, with its place; of an f-string the parts that are fixed."""
    strings = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "attn-deploy " in node.value:
                strings.append((f"{path.relative_to(ROOT)}:{node.lineno}", node.value))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        strings.append((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")))
    return strings


def calls() -> list[tuple[str, str, list[str]]]:
    """Place, command and options of each call of the command line in a text."""
    named = []
    for place, text in texts():
        for match in CALL.finditer(text):
            if match[1] in PROSE:
                continue
            words = match[2].split()
            name = f"{match[1]} {words[0]}" if words and f"{match[1]} {words[0]}" in COMMANDS else match[1]
            options = [w.rstrip(".,;:") for w in words if w.startswith("--")]
            named.append((place, name, options))
    return named


def test_every_command_and_option_that_a_text_names_exists():
    wrong = []
    for place, name, options in calls():
        if name not in COMMANDS:
            wrong.append(f"{place}: attn-deploy {name}")
            continue
        known = {o for p in COMMANDS[name].params for o in (*p.opts, *p.secondary_opts)} | {"--help", "--debug"}
        wrong += [f"{place}: attn-deploy {name} {o}" for o in options if o.partition("=")[0] not in known]
    assert not wrong
    assert len(calls()) > 100


@pytest.mark.parametrize("words", ["list", "list --family backbone", "doctor --help", "profiles --model se"])
def test_commands_that_messages_send_people_to_run(words):
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    assert done.stdout


def test_a_class_name_stands_for_one_class():
    rooms = [f for r in ROOMS if r not in ("modules", "backbones") for f in (PACKAGE / r).rglob("*.py")]
    places: dict[str, list[str]] = {}
    for file in (*rooms, *PACKAGE.glob("*.py"), *(PACKAGE / "backbones").glob("slots.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(file.relative_to(PACKAGE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


# Entry points that another program calls by this name: `python -m`, a child process, a framework's registry.
ENTRY_POINTS = {"main", "register", "run", "serve"}


def test_a_function_name_stands_for_one_function():
    places: dict[str, list[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0]
        if room in ("modules", "backbones", "cli") or "standalone" in file.parts:
            continue  # the zoo's are of their module, commands are called like what they call, clients stand alone
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name not in ENTRY_POINTS:
                places.setdefault(node.name, []).append(str(file.relative_to(PACKAGE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_record_carries_a_path_of_the_machine_that_made_it():
    homes = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|Users|mnt|opt)/\w")
    records = [f for f in (ROOT / "profiles").rglob("*") if f.suffix in (".json", ".md")]
    assert records
    assert [str(f.relative_to(ROOT)) for f in records if homes.search(f.read_text(encoding="utf-8"))] == []
