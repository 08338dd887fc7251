"""A campaign of hostile inputs against the command line: damaged, altered and malicious files of every kind it reads.

    python benchmarks/hostile.py [--seed 0] [--count 2000] [--seconds 0] [--keep FOLDER] [--only CLASS]

Each case is one command on one input in a process of its own, forked from this one, which has the libraries loaded.
The table counts by class: commands that refused the input, that did their work, and whose native code crashed and was
contained; and what must never happen: tracebacks (and defects reported as such), deaths of the command line itself,
hangs, inputs that were accepted although nothing can be right about them, and code of the input that ran. The exit code
is 1 if any of those is not 0. With one seed the cases are the same.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HANG = 60.0  # seconds
MARK = "EXECUTED"
BAD = ("tracebacks", "deaths", "hangs", "silent", "code runs")


@dataclass(frozen=True)
class Case:
    """One command on one input.

    Attributes:
        command: its words.
        must_fail: whether exit code 0 would be a silent acceptance.
        must_say: what a command that accepts the input has to say about it.
    """

    command: tuple[str, ...]
    must_fail: bool = False
    must_say: str = ""


Maker = Callable[[random.Random, Path], Case]


# Graphs


def conv_graph(hidden: int = 8) -> onnx.ModelProto:
    """Two convolutions with dynamic N, H and W."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((hidden, 3, 3, 3)).astype(np.float32),
        "b1": rng.standard_normal(hidden).astype(np.float32),
        "w2": rng.standard_normal((4, hidden, 1, 1)).astype(np.float32),
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
        [value("y", TensorProto.FLOAT, ("N", 4))],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


ONNX_COMMANDS = (
    ("inspect",),
    ("inspect", "--check"),
    ("convert", "--opset", "20", "-o", "out.onnx"),
    ("convert", "--precision", "fp16", "-o", "out.onnx"),
    ("quantize", "-o", "out.onnx"),
    ("profile", "--seconds", "0.02", "--runtimes", "ort-cpu", "--size", "16x16"),
    ("diagnose", "--no-build"),
    ("evaluate", "--dataset", "digits", "--images", "10"),
)


def on_file(chance: random.Random, path: Path, **settings: object) -> Case:
    """A command that reads an ONNX file."""
    name, *rest = chance.choice(ONNX_COMMANDS)
    return Case((name, path.name, *rest), **settings)  # type: ignore[arg-type]


def protobuf_edit(chance: random.Random, folder: Path) -> Case:
    """A valid graph with one or two fields set to something else."""
    model = onnx.load_from_string(proven())
    for _ in range(chance.randint(1, 2)):
        chance.choice(EDITS)(chance, model)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return on_file(chance, path)


WORDS = ("", "x", "N", "N//0", "9**9**9", "-1", "\ufffd", "a" * 5000, "../../etc/passwd", "None", "y", "<script>")
NUMBERS = (-(2**63), -1, 0, 1, 7, 2**31, 2**40, 2**62)


def _edit_node(chance: random.Random, model: onnx.ModelProto) -> None:
    node = chance.choice(model.graph.node)
    kind = chance.randrange(5)
    if kind == 0:
        node.op_type = chance.choice(("Div", "Loop", "If", "Gather", "NoSuchOp", "Reshape", "Einsum", "Resize", ""))
    elif kind == 1 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(("", "y", "nothing", "x"))
    elif kind == 2:
        node.output[0] = chance.choice(("y", "x", "", "w1"))
    elif kind == 3 and node.attribute:
        attribute = chance.choice(node.attribute)
        attribute.type = chance.randint(0, 14)
        attribute.i = chance.choice(NUMBERS)
        attribute.ints.append(chance.choice(NUMBERS))
    else:
        node.domain = chance.choice(("com.microsoft", "evil", "ai.onnx.ml"))


def _edit_value(chance: random.Random, model: onnx.ModelProto) -> None:
    value = chance.choice([*model.graph.input, *model.graph.output])
    tensor = value.type.tensor_type
    kind = chance.randrange(4)
    if kind == 0:
        tensor.elem_type = chance.choice((0, 2, 7, 8, 9, 10, 14, 16, 17, 23, 9999))
    elif kind == 1 and tensor.shape.dim:
        chance.choice(tensor.shape.dim).dim_value = chance.choice(NUMBERS)
    elif kind == 2 and tensor.shape.dim:
        chance.choice(tensor.shape.dim).dim_param = chance.choice(WORDS)
    else:
        value.name = chance.choice(WORDS)


def _edit_weight(chance: random.Random, model: onnx.ModelProto) -> None:
    tensor = chance.choice(model.graph.initializer)
    kind = chance.randrange(4)
    if kind == 0 and tensor.data_location != TensorProto.EXTERNAL:
        array = numpy_helper.to_array(tensor).copy()
        if array.dtype.kind == "f":
            array.flat[0] = chance.choice((np.nan, np.inf, -np.inf, 3e38, 1e-40))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    elif kind == 1 and tensor.dims:
        tensor.dims[0] = chance.choice(NUMBERS)
    elif kind == 2:
        tensor.data_type = chance.choice((0, 2, 7, 8, 9, 10, 14, 16, 17, 23, 9999))
    else:
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", chance.choice(("../secret", "/etc/passwd", "missing.bin", ""))


def _edit_model(chance: random.Random, model: onnx.ModelProto) -> None:
    kind = chance.randrange(5)
    if kind == 0:
        model.opset_import[0].version = chance.choice((0, 1, 6, 99, 2**40))
    elif kind == 1:
        model.opset_import.add().version = chance.choice((1, 17))
    elif kind == 2:
        model.ir_version = chance.choice((0, 1, 99, 2**40))
    elif kind == 3:
        model.graph.output.add().CopyFrom(model.graph.output[0])
    elif model.metadata_props:
        chance.choice(model.metadata_props).value = chance.choice(("{no", "[" * 3000, "null", '{"a": NaN}', "\ud7ff"))


EDITS = (_edit_node, _edit_value, _edit_weight, _edit_model)
_proven: list[bytes] = []


def proven() -> bytes:
    """A file with evidence and a seal, as `convert` writes it."""
    if not _proven:
        from attn_deploy.conversion.convert import convert

        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "a.onnx"), Path(folder, "b.onnx")
            onnx.save(conv_graph(), source)
            convert(source, target, opset=19)
            _proven.append(target.read_bytes())
    return _proven[0]


def flip(chance: random.Random, folder: Path) -> Case:
    """A proven file with a few bits flipped: what still reads must be called changed."""
    content = bytearray(proven())
    for _ in range(chance.choice((1, 1, 1, 3, 20))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    (folder / "m.onnx").write_bytes(content)
    return on_file(chance, folder / "m.onnx")


def sealed(chance: random.Random, folder: Path) -> Case:
    """A proven file whose weights were changed, the evidence still inside."""
    model = onnx.load_from_string(proven())
    tensor = next(i for i in model.graph.initializer if len(i.dims) == 4)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[chance.randrange(array.size)] += chance.choice((0.5, -3.0, 1e-2))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    if chance.random() < 0.5:
        return Case(("inspect", "m.onnx", "--check"), must_fail=True)
    return Case(("convert", "m.onnx", "--opset", "20", "-o", "out.onnx"), must_say="changed after it was proven")


def truncation(chance: random.Random, folder: Path) -> Case:
    """A file cut short, or followed by something else, or another kind of file."""
    content = proven()
    kind = chance.randrange(4)
    cut = content[: chance.randrange(len(content))]
    text = (cut, content + chance.randbytes(64), b"PK\x03\x04" + chance.randbytes(200), chance.randbytes(500))[kind]
    (folder / "m.onnx").write_bytes(text)
    return on_file(chance, folder / "m.onnx")


def handmade(chance: random.Random, folder: Path) -> Case:
    """Graphs that nobody's exporter writes: no end, no size, no numbers, nothing to compare."""
    node, value = helper.make_node, helper.make_tensor_value_info
    huge = chance.choice((10**9, 10**12, 2**40))
    relu = [node("Relu", ["x"], ["y"])]
    shapes: tuple[object, object] = ((1, 4), (1, 4))
    weights: dict[str, np.ndarray] = {}
    fails = True
    kind = chance.randrange(8)
    if kind == 0:
        nodes = [node("Div", ["a", "b"], ["c"]), node("Cast", ["c"], ["f"], to=1), node("Add", ["x", "f"], ["y"])]
        weights, fails = {"a": np.array([-(2**63)]), "b": np.array([-1])}, False
    elif kind == 1:
        nodes = [node("ConstantOfShape", ["s"], ["c"]), node("ReduceSum", ["c"], ["r"], keepdims=0)]
        nodes.append(node("Add", ["x", "r"], ["y"]))
        weights = {"s": np.array([huge])}
    elif kind == 2:
        nodes = [node("Expand", ["x", "s"], ["c"]), node("ReduceSum", ["c"], ["y"])]
        weights = {"s": np.array([huge, 1, 4])}
    elif kind == 3:
        nodes, shapes = relu, ((chance.choice((2**40, -5)), 4), (1, 4))
    elif kind == 4:
        nodes = [node("Einsum", ["x", "w"], ["y"], equation=chance.choice(("ij,jk->ik", "i" * 60, "->", "ij,jk")))]
        weights, fails = {"w": np.zeros((4, 4), np.float32)}, False
    elif kind == 5:
        body = helper.make_graph(
            [node("Identity", ["c"], ["o"])],
            "b",
            [value("i", TensorProto.INT64, ()), value("c", TensorProto.BOOL, ())],
            [value("o", TensorProto.BOOL, ())],
        )
        nodes = [node("Loop", ["n", ""], [], body=body), *relu]
        weights = {"n": np.array(huge)}
    elif kind == 6:
        nodes, shapes, fails = relu, ((chance.choice(("N//0", "9**9**9", "(" * 300)), 4), ("M", 4)), False
    else:
        deep = relu[0]
        for _ in range(chance.choice((20, 90))):
            branch = helper.make_graph([deep], "b", [], [value(deep.output[0], TensorProto.FLOAT, None)])
            deep = node("If", ["t"], ["y"], then_branch=branch, else_branch=branch) if _ < 8 else deep
        nodes, weights, fails = [deep], {"t": np.array(True)}, False
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, shapes[0])],
        [value("y", TensorProto.FLOAT, shapes[1])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return on_file(chance, folder / "m.onnx", must_fail=fails)


# Other files


def checkpoint(chance: random.Random, folder: Path) -> Case:
    """Weights from elsewhere: a header that names code, that is damaged, or that belongs to another record."""
    (folder / "evil.py").write_text(f"open({MARK!r}, 'w').close()\n")
    names = ("evil.py:Net", str(folder / "evil.py:Net"), "timm:resnet18", "resnet8", "run", "no such", "resnet8+se")
    header: dict[str, object] = {
        "model": chance.choice(names),
        "arguments": {},
        "dataset": "digits",
        "classes": list("0123456789"),
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    if chance.random() < 0.4:
        header[chance.choice(list(header))] = chance.choice((None, 3, [], {}, "x" * 4000, {"slot": "evil.py:Net"}))
    text = json.dumps(header) if chance.random() < 0.9 else "{" * 2000
    body = {"__metadata__": {"attn_deploy": text}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    head = json.dumps(body).encode()
    content = struct.pack("<Q", len(head) if chance.random() < 0.9 else 2**50) + head + bytes(8)
    run = folder / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes(content[: chance.choice((None, 40))])
    if chance.random() < 0.5:
        note = {"weights": {"file": "model.safetensors", "sha256": "0" * 64}}
        (run / "record.json").write_text(json.dumps(note))
    command = chance.choice(
        (("evaluate", "run"), ("export", "run", "-o", "o.onnx"), ("evaluate", "run/model.safetensors"))
    )
    return Case(command, must_fail=True)


def pickled(chance: random.Random, folder: Path) -> Case:
    """A pickle that would run code when it is loaded, as weights."""
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.system, (f"touch {MARK}",))

    (folder / "w.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    return Case(("export", "se", "--weights", "w.pt", "-o", "o.onnx"), must_fail=True)


def calibration(chance: random.Random, folder: Path) -> Case:
    """Arrays that are no images, and archives that are no arrays."""
    onnx.save(conv_graph(), folder / "m.onnx")
    good = np.random.default_rng(0).random((8, 3, 16, 16), np.float32)
    arrays = (
        good.astype(complex), good > 0.5, good.astype(str), good.astype("datetime64[s]"), good[:, :2], good[0],
        np.full_like(good, np.nan), good.astype(np.float64) * 1e300, good[:0],
    )  # fmt: skip
    path = folder / "data.npz"
    if chance.random() < 0.7:
        np.savez(path, x=chance.choice(arrays))
    else:
        path.write_bytes(chance.choice((b"", b"PK\x05\x06" + bytes(18), chance.randbytes(300), b"PK\x03\x04")))
    return Case(("quantize", "m.onnx", "--calibration", "data.npz", "-o", "o.onnx"), must_fail=True)


def images(chance: random.Random, folder: Path) -> Case:
    """Folders of files that are called images, and data sets that are cut short."""
    onnx.save(conv_graph(), folder / "m.onnx")
    if chance.random() < 0.3:
        batch = folder / "cifar-10-batches-bin"
        batch.mkdir()
        (batch / "test_batch.bin").write_bytes(chance.randbytes(chance.randrange(5000)))
        return Case(("evaluate", "m.onnx", "--dataset", "cifar10", "--data-dir", "."), must_fail=True)
    for name in ("a", "b", "c", "d"):
        place = folder / "images" / name
        place.mkdir(parents=True)
        png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 10**6, 10**6) + chance.randbytes(40)
        (place / "1.png").write_bytes(chance.choice((b"", png, chance.randbytes(300), b"GIF89a" + bytes(8))))
    return Case(("evaluate", "m.onnx", "--dataset", "folder", "--data-dir", "images"), must_fail=True)


def engine(chance: random.Random, folder: Path) -> Case:
    """An engine that is none, with a sidecar of any kind."""
    (folder / "m.engine").write_bytes(chance.randbytes(200))
    sidecar = {"schema_version": 1, "sha256": "0" * 64, "flavor": chance.choice(("tensorrt-rtx", 7, None)), "onnx": "x"}
    text = chance.choice((json.dumps(sidecar), "{", "[" * 5000, "null", "[]", json.dumps({**sidecar, "inputs": [[1]]})))
    (folder / "m.engine.json").write_text(text)
    return Case((chance.choice(("inspect", "profile", "evaluate")), "m.engine"), must_fail=True)


VALUES = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    "FAILED",
    "<script>alert(1)</script>",
    "",
    [],
    {},
    [[]],
    "x" * 3000,
    float("nan"),
)


def record(chance: random.Random, folder: Path) -> Case:
    """Records of every kind with a field that is another, is gone, or is nested without end."""
    kind = chance.choice(list(records()))
    data = json.loads(records()[kind])
    places = list(_places(data))
    holder, key = chance.choice(places)
    if chance.random() < 0.8:
        holder[key] = chance.choice(VALUES)
    elif isinstance(holder, dict):
        del holder[key]
    text = json.dumps(data) if chance.random() < 0.95 else "[" * 100_000
    (folder / "record.json").write_text(text)
    (folder / "good.json").write_text(records()[kind])
    onnx.save(conv_graph(), folder / "m.onnx")
    commands = {
        "profile": (("report", "record.json", "-o", "r.html"), ("compare", "good.json", "record.json")),
        "matrix": (("matrix", "diff", "good.json", "record.json"), ("matrix", "merge", "record.json", "-o", "merged")),
        "accuracy": (
            ("evaluate", "m.onnx", "--dataset", "digits", "--images", "5", "--reference", "./good.json"),
            ("evaluate", "m.onnx", "--dataset", "digits", "--images", "5", "--reference", "altered.json"),
        ),
    }
    shutil.copyfile(folder / "record.json", folder / "altered.json")
    return Case(chance.choice(commands[kind]))


def _places(data: object) -> Iterator[tuple[dict | list, object]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield data, key
            yield from _places(value)
    elif isinstance(data, list):
        for index, value in enumerate(data[:5]):
            yield data, index
            yield from _places(value)


_records: dict[str, str] = {}


def records() -> dict[str, str]:
    """A small sound record of each kind."""
    if not _records:
        from attn_deploy.accuracy.predict import run_dataset
        from attn_deploy.bench.profiler import profile
        from attn_deploy.data import load_dataset
        from attn_deploy.machine.environment import describe_environment
        from attn_deploy.matrix.cell import Cell, CellId, Check
        from attn_deploy.matrix.options import MatrixOptions
        from attn_deploy.matrix.record import MatrixRecord
        from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

        with tempfile.TemporaryDirectory() as place:
            path = Path(place, "m.onnx")
            onnx.save(conv_graph(), path)
            kept = profile(str(path), size=(16, 16), options=_quick())
            _records["profile"] = kept.to_json()
            graph = conv_graph()
            graph.graph.initializer[2].CopyFrom(
                numpy_helper.from_array(np.random.default_rng(1).random((10, 8, 1, 1), np.float32), "w2")
            )
            graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 10
            onnx.save(graph, path)
            runner = OnnxRuntimeRunner(path)
            result = run_dataset(runner, load_dataset("digits", "test").head(5), model="m.onnx", input_name="x")
            runner.close()
            _records["accuracy"] = json.dumps(result.to_dict())
        cell = Cell(id=CellId("se", "dynamo", 17), checks=(Check("export", "passed"), Check("parity", "passed")))
        options = MatrixOptions(models=("se",), opsets=(17,), exporters=("dynamo",), runtimes=("ort",))
        _records["matrix"] = MatrixRecord(cells=(cell,), options=options, environment=describe_environment()).to_json()
    return _records


def _quick() -> object:
    from attn_deploy.bench.options import BenchOptions

    return BenchOptions(min_samples=4, min_seconds=0.01, warmup_seconds=0.01, rounds=2, threads=1)


USER_FILES = {
    "import sys\nsys.exit(0)\n": True,
    "import os\nos._exit(0)\n": True,
    "raise KeyboardInterrupt\n": True,
    "raise RuntimeError('no')\n": True,
    "def f(:\n": True,
    "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n": True,
    "class Net:\n    pass\n": True,
    "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        exit(0)\n": True,
    "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        raise SystemExit(0)\n": True,
    "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return self.forward(x)\n": True,
    "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return 'text'\n": True,
    "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x[0:0]\n": False,
}


def user_file(chance: random.Random, folder: Path) -> Case:
    """The user's own file, which may do anything, and must not end a command as if all were well."""
    text = chance.choice(list(USER_FILES))
    (folder / "net.py").write_text(text)
    name = chance.choice(("export", "lint"))
    rest = ("-o", "o.onnx") if name == "export" else ()
    return Case((name, "net.py:Net", "--input", "1x3x8x8", *rest), must_fail=USER_FILES[text] or name == "export")


CLASSES: dict[str, tuple[float, Maker]] = {
    "protobuf edits": (4, protobuf_edit),
    "bit flips": (4, flip),
    "broken seals": (1, sealed),
    "truncations": (2, truncation),
    "hand-written graphs": (2, handmade),
    "checkpoints": (2, checkpoint),
    "pickles": (0.3, pickled),
    "calibration": (1.5, calibration),
    "images": (1, images),
    "engines": (1, engine),
    "records": (4, record),
    "user files": (0.7, user_file),
}


# Running


def run(case: Case, folder: Path) -> tuple[int | None, str]:
    """The exit code of a command, None for a hang, and what it printed."""
    output = folder / ".output"
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.chdir(folder)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        sys.argv = ["attn-deploy", *case.command]
        code = 99
        try:
            from attn_deploy.cli import main

            main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), output.read_text(errors="replace")
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None, output.read_text(errors="replace")


def judged(case: Case, code: int | None, text: str, folder: Path) -> str:
    """The column of the table that a case belongs to."""
    if (folder / MARK).exists():
        return "code runs"
    if code is None:
        return "hangs"
    if "Traceback (most recent call last)" in text or code in (70, 99):
        return "tracebacks"
    if code < 0:
        return "deaths"
    if code == 0:
        silent = case.must_fail or (case.must_say and case.must_say not in text)
        return "silent" if silent else "done"
    return "contained" if "crashed (SIG" in text else "refused"


def main() -> int:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so many; 0 for never")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of cases that went wrong")
    parser.add_argument("--only", choices=list(CLASSES))
    options = parser.parse_args()
    import torch  # noqa: F401  # once, and not in each of thousands of processes

    started = time.monotonic()
    table: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in CLASSES}
    weights = [w for w, _ in CLASSES.values()]
    for number in range(options.count):
        if options.seconds and time.monotonic() - started > options.seconds:
            break
        chance = random.Random(f"{options.seed}/{number}")
        name = options.only or chance.choices(list(CLASSES), weights)[0]
        folder = Path(tempfile.mkdtemp(prefix="hostile-"))
        case = CLASSES[name][1](chance, folder)
        code, text = run(case, folder)
        column = judged(case, code, text, folder)
        table[name][column] += 1
        if column in BAD:
            last = (text.strip().splitlines() or [""])[-1][:200]
            print(
                f"{column}: {name}, case {options.seed}/{number}: {' '.join(case.command)}: exit {code}: {last}",
                flush=True,
            )
            if options.keep:
                shutil.copytree(folder, options.keep / f"{options.seed}-{number}", dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    columns = ("refused", "done", "contained", *BAD)
    print(f"\n{'':20}{'cases':>8}" + "".join(f"{c:>12}" for c in columns))
    total: collections.Counter[str] = collections.Counter()
    for name, counts in table.items():
        total += counts
        print(f"{name:20}{counts.total():>8}" + "".join(f"{counts[c]:>12}" for c in columns))
    print(f"{'all':20}{total.total():>8}" + "".join(f"{total[c]:>12}" for c in columns))
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s")
    return 1 if any(total[c] for c in BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
