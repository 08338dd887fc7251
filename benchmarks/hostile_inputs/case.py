"""One case of the campaign: a command, what it runs on, and what would be wrong with its answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MARK = "EXECUTED"  # what code of an input writes when it runs
OLD = b"the old output"


@dataclass(frozen=True)
class Case:
    """One command on one input.

    Attributes:
        command: its words.
        must_fail: whether exit code 0 would be a silent acceptance.
        must_say: what a command that accepts the input has to say about it.
        output: the file that it writes, relative to its folder; what was there before must stay where it fails.
        faults: what the world does to it: see `hostile_inputs.world`.
        environment: variables beside the usual ones.
    """

    command: tuple[str, ...]
    must_fail: bool = False
    must_say: str = ""
    output: str = ""
    faults: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


Maker = Callable[[random.Random, Path], Case]

WORDS = (
    "", "x", "N", "N//0", "9**9**9", "-1", "\ufffd", "a" * 5000, "../../etc/passwd", "None", "y", "<script>",
    "{0.__class__}", "%s%n", "\x00", "\x1b[2J", "N" + "+N" * 3000,
    "__import__('os').system('touch EXECUTED')", "$(touch EXECUTED)",
)  # fmt: skip
NUMBERS = (-(2**63), -1, 0, 1, 7, 2**31, 2**40, 2**62, 2**63 - 1)
VALUES = (
    None, True, -1, 0, 1.5, 10**30, "FAILED", "<script>alert(1)</script>", "", [], {}, [[]], "x" * 3000, float("nan"),
    float("inf"), "../../etc/passwd", "evil.py:Net", [None] * 50, {"a": {"b": {"c": []}}}, -0.0, 1e308, "\ud800x",
)  # fmt: skip

# What reads an ONNX file. Each is tried on a sound file first: a command that refuses everything finds nothing.
ONNX_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("inspect", "{}"),
    ("inspect", "{}", "--check"),
    ("inspect", "{}", "sound.onnx", "--diff"),
    ("convert", "{}", "--opset", "20", "-o", "out.onnx"),
    ("convert", "{}", "--precision", "fp16", "-o", "out.onnx"),
    ("convert", "{}", "--precision", "bf16", "-o", "out.onnx"),
    ("quantize", "{}", "--target", "gpu", "--method", "minmax", "-o", "out.onnx"),
    ("quantize", "{}", "--target", "cpu", "--method", "minmax", "-o", "out.onnx"),
    ("simplify", "{}", "-o", "out.onnx"),
    ("verify", "{}", "sound.onnx"),
    ("verify", "sound.onnx", "{}"),
    ("run", "{}", "--data", "sound.npz", "-o", "out.npz"),
    ("package", "{}", "-o", "pkg"),
    ("build", "{}", "--target", "sm86", "--timeout", "50", "-o", "out.engine"),
    ("profile", "{}", "--seconds", "0.02", "--runtime", "ort-cpu", "--size", "16x16"),
    ("diagnose", "{}", "--no-build", "--precision", "fp16", "-o", "part.onnx"),
    ("evaluate", "{}", "--dataset", "digits", "--images", "10"),
)
MAY_SAY_NO = ("--diff", "--check", "diagnose", "verify")  # whose exit code 1 is an answer about a sound file too


def on_file(
    chance: random.Random, path: Path, *, must_fail: bool = False, must_say: str = "", skip: tuple[str, ...] = ()
) -> Case:
    """A command that reads an ONNX file; a sound file and a sound input lie beside it."""
    from hostile_inputs.graphs import put_sound

    put_sound(path.parent)
    words = chance.choice([c for c in ONNX_COMMANDS if c[0] not in skip])
    return case_of(words, path.name, must_fail=must_fail, must_say=must_say)


def case_of(words: tuple[str, ...], name: str, *, must_fail: bool = False, must_say: str = "") -> Case:
    """The case of one of the commands of `ONNX_COMMANDS`."""
    command = tuple(w.replace("{}", name) for w in words)
    output = command[command.index("-o") + 1] if "-o" in command and command[0] != "diagnose" else ""
    return Case(command, must_fail=must_fail, must_say=must_say, output=output)
