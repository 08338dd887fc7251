"""Natural guesses at the command line: they work, or name what was meant. Old spellings work for one more release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperGroup

from attn_deploy._version import __version__
from attn_deploy.cli.panels import write_commands, write_panels
from attn_deploy.cli.streams import echo

_COMMANDS = {
    word: command
    for command, words in {
        "profile": "bench benchmark time latency speed perf",
        "info": "show describe",
        "verify": "check validate parity",
        "run": "infer predict",
        "simplify": "optimize optimise slim",
        "quantize": "quantise calibrate ptq",
        "evaluate": "eval test accuracy",
        "build": "engine tensorrt trt compile",
        "export": "onnx",
        "convert": "opset upgrade downgrade cast",
        "list": "models ls zoo search find",
        "inspect": "view graph summary",
        "diagnose": "debug bisect",
        "package": "bundle serve triton",
        "deploy": "pipeline",
    }.items()
    for word in words.split()
}
# Other people's words for options; taken where the command has the one and not the other.
_OPTIONS = {
    word: option
    for option, words in {
        "--input": "--shape --shapes --inputs --input-shape --input-shapes --input-size",
        "--output": "--out --output-file --output-path --output-dir --save --dest",
        "--precision": "--dtype --type --precisions",
        "--opset": "--opset-version",
        "--calibration": "--calib --calibration-data --calib-data",
        "--weights": "--checkpoint --ckpt --state-dict",
        "--dynamic": "--dynamic-axes --dynamic-shapes",
        "--runtime": "--backend --provider --runtimes",
        "--batch": "--batch-size --batches",
        "--dataset": "--data",
        "--epochs": "--epoch",
        "--device": "--gpu --hardware",
        "--force": "--overwrite",
    }.items()
    for word in words.split()
}
_HINTS = {
    word: hint
    for words, hint in {
        "--batch --batch-size": "the batch moves by itself; --dynamic says which axes must, and --input 4x3x224x224 gives sizes",
        "--size --imgsz --img-size": "height and width move by themselves; --input 1x3x640x640 gives the sizes of a model of "
        "your own",
        "--device --cuda": "this runs on the processor; `build --device` is for a device, and `profile --on cuda` runs on one",
        "--quiet -q --silent": "progress goes to standard error, which 2>/dev/null silences; --json prints the record alone",
        "--verbose -v": "`attn-deploy --debug ...` shows tracebacks, and --json the whole record",
    }.items()
    for word in words.split()
}
_RUNTIMES = {
    "ort": "ort-cpu", "onnxruntime": "ort-cpu", "onnx": "ort-cpu", "cpu": "ort-cpu", "pytorch": "eager", "torch": "eager",
    "inductor": "compile", "torch.compile": "compile", "cuda": "ort-cuda", "trt": "tensorrt", "rtx": "tensorrt-rtx",
}  # fmt: skip
_FLAGS = {"--fp32": "fp32", "--fp16": "fp16", "--half": "fp16", "--bf16": "bf16", "--int8": "int8", "--fp8": "fp8"}
_WITH_PRECISION = ("export", "convert", "quantize", "build", "diagnose", "verify", "profile", "matrix", "package")
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

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by what they are for, then the options."""
        write_commands(self.commands, formatter)
        write_panels(self.get_params(ctx), ctx, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the words stand for, with its arguments."""
        word, rest = args[0], args[1:]
        if word == "version" and not rest:
            echo(f"attn-deploy {__version__}")
            ctx.exit()
        if word == "help":
            topic = _COMMANDS.get(rest[0], rest[0]) if rest else ""
            if topic:
                return super().resolve_command(ctx, [topic, "--help"])  # an unknown one is refused with what is near
            echo(ctx.get_help())
            ctx.exit()
        if word in ("devices", "list-devices"):
            word, rest = "list", ["--devices", *rest]
        if word not in self.commands and word in _COMMANDS:
            _note(f"{word} is called {_COMMANDS[word]} here")
            if word in ("search", "find") and rest and not rest[0].startswith("-"):
                rest = ["--search", *rest]
            word = _COMMANDS[word]
        if word in self.commands:
            options = {name for p in self.commands[word].params for name in (*p.opts, *p.secondary_opts)}
            rest = _in_known_words(ctx, rest, options, word)
        return super().resolve_command(ctx, [word, *reworded(word, rest)])


class MatrixGroup(TyperGroup):
    """``matrix ghostmodule se`` names models; ``matrix merge`` and ``matrix diff`` are commands."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options by panel, then the commands."""
        write_panels(self.get_params(ctx), ctx, formatter)
        write_commands(self.commands, formatter)

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
        elif name == "--runtime" and command != "matrix" and (equals or words):
            result += [name, _runtimes(value if equals else words.pop(0))]
        elif name == "--precision" and (equals or words):
            result += [name, (value if equals else words.pop(0)).lower()]
        else:
            result.append(name + equals + value)
    return result


def _in_known_words(ctx: Any, arguments: Sequence[str], options: set[str], command: str) -> list[str]:
    """Other people's options in those of the command; where it has none, words on what is done about it here."""
    result: list[str] = []
    for position, word in enumerate(arguments):
        if word == "--":
            return [*result, *arguments[position:]]
        name, equals, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        if name in options or name in _OLD.get(command, {}) or not name.startswith("-"):
            result.append(name + equals + value if name.startswith("-") else word)
        elif _OPTIONS.get(name) in options:
            _note(f"{name} is called {_OPTIONS[name]} here")
            result.append(_OPTIONS[name] + equals + value)
        elif name in _HINTS:
            ctx.fail(f"{name} is no option of {command}: {_HINTS[name]}.")
        else:
            result.append(word)
    return result


def _runtimes(words: str) -> str:
    """Other people's names of runtimes in ours."""
    names = [_RUNTIMES.get(name.strip().lower(), name.strip()) for name in words.split(",")]
    changed = [f"{a.strip()} is {b}" for a, b in zip(words.split(","), names, strict=True) if a.strip() != b]
    if changed:
        _note(f"as a runtime {', '.join(changed)}")
    return ",".join(names)


def _note(text: str) -> None:
    echo(f"note: {text}.", err=True)
