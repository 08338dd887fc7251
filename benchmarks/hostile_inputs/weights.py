"""Checkpoints and folders of runs from elsewhere: headers that name code, pickles, weights that are not those recorded."""

from __future__ import annotations

import collections
import json
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path

from hostile_inputs.case import MARK, VALUES, WORDS, Case
from hostile_inputs.graphs import made

READERS: tuple[tuple[str, ...], ...] = (
    ("evaluate", "run", "--images", "20"),
    ("evaluate", "run/model.safetensors", "--images", "20"),
    ("export", "run", "-o", "out.onnx"),
    ("profile", "run", "--runtime", "eager", "--seconds", "0.02"),
    ("info", "run"),
)


def checkpoint(chance: random.Random, folder: Path) -> Case:
    """Weights from elsewhere: a header that names code, that is damaged, or that belongs to another record."""
    (folder / "evil.py").write_text(f"open({MARK!r}, 'w').close()\nNet = None\n")
    names = (
        "evil.py:Net", str(folder / "evil.py:Net"), "./evil.py:Net", "evil:Net", "timm:resnet18", "torchvision:resnet18",
        "mmcv:evil", "resnet8", "run", "run/model.safetensors", "no such", "resnet8+se", "resnet8+evil.py:Net",
        "resnet8:num_classes=1000000000", "resnet8+se:reduction=0", "se", "hf:evil/model", "https://example.org/x", "",
        "evil.py", "resnet8@evil.py:Net", "resnet8+se@" + "x" * 5000, "transformers:evil",
    )  # fmt: skip
    header: dict[str, object] = {
        "model": chance.choice(names),
        "arguments": chance.choice(
            ({}, {}, {"num_classes": 10**9}, {"layers": [10**7]}, {"act": "evil.py:Net"}, {"x": []})
        ),
        "dataset": "digits",
        "classes": list("0123456789"),
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    if chance.random() < 0.4:
        header[chance.choice(list(header))] = chance.choice((*VALUES, {"slot": "evil.py:Net"}))
    text = json.dumps(header) if chance.random() < 0.9 else "{" * 2000
    body = {"__metadata__": {"attn_deploy": text}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    if chance.random() < 0.3:
        body["w"][chance.choice(("dtype", "shape", "data_offsets"))] = chance.choice(  # type: ignore[index]
            ("F8_E4M3", [2**40, 2**40], [0, 2**63], [-1], None, [8, 0], "x")
        )
    head = json.dumps(body).encode()
    content = struct.pack("<Q", len(head) if chance.random() < 0.9 else 2**50) + head + bytes(8)
    run = folder / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes(content[: chance.choice((None, 40))])
    if chance.random() < 0.5:
        note = {"weights": {"file": "model.safetensors", "sha256": "0" * 64}}
        (run / "record.json").write_text(json.dumps(note))
    return Case(chance.choice(READERS), must_fail=True)


def run_folder(chance: random.Random, folder: Path) -> Case:
    """A run of ours in which something is another thing: weights, their hash, their name, or the record."""
    made("run", folder)
    weights, record = folder / "run" / "model.safetensors", folder / "run" / "record.json"
    content = bytearray(weights.read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    data = json.loads(record.read_text())
    kind = chance.randrange(7)
    if kind == 0:  # a flip in the tensors, or in what says what they are
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        weights.write_bytes(content)
    elif kind == 1:
        content[header + 2000 : header + 6000] = bytes(4000)
        weights.write_bytes(content)
    elif kind == 2:
        weights.unlink()
    elif kind == 3:
        data["weights"] = chance.choice(
            (None, {}, {"file": "../x", "sha256": "0"}, {"file": "/dev/zero", "sha256": "0"}, [])
        )
        record.write_text(json.dumps(data))
    elif kind == 4:
        data["weights"]["sha256"] = chance.choice(("", "0" * 64, data["weights"]["sha256"].upper(), None, 7))
        record.write_text(json.dumps(data))
    elif kind == 5:
        weights.write_bytes(content[: chance.randrange(len(content))])
    else:
        weights.unlink()
        weights.symlink_to(chance.choice(("/dev/zero", "/etc/passwd", "model.safetensors")))
    reader = chance.choice([r for r in READERS if r[0] != "info" and r[1] == "run"])
    return Case(reader, must_fail=True)


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {MARK}",))


def pickled(chance: random.Random, folder: Path) -> Case:
    """A pickle that would run code when it is loaded, as weights, calibration, labels or samples."""
    content = pickle.dumps(
        chance.choice(({"state_dict": _Evil()}, _Evil(), [_Evil()], collections.OrderedDict(w=_Evil())))
    )
    name = chance.choice(("w.pt", "w.pth", "w.bin", "w.ckpt", "w.safetensors", "w.npz", "w.npy"))
    path = folder / name
    if chance.random() < 0.5:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")
    else:
        path.write_bytes(content)
    if name in ("w.npz", "w.npy"):
        from hostile_inputs.graphs import put_sound

        put_sound(folder)
        command = chance.choice(
            (("run", "sound.onnx", "--data", name, "-o", "out.npz"), ("quantize", "sound.onnx", "--calibration", name))
        )
        return Case(command, must_fail=True)
    return Case(("export", "se", "--weights", name, "-o", "out.onnx"), must_fail=True, output="out.onnx")


def tensors(chance: random.Random, folder: Path) -> Case:
    """Weights of a module that has that name, of another type, shape or number."""
    import torch

    name = chance.choice(("se", "eca", "cbam"))
    from attn_deploy.resolve.resolve import create

    state = dict(create(name).state_dict())
    key = chance.choice(list(state))
    values = (
        state[key].to(torch.complex64), torch.zeros(0), torch.full_like(state[key].float(), float("nan")),
        state[key].to(torch.bool),
        torch.zeros(3, 3, 3, 3, 3), state[key].to(torch.int64), torch.sparse_coo_tensor(size=(4, 4)), {"a": 1}, None, "text",
        state[key].to(torch.float8_e4m3fn), torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    )  # fmt: skip
    kind, value = chance.randrange(3), chance.choice(values)
    if kind == 0:
        state[key] = value
    elif kind == 1:
        del state[key]
    else:
        state[chance.choice((*WORDS, "other"))] = torch.zeros(2)
    # Floats of eight bits are numbers, of which float32 keeps every one, as it does of those of sixteen.
    exact = kind == 0 and getattr(value, "dtype", None) == torch.float8_e4m3fn
    # A count of batches changes no output, and old checkpoints have none.
    exact = exact or (kind == 1 and key.endswith("num_batches_tracked"))
    wrapped = chance.choice(
        (
            state,
            {"state_dict": state},
            {"model": {"ema": state}},
            {"state_dict": {"state_dict": None}},
            [state],
            state.get(key, 3),
        )
    )
    torch.save(wrapped, folder / "w.pt")
    return Case(("export", name, "--weights", "w.pt", "-o", "out.onnx"), must_fail=not exact, output="out.onnx")
