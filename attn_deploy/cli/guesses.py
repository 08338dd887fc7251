"""Natural guesses at the command line: they work, or name what was meant. Old spellings work for one more release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

_COMMANDS = {
    "bench": "profile",
    "benchmark": "profile",
    "time": "profile",
    "show": "info",
    "check": "verify",
    "infer": "run",
    "optimize": "simplify",
    "quantise": "quantize",
    "eval": "evaluate",
    "test": "evaluate",
    "engine": "build",
    "models": "list",
    "ls": "list",
}
_FLAGS = {"--fp32": "fp32", "--fp16": "fp16", "--half": "fp16", "--bf16": "bf16", "--int8": "int8", "--fp8": "fp8"}
_WITH_PRECISION = ("export", "convert", "quantize", "build", "diagnose", "verify", "profile", "matrix")
_OLD: Mapping[str, Mapping[str, str]] = {
    "profile": {
        "--runtimes": "--runtime",
        "--precisions": "--precision",
        "--torch-device": "--on",
        "--save": "--output",
    },
    "matrix": {"--exporters": "--exporter", "--precisions": "--precision", "--runtimes": "--runtime"},
    "evaluate": {"--save": "--output", "--runtimes": "--runtime"},
    "train": {"--device": "--on"},
    "train-table": {"--device": "--on"},
}


class Guessing(TyperGroup):
    """The group of all commands, which knows other words for them and for their options."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the words stand for, with its arguments."""
        word, rest = args[0], args[1:]
        if word == "help":
            topic = _COMMANDS.get(rest[0], rest[0]) if rest else ""
            if topic in self.commands:
                return super().resolve_command(ctx, [topic, "--help"])
            typer.echo(ctx.get_help())
            ctx.exit()
        if word not in self.commands and word in _COMMANDS:
            _note(f"{word} is called {_COMMANDS[word]} here")
            word = _COMMANDS[word]
        return super().resolve_command(ctx, [word, *reworded(word, rest)])


class MatrixGroup(TyperGroup):
    """``matrix ghostmodule se`` names models; ``matrix merge`` and ``matrix diff`` are commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Read the arguments, with models by position as those of ``--models``."""
        count = next((i for i, a in enumerate(args) if a.startswith("-") or a in self.commands), len(args))
        if count and "--models" not in args:
            args = ["--models", ",".join(args[:count]), *args[count:]]
        return super().parse_args(ctx, args)


def reworded(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of a command in its own words: precisions in lower case, old spellings in the new ones."""
    old, words = _OLD.get(command, {}), list(arguments)
    result: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return [*result, word, *words]
        name, equals, value = word.partition("=")
        if name in old:
            _note(f"{name} of {command} is called {old[name]} now; the old spelling goes with the next release")
            name = old[name]
        if command == "matrix" and name == "--resume" and (equals or (words and not words[0].startswith("-"))):
            folder = value if equals else words.pop(0)
            _note(f"write matrix -o {folder} --resume now; the old spelling goes with the next release")
            result += ["--output", folder, "--resume"]
        elif command in _WITH_PRECISION and name in _FLAGS and not equals:
            result += ["--precision", _FLAGS[name]]
        elif name == "--precision" and (equals or words):
            result += [name, (value if equals else words.pop(0)).lower()]
        else:
            result.append(name + equals + value)
    return result


def _note(text: str) -> None:
    typer.echo(f"note: {text}.", err=True)
