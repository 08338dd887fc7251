"""Sound inputs: what the campaign damages, and what its commands are tried on first."""

from __future__ import annotations

import io
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def conv_graph(hidden: int = 8, classes: int = 10) -> onnx.ModelProto:
    """Two convolutions with dynamic N, H and W."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((hidden, 3, 3, 3)).astype(np.float32),
        "b1": rng.standard_normal(hidden).astype(np.float32),
        "w2": rng.standard_normal((classes, hidden, 1, 1)).astype(np.float32),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="act"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="second"),
        helper.make_node("ReduceMean", ["c", "axes"], ["y"], keepdims=0, name="mean"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ("N", 3, "H", "W"))],
        [value("y", TensorProto.FLOAT, ("N", classes))],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@cache
def proven() -> bytes:
    """A file with evidence and a seal, as `convert` writes it."""
    from attn_deploy.conversion.convert import convert

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.onnx"), Path(folder, "b.onnx")
        onnx.save(conv_graph(), source)
        convert(source, target, opset=19)
        return target.read_bytes()


@cache
def sound_arrays() -> bytes:
    """An ``.npz`` with an input of the sound graph."""
    buffer = io.BytesIO()
    np.savez(buffer, x=np.random.default_rng(1).random((2, 3, 16, 16), np.float32))
    return buffer.getvalue()


def put_sound(folder: Path) -> None:
    """A sound file and a sound input, for commands that take two."""
    (folder / "sound.onnx").write_bytes(proven())
    (folder / "sound.npz").write_bytes(sound_arrays())


_made: dict[str, Path] = {}


def made(kind: str, folder: Path) -> Path:
    """A copy in ``folder`` of a sound run, matrix, profile, package, engine or pipeline, which is made once."""
    if kind not in _made:
        from hostile_inputs.making import MAKERS

        place = Path(tempfile.mkdtemp(prefix="hostile-sound-"))
        _temporary.append(place)
        MAKERS[kind](place)
        _made[kind] = place
    for entry in _made[kind].iterdir():
        target = folder / entry.name
        shutil.copytree(entry, target) if entry.is_dir() else shutil.copyfile(entry, target)
    return folder


_temporary: list[Path] = []


def forget() -> None:
    """Remove what was made."""
    for place in _temporary:
        shutil.rmtree(place, ignore_errors=True)
