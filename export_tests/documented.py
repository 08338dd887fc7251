"""The commands that the documentation names, read from its pages and from the help texts."""

from __future__ import annotations

import functools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

from attn_deploy.cli import app

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
# Before a block, in a comment that no reader of the page sees:
# <!-- expect: 1 -->    its commands end with this code, or one of 0,1
# <!-- needs: WORD -->  they are typed as they stand, and cannot be run in every checkout: what is missing
NEEDS = {"packages", "files", "hours", "cluster", "network"}
_BLOCK = re.compile(r"^(?:<!-- (?:expect: ([\d,]+)|needs: (\w+)) -->\n\n)?```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ANY_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(attn-deploy [^`]+)`")
_PLACE = re.compile(r"\b[A-Z][A-Z_]{2,}\b|\.\.\.|\{")  # stands for something: NAME, FILE, ...


@dataclass(frozen=True)
class Typed:
    """A command of a page.

    Attributes:
        page: the file that it is in.
        words: as a shell splits them.
        codes: that it may end with.
        needs: what a checkout alone lacks; empty where nothing is.
    """

    page: Path
    words: tuple[str, ...]
    codes: tuple[int, ...] = (0,)
    needs: str = ""

    def __str__(self) -> str:
        return shlex.join(self.words)


def blocks(page: Path) -> list[Typed]:
    """The commands of a page's blocks, in order."""
    commands = []
    for expected, needs, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        codes = tuple(int(c) for c in (expected or "0").split(","))
        for line in text.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                if words := shlex.split(part, comments=True):
                    commands.append(Typed(page, tuple(words), codes, needs))
    return commands


def in_text(page: Path) -> list[Typed]:
    """The whole commands of a page's sentences and tables, without those that hold a placeholder."""
    text = _ANY_BLOCK.sub("", page.read_text(encoding="utf-8")).replace("\n", " ")
    return [Typed(page, tuple(shlex.split(c))) for c in _INLINE.findall(text) if not _PLACE.search(c)]


def of_the_help() -> list[Typed]:
    """The examples of every command's own help."""
    root, commands = _root(), []
    matrix = {f"matrix {name}": command for name, command in root.commands["matrix"].commands.items()}
    for name, command in {"attn-deploy": root, **root.commands, **matrix}.items():
        text = (command.help or "").replace("\\\n", " ")
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith("attn-deploy ")]
        commands += [Typed(Path(f"{name} --help"), tuple(shlex.split(line))) for line in lines]
    return commands


def refusal(words: tuple[str, ...]) -> str:
    """What the command line says against the words of a command of attn-deploy; empty if it takes them all."""
    try:
        _descend(_root(), list(words[1:]), None)
    except typer.Exit:
        return ""
    except Exception as error:  # click's own, which typer brings under another name
        return f"{type(error).__name__}: {error}"
    return ""


@functools.cache
def _root() -> Any:
    return typer.main.get_command(app)


def _descend(command: Any, arguments: list[str], parent: Any) -> None:
    """Let each command of the line read its words, without running it."""
    with command.make_context(command.name, arguments, parent=parent) as context:
        rest = [*context._protected_args, *context.args]
        if hasattr(command, "resolve_command") and rest:
            _, below, rest = command.resolve_command(context, rest)
            _descend(below, rest, context)
