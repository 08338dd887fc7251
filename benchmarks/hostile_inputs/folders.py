"""Packages and pipelines from elsewhere: files that are others, paths that lead out, configurations without end."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import onnx

from hostile_inputs.case import MARK, WORDS, Case
from hostile_inputs.graphs import made, put_sound
from hostile_inputs.records import altered

EVIL = f"open({MARK!r}, 'w').close()\n"


def package(chance: random.Random, folder: Path) -> Case:
    """A package in which a file is another, is gone, was added, or is a link to elsewhere; the seal as its maker wrote it."""
    made("package", folder)
    place = folder / "pkg"
    files = [p for p in sorted(place.rglob("*")) if p.is_file()]
    path = chance.choice(files)
    content = bytearray(path.read_bytes())
    kind = chance.randrange(6)
    if kind == 0:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    elif kind == 1:
        path.unlink()
    elif kind == 2:
        path.unlink()
        path.symlink_to(chance.choice(("/etc/passwd", "/dev/zero", path.name, "/")))
    elif kind == 3:
        path.write_bytes(content[: len(content) // 2])
    elif kind == 4:
        (place / "client" / "sitecustomize.py").write_text(EVIL)
    else:
        path.unlink()
        path.mkdir()
    return Case(("verify", "pkg"), must_fail=True)


def manifest(chance: random.Random, folder: Path) -> Case:
    """A package whose maker is hostile: everything has the right hash, and something is wrong all the same."""
    made("package", folder)
    place = folder / "pkg"
    path = place / "manifest.json"
    data = json.loads(path.read_text())
    data.pop("seal")
    kind, fails = chance.randrange(9), True
    if kind == 0:
        data["files"][chance.choice(("../secret", "/etc/passwd", "a/../../secret", "golden.npz/../../secret"))] = {
            "sha256": hashlib.sha256(b"secret").hexdigest(), "size": 6,
        }  # fmt: skip
        (folder / "secret").write_bytes(b"secret")
    elif kind == 1:
        np.savez(place / "golden.npz")
    elif kind == 2:
        with np.load(place / "golden.npz") as file:
            arrays = {k: file[k] for k in file.files}
        np.savez(place / "golden.npz", **{k: a[:0] if "output" in k else a for k, a in arrays.items()})
    elif kind == 3:
        np.savez(place / "golden.npz", **{chance.choice(("x", "a/b/c", "0/input", "9/output/y")): np.zeros(3)})
    elif kind == 4:
        data["tolerance"] = chance.choice(
            (
                {},
                [],
                {"rtol": 1e30, "atol": 1, "floor": 1, "agreement": 0},
                {"rtol": float("inf"), "atol": 1, "floor": 1},
                None,
            )
        )
    elif kind == 5:
        del data["files"][chance.choice([n for n in data["files"] if n in ("model.onnx", "golden.npz", "verify.py")])]
    elif kind == 6:
        (place / "verify.py").write_text(EVIL)  # nobody but its owner runs the script of a package
        fails = False
    elif kind == 7:
        model = onnx.load(place / "model.onnx")
        model.graph.node[0].op_type = "NoSuchOp"
        onnx.save(model, place / "model.onnx")
    else:
        text = altered(chance, json.dumps(data))
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):  # no JSON any more: it stays as it is
            path.write_text(text, encoding="utf-8")
            return Case(("verify", "pkg"), must_fail=False)
        fails = False
    if isinstance(data, dict) and isinstance(data.get("files"), dict):
        for name, facts in data["files"].items():
            if (place / str(name)).is_file() and isinstance(facts, dict):
                facts["sha256"] = hashlib.sha256((place / str(name)).read_bytes()).hexdigest()
    if isinstance(data, dict):
        seal = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
        data = {**data, "seal": seal}
    path.write_text(json.dumps(data))
    return Case(("verify", "pkg"), must_fail=fails)


def pipeline(chance: random.Random, folder: Path) -> Case:
    """A pipeline's file that names folders of others, options that are none, and values without end."""
    put_sound(folder)
    (folder / "evil.py").write_text(EVIL)
    precious = folder / "precious"
    (precious / "package").mkdir(parents=True)
    (precious / "profile").mkdir()
    (precious / "package" / "data").write_text("not to be lost")
    (precious / "profile" / "data").write_text("not to be lost")
    words = [w for w in WORDS if "\x00" not in w and "\x1b" not in w]
    models = ("--help", "--version", "-h", "sound.onnx", "sound.onnx", *words)
    outputs = ("precious", "../..", "/", "precious/package/..", "out", *words)
    tables = (
        '[package]\nname = "../../x"', '[package]\n"for" = ["python"]', "[profile]\nseconds = 0.01", "[profile]\nseconds = nan",
        '[build]\ntarget = "../../x"', '[quantize]\ncalibration = "/"', "[gates]\nmax_size_mb = nan", "[gates]\nmax_size_mb = -1",
        '[gates]\nno_regression = "/"', "[gates]\nmin_top1 = 2", '[profile]\nbatch = [1, [2]]', '[package]\noutput = "/tmp/x"',
        '[evaluate]\ndata_dir = "/dev/zero"', '[[build]]\ndevice = "x"\n[[build]]\ndevice = "x"', '[export]\nopset = 13',
    )  # fmt: skip
    model, output = json.dumps(chance.choice(models)), json.dumps(chance.choice(outputs))
    text = f"model = {model}\noutput = {output}\n" + "\n".join(chance.sample(tables, chance.randint(1, 3))) + "\n"
    if chance.random() < 0.15:
        text = chance.choice(
            ("a=" + "[" * 5000, "a." * 20_000 + "b=1", "", "\x00", "model = 3", "[model]\nx = 1", "x = 1\n" * 3)
        )
    (folder / "deploy.toml").write_text(text)
    if chance.random() < 0.2:
        (folder / "out").mkdir()
        (folder / "out" / "state.json").write_text(
            chance.choice(("[]", '{"profile": 3}', "{", '{"package": {"hash": 1}}'))
        )
    return Case(("deploy", "deploy.toml", *(["--plan"] if chance.random() < 0.3 else [])))
