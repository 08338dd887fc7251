"""Public functions on files of others: a library that dies takes its own process with it, and not the caller's."""

from __future__ import annotations

import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import attn_deploy
from attn_deploy.conversion.convert import convert as direct_convert
from attn_deploy.errors import AttnDeployError, FileWarning, GraphError, InvalidRequestError, WorkerCrashError
from attn_deploy.graph.evidence import Evidence, write_evidence
from attn_deploy.guarding import call, guarded
from attn_deploy.guarding.transport import error_data, error_from, packed, unpacked
from attn_deploy.inputs.tensors import TensorInput
from export_tests.conftest import ROOT

N = helper.make_node


def save(path: Path, nodes, weights=(), *, sealed: bool = False) -> Path:
    value = helper.make_tensor_value_info
    ends = ([value("x", TensorProto.FLOAT, ("N", 4))], [value("y", TensorProto.FLOAT, ("N", 4))])
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(np.asarray(a), n) for n, a in weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if sealed:
        write_evidence(model, Evidence(precision="fp32"))
        model.graph.node[0].name = "another"
    onnx.save(model, path)
    return path


@pytest.fixture
def sound(tmp_path):
    return save(tmp_path / "sound.onnx", [N("Relu", ["x"], ["y"])])


@pytest.fixture
def deadly(tmp_path):
    """Kills ONNX Runtime with SIGFPE."""
    nodes = [N("Div", ["a", "b"], ["c"]), N("Cast", ["c"], ["f"], to=1), N("Add", ["x", "f"], ["y"])]
    return save(tmp_path / "deadly.onnx", nodes, [("a", [-(2**63)]), ("b", [-1])])


def test_a_library_that_dies_is_an_error(deadly, sound, tmp_path):
    data = tmp_path / "x.npz"
    np.savez(data, x=np.ones((2, 4), np.float32))
    calls = [
        lambda path: attn_deploy.convert(path, tmp_path / "out.onnx", opset=20),
        lambda path: attn_deploy.run_file(str(path), data),
        lambda path: attn_deploy.verify_files(sound, path),
    ]
    for run in calls:
        with pytest.raises(WorkerCrashError, match=r"crashed \(SIGFPE\)\. A library failed on this input"):
            run(deadly)
        run(sound)  # the next call finds a process that is as it was
    assert attn_deploy.run_file(sound, data).outputs["y"].tolist() == [[1.0] * 4] * 2


def test_a_process_makes_the_calls_that_go_well_and_no_more(sound, deadly, tmp_path):
    idle = lambda: [line.held for line in call._server._idle]  # noqa: E731
    attn_deploy.inspect(sound)
    first = idle()
    attn_deploy.inspect(sound)
    assert idle() == first
    with pytest.raises(GraphError):
        attn_deploy.inspect(tmp_path / "missing.onnx")
    assert len(idle()) == len(first) - 1, "after an error the process is let go"


def test_a_process_that_is_gone_while_it_waits_is_no_error(sound):
    attn_deploy.inspect(sound)
    server = call._server._process.pid
    before = family(server)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert attn_deploy.inspect(sound).artifact.opset == 17


def test_errors_warnings_and_callbacks_come_back(sound, tmp_path):
    with pytest.raises(GraphError, match=r"missing\.onnx not found") as error:
        attn_deploy.convert(tmp_path / "missing.onnx", opset=20)
    assert error.value.exit_code == 2
    with pytest.raises(InvalidRequestError, match="nothing to convert to"):
        attn_deploy.convert(sound)
    with pytest.raises(TypeError, match="no_such_option"):
        attn_deploy.convert(sound, no_such_option=1)
    changed = save(tmp_path / "changed.onnx", [N("Relu", ["x"], ["y"])], sealed=True)
    with pytest.warns(FileWarning, match="changed after it was proven"):
        attn_deploy.convert(changed, tmp_path / "out.onnx", opset=20)
    words = []
    attn_deploy.convert(sound, opset=17, progress=words.append)
    assert len(words) == 1
    assert "has opset 17 already" in words[0]


def test_what_is_trusted_or_the_callers_own_runs_here(sound, monkeypatch):
    monkeypatch.setattr("attn_deploy.guarding.call._served", lambda _: pytest.fail("another process was asked"))
    with attn_deploy.unguarded():
        assert attn_deploy.inspect(sound).artifact.opset == 17
    own = guarded(lambda model, reference: model)
    module = torch.nn.ReLU()
    assert own(module, "reference.onnx") is module


def test_the_function_is_told_as_it_is():
    assert attn_deploy.convert.__doc__ == direct_convert.__doc__
    assert attn_deploy.convert is attn_deploy.convert


def test_calls_of_several_threads_do_not_meet(sound, deadly, tmp_path):
    ends = {}

    def call(number: int) -> None:
        path = deadly if number % 2 else sound
        try:
            ends[number] = attn_deploy.convert(path, tmp_path / f"{number}.onnx", opset=20).opset
        except WorkerCrashError as error:
            ends[number] = str(error)[:24]

    threads = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == {0: 20, 2: 20, 1: "convert crashed (SIGFPE)", 3: "convert crashed (SIGFPE)"}


def test_a_fork_of_the_caller_asks_a_process_of_its_own(sound):
    attn_deploy.inspect(sound)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if attn_deploy.inspect(sound).artifact.opset == 17 else 1
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert attn_deploy.inspect(sound).artifact.opset == 17


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def family(pid: int) -> set[int]:
    members, left = set(), [pid]
    while left:
        path = Path(f"/proc/{(one := left.pop())}/task/{one}/children")
        new = {int(p) for p in path.read_text().split()} if path.exists() else set()
        members |= new
        left += new
    return members


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_caller(kind, sound):
    body = [N("Identity", ["c"], ["o"])]
    value = helper.make_tensor_value_info
    ends = ([value("i", TensorProto.INT64, ()), value("c", TensorProto.BOOL, ())], [value("o", TensorProto.BOOL, ())])
    loop = N("Loop", ["n", ""], [], body=helper.make_graph(body, "b", *ends))
    path = save(sound.with_name("long.onnx"), [loop, N("Relu", ["x"], ["y"])], [("n", 9_999_999)])
    script = f"import attn_deploy\nprint(flush=True)\nattn_deploy.convert({str(path)!r}, opset=20)\n"
    caller = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=sound.parent,
    )
    caller.stdout.readline()
    while (
        len(members := family(caller.pid)) < 3 and caller.poll() is None
    ):  # the server, a fork at work, one that waits
        time.sleep(0.05)
    caller.send_signal(kind)
    caller.wait()
    end = time.monotonic() + 20  # a test has no time limit of its own; the claim of 2 s is that of benchmarks/kills.py
    while any(map(lives, members)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(lives, members))
    caller.stdout.close()


class Evil:
    def __reduce__(self):
        return (os.system, ("touch EXECUTED",))


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Evil()),
        pickle.dumps(os.system),
        pickle.dumps(pickle.loads),
        b"cattn_deploy.isolate\nrun_isolated\n.",
        b"cattn_deploy.isolate\nos\n.",
        b"cattn_deploy.isolate\nsubprocess.Popen\n.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"cnumpy.testing._private.utils\nruntests\n.",
        b"",
        b"\x80\x05",
    ],
    ids=range(11),
)
def test_an_answer_cannot_name_code(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError):
        unpacked(data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value",
    [
        {"a": (1, 2.5, None, b"x"), "b": [Path("x"), {3}, complex(1, 2)]},
        TensorInput("x", ("N", 3), "float32", {"N": 2}, {"N": 1}, {"N": 1}),
        Evidence(model="x", opset=17),
    ],
    ids=["plain", "tensor", "evidence"],
)
def test_records_and_plain_data_travel(value):
    assert unpacked(packed(value)) == value


def test_arrays_travel_and_modules_do_not():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(unpacked(packed([array, array.T, np.float32(2)]))[1], array.T)
    with pytest.raises(TypeError, match="ReLU"):
        packed([torch.nn.ReLU()])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (GraphError("x", exit_code=2), GraphError),
        (ValueError("x"), ValueError),
        (FileNotFoundError(2, "No such file", "x.onnx"), FileNotFoundError),
        (KeyError("x"), KeyError),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), AttnDeployError),
        (type("Strange", (Exception,), {})("x"), AttnDeployError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_errors_keep_their_class(error, kind):
    copied = error_from(error_data(error), "convert")
    assert type(copied) is kind or issubclass(type(copied), kind)
    assert "x" in str(copied)


def test_an_error_that_nobody_expects_tells_where_it_happened():
    try:
        math.log(0)
    except ValueError as error:
        copied = error_from(error_data(error), "convert")
    assert "math.log(0)" in vars(copied)["__notes__"][0]
    assert "__notes__" not in vars(error_from(error_data(GraphError("x")), "convert"))
