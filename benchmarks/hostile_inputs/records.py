"""Records of every kind with a field that is another, is gone, is markup, or is nested without end."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path

from hostile_inputs.case import VALUES, Case
from hostile_inputs.graphs import made, put_sound

# Kind: the record, and what reads it.
RECORDS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "profile": (
        "profile/record.json",
        (
            ("report", "profile", "-o", "r.html"),
            ("report", "profile", "-o", "r.md"),
            ("report", "profile"),
            ("compare", "profile", "sound"),
            ("package", "sound.onnx", "--for", "python,triton", "--profile", "profile", "-o", "pkg"),
        ),
    ),
    "matrix": (
        "matrix/record.json",
        (
            ("matrix", "diff", "sound", "matrix"),
            ("matrix", "merge", "matrix", "-o", "merged"),
            ("matrix", "--resume", "matrix", "--jobs", "1"),
        ),
    ),
    "accuracy": (
        "accuracy.json",
        (
            ("evaluate", "sound.onnx", "--dataset", "digits", "--images", "5", "--reference", "./accuracy.json"),
            ("package", "sound.onnx", "--accuracy", "accuracy.json", "-o", "pkg"),
        ),
    ),
    "run": (
        "run/record.json",
        (
            ("evaluate", "run", "--images", "20"),
            ("train", "resnet8", "--dataset", "digits", "--epochs", "1", "--threads", "1", "-o", "run", "--resume"),
        ),
    ),
    "engine": (
        "m.engine.json",
        (("inspect", "m.engine"), ("profile", "m.engine"), ("build", "m.onnx", "--target", "sm86")),
    ),
}


def record(chance: random.Random, folder: Path) -> Case:
    """A record of one kind in which something is another thing."""
    kind = chance.choice(list(RECORDS))
    name, commands = RECORDS[kind]
    made(kind, folder)
    put_sound(folder)
    path = folder / name
    text = path.read_text()
    if path.parent != folder:
        (folder / "sound").mkdir()
        (folder / "sound" / path.name).write_text(text)
    path.write_text(altered(chance, text))
    return Case(chance.choice(commands))


def altered(chance: random.Random, text: str) -> str:
    """JSON with one to three places changed, or no JSON any more."""
    data = json.loads(text)
    if chance.random() < 0.08:
        return chance.choice(
            ("[" * 100_000, "", "null", "[]", "3", "{}", text[: len(text) // 2], '{"a": 1e999}', "\ufeff" + text)
        )
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(_places(data))
        if not places:
            break
        holder, key = chance.choice(places)
        if chance.random() < 0.8:
            holder[key] = copy.deepcopy(chance.choice(VALUES))  # type: ignore[index]
        elif isinstance(holder, dict):
            del holder[key]
        elif chance.random() < 0.5:
            holder.append(copy.deepcopy(chance.choice(VALUES)))  # one list twice could come to hold itself
    return json.dumps(data)


def _places(data: object) -> Iterator[tuple[dict | list, object]]:
    if isinstance(data, dict):
        for key, value in list(data.items()):
            yield data, key
            yield from _places(value)
    elif isinstance(data, list):
        for index, value in enumerate(data[:5]):
            yield data, index
            yield from _places(value)


def engine(chance: random.Random, folder: Path) -> Case:
    """An engine that is none, with a sidecar of any kind."""
    (folder / "m.engine").write_bytes(chance.randbytes(200))
    sidecar = {"schema_version": 1, "sha256": "0" * 64, "flavor": chance.choice(("tensorrt-rtx", 7, None)), "onnx": "x"}
    text = chance.choice((json.dumps(sidecar), "{", "[" * 5000, "null", "[]", json.dumps({**sidecar, "inputs": [[1]]})))
    (folder / "m.engine.json").write_text(text)
    return Case((chance.choice(("inspect", "profile", "evaluate")), "m.engine"), must_fail=True)


def device(chance: random.Random, folder: Path) -> Case:
    """Device profiles in TOML, which name sizes, targets and speeds."""
    put_sound(folder)
    values = (
        '"x"',
        "1e308",
        "-1",
        "nan",
        "[]",
        "{}",
        "true",
        '"<script>"',
        "1979-05-27",
        "10000000000000000000000",
        "inf",
        '"../../x"',
    )
    names = (
        "name",
        "target",
        "workspace",
        "max_batch",
        "memory",
        "bandwidth",
        "peak",
        "cpu",
        "flavor",
        "sm",
        "bandwidth_gb_s",
    )
    lines = [f"{chance.choice(names)} = {chance.choice(values)}" for _ in range(4)]
    lines += [f"[{chance.choice(('peak', 'peaks', 'a.b.c', 'x'))}]", f"fp32 = {chance.choice(values)}"]
    text = chance.choice(("\n".join(lines), "a=" + "[" * 3000, "a." * 5000 + "b=1", "\x00", "[" * 50, '"' * 9))
    (folder / "d.toml").write_text(text)
    command = chance.choice(
        (
            ("build", "sound.onnx", "--device", "d.toml", "-o", "out.engine"),
            ("profile", "sound.onnx", "--runtime", "ort-cpu", "--seconds", "0.02", "--device", "d.toml"),
        )
    )
    return Case(command, must_fail=True)
