"""Profiles: what gets a number, what is refused one, and what the record and the table say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import typer
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import attn_deploy
from attn_deploy import registry
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.bench.subject import make_subject
from attn_deploy.cli.profile import profile as profile_command
from attn_deploy.comparison.collection import read_runs
from attn_deploy.comparison.overview import overview
from attn_deploy.errors import DynamicAxisError, InvalidRequestError, MissingDependencyError, OpsetError, ProviderError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.machine.devices import DEVICES
from attn_deploy.parity.tolerance import TOLERANCES
from attn_deploy.report.profile.terminal import profile_report
from attn_deploy.runtimes import table as runtimes

QUICK = BenchOptions(min_samples=48, min_seconds=0, warmup_seconds=0.01, max_seconds=5, settle_seconds=0.001, threads=1)
FILE_INPUT = parse_inputs(["1x3x16x16"])


class Net(nn.Module):
    """One convolution with a ReLU, small and with weights of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(x))


def write_file(path, net, *, wrong=0.0, opset=17):
    """The file of a `Net`, written by hand; ``wrong`` is added to one bias."""
    weight, bias = (p.detach().numpy().copy() for p in net.parameters())
    bias[1] += wrong
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, "height", "width"])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def net():
    return Net().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, net):
    made = tmp_path_factory.mktemp("files")
    write_file(made / "right.onnx", net)
    write_file(made / "wrong.onnx", net, wrong=0.01)
    return made


@pytest.fixture(scope="module")
def record(net, folder):
    return attn_deploy.profile(net, inputs=FILE_INPUT, batch=(1, 3), onnx=folder / "right.onnx", options=QUICK)


def text_of(renderable, width=160):
    console = Console(width=width, file=None, record=True, quiet=True)
    console.print(renderable)
    with console.capture() as captured:
        console.quiet = False
        console.print(renderable)
    return captured.get()


def test_every_row_has_a_number_and_its_evidence(record):
    assert record.passed
    assert [(r.runtime, r.batch) for r in record.rows] == [("eager", 1), ("ort-cpu", 1), ("eager", 3), ("ort-cpu", 3)]
    for row in record.rows:
        assert row.shapes == {"x": (row.batch, 3, 16, 16)}
        assert row.latency.n >= 48
        assert row.latency.p50_ms > 0
        assert row.cold.load_seconds > 0
        assert row.cold.first_run_seconds > 0
        assert row.info.threads == 1
        assert row.info.precision == "float32"
    assert {len(r.latency.rounds) for r in record.rows} == {QUICK.rounds}


def test_the_candidate_is_compared_at_exactly_the_timed_shape(record):
    for row in record.rows:
        if row.runtime == "eager":
            assert row.parity is None
            assert row.speedup is None
        else:
            assert {tuple(c.shapes["x"]) for c in row.parity.cases} == {(row.batch, 3, 16, 16)}
            assert row.parity.passed
            assert row.parity.max_abs_error < 1e-5
            assert row.speedup.interval.low <= row.speedup.speedup <= row.speedup.interval.high


def test_the_record_survives_its_file(record, tmp_path):
    record.write(tmp_path / "record.json")
    assert ProfileRecord.read(tmp_path / "record.json") == record
    data = json.loads((tmp_path / "record.json").read_text())
    assert data["schema_version"] == 2
    assert data["rows"][1]["summary"]["p50_ms"] == record.rows[1].latency.p50_ms
    assert data["rows"][1]["summary"]["n"] == sum(map(len, data["rows"][1]["latency"]["rounds"]))
    assert data["environment"]["packages"]["torch"] == torch.__version__
    assert data["onnx"][0]["opset"] == 17
    assert list(tmp_path.iterdir()) == [tmp_path / "record.json"]
    assert len((tmp_path / "record.json").read_text().splitlines()) < 1000  # samples stand on few lines


def test_a_model_of_a_file_has_the_same_name_in_every_folder(tmp_path):
    code = "from torch import nn\n\n\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 4)\n"
    names = set()
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        (folder / "net.py").write_text(code)
        names.add(make_subject(f"{folder}/net.py:Net", inputs=parse_inputs(["1x4"])).name)
    assert names == {"net.py:Net"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "not JSON"),
        ("[]", "holds a list"),
        ('{"schema_version": 99}', "schema version 99"),
        ('{"schema_version": 1}', r"x\.json cannot be read as a profile record: name is missing"),
    ],
)
def test_other_files_are_no_records(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InvalidRequestError, match=message):
        ProfileRecord.read(tmp_path / "x.json")


def test_a_file_with_wrong_numbers_gets_none(net, folder):
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "wrong.onnx", options=QUICK)
    eager, ort = record.rows
    assert eager.status == "ok"
    assert (ort.status, ort.latency, ort.speedup) == ("invalid", None, None)
    assert "disagree" in ort.reason
    assert ort.parity.max_abs_error == pytest.approx(0.01, rel=1e-3)
    assert not record.passed
    shown = text_of(profile_report(record))
    assert "invalid" in shown
    line = next(line for line in shown.splitlines() if "│ ort-cpu" in line)
    assert "ms" not in line
    assert "0.01" in line or "1.0e-02" in line


def test_work_on_another_provider_gets_no_number(net, folder, monkeypatch):
    entry = replace(runtimes.RUNTIMES["ort-cpu"], provider="CUDAExecutionProvider")
    monkeypatch.setitem(runtimes.RUNTIMES, "ort-cpu", entry)
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "right.onnx", options=QUICK)
    assert record.row("ort-cpu").status == "invalid"
    assert "ran on CPUExecutionProvider" in record.row("ort-cpu").reason
    assert record.row("eager").status == "ok"


def test_a_runner_that_refuses_to_fall_back_is_invalid(net, folder, monkeypatch):
    def make(work):
        raise ProviderError("CUDAExecutionProvider was asked for, and ONNX Runtime fell back to CPUExecutionProvider.")

    monkeypatch.setitem(runtimes.RUNTIMES, "ort-cpu", replace(runtimes.RUNTIMES["ort-cpu"], make=make))
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "right.onnx", options=QUICK)
    assert (record.row("ort-cpu").status, record.row("ort-cpu").latency) == ("invalid", None)


class Forgetful:
    """A runner whose outputs change while it is timed."""

    def __init__(self, inner):
        self.inner, self.runs = inner, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def enqueue(self):
        self.runs += 1
        self.inner.enqueue()

    def outputs(self):
        return {n: v + (1.0 if self.runs > 30 else 0.0) for n, v in self.inner.outputs().items()}


def test_outputs_that_change_while_timed_get_no_number(net, folder, monkeypatch):
    entry = runtimes.RUNTIMES["ort-cpu"]
    monkeypatch.setitem(runtimes.RUNTIMES, "ort-cpu", replace(entry, make=lambda work: Forgetful(entry.make(work))))
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "right.onnx", options=QUICK)
    assert record.row("ort-cpu").status == "invalid"
    assert "last timed run" in record.row("ort-cpu").reason


def absent():
    raise MissingDependencyError("onnxruntime is not installed: pip install 'attn-deploy[cpu]'.")


def test_a_missing_package_is_a_row(net, folder, monkeypatch):
    monkeypatch.setitem(runtimes.RUNTIMES, "ort-cpu", replace(runtimes.RUNTIMES["ort-cpu"], prerequisite=absent))
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "right.onnx", options=QUICK)
    assert record.row("eager").status == "ok"
    assert record.row("ort-cpu").status == "failed"
    assert "attn-deploy[cpu]" in record.row("ort-cpu").reason


def test_nothing_installed_is_an_error(net, folder, monkeypatch):
    monkeypatch.setitem(runtimes.RUNTIMES, "ort-cpu", replace(runtimes.RUNTIMES["ort-cpu"], prerequisite=absent))
    with pytest.raises(MissingDependencyError, match=r"attn-deploy\[cpu\]"):
        attn_deploy.profile(net, runtimes=["ort-cpu"], inputs=FILE_INPUT, onnx=folder / "right.onnx", options=QUICK)


class Small(nn.Module):
    def forward(self, x):
        if x.shape[0] > 1:
            raise RuntimeError("batch 1 only")
        return x * 2


def test_eager_that_fails_takes_only_its_own_shape_along(folder):
    record = attn_deploy.profile(Small(), runtimes=["eager"], inputs=FILE_INPUT, batch=(1, 2), options=QUICK)
    assert [r.status for r in record.rows] == ["ok", "failed"]
    assert record.rows[1].reason == "RuntimeError: batch 1 only"


def test_without_the_reference_a_candidate_is_not_believed(folder):
    record = attn_deploy.profile(
        Small(), runtimes=["ort-cpu"], inputs=FILE_INPUT, batch=(2,), onnx=folder / "right.onnx", options=QUICK
    )
    assert record.rows[0].status == "invalid"
    assert "could not be compared with eager: RuntimeError: batch 1 only" in record.rows[0].reason


def test_a_candidate_alone_is_compared_too(net, folder):
    right, wrong = (
        attn_deploy.profile(net, runtimes=["ort-cpu"], inputs=FILE_INPUT, onnx=folder / name, options=QUICK)
        for name in ("right.onnx", "wrong.onnx")
    )
    assert right.passed
    assert right.baseline is None
    assert right.rows[0].parity.passed
    assert wrong.rows[0].status == "invalid"


def test_a_registry_model_is_exported_for_the_occasion():
    record = attn_deploy.profile("se", batch=(1, 3), size=(9, 12), opset=17, options=QUICK)
    assert record.passed
    assert [r.shapes["x"] for r in record.rows] == [(1, 64, 9, 12)] * 2 + [(3, 64, 9, 12)] * 2
    assert len(record.onnx) == 1
    assert record.onnx[0]["opset"] == 17
    assert record.onnx[0]["path"] is None
    assert "exported for this profile" in text_of(profile_report(record))


@pytest.mark.parametrize("spec", registry.list_models(), ids=lambda s: s.name)
def test_every_registry_model_runs_at_the_shape_that_is_profiled_by_default(spec):
    subject = make_subject(spec.name)
    inputs = subject.at(None, None)
    assert inputs[0].shape()[0] == 1 or "N" not in subject.movable
    with torch.inference_mode():
        subject.module(*(torch.from_numpy(a) for a in example_arrays(inputs).values()))


def half_file(path, net):
    """The file of a `Net` with the convolution in float16 and an interface in float32."""
    model = onnx.load(write_file(path, net))
    for index, value in enumerate(model.graph.initializer):
        half = numpy_helper.to_array(value).astype(np.float16)
        model.graph.initializer[index].CopyFrom(numpy_helper.from_array(half, value.name))
    conv, relu = model.graph.node
    conv.input[0], relu.output[0] = "x16", "y16"
    casts = [
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
    ]
    nodes = [casts[0], conv, relu, casts[1]]
    graph = helper.make_graph(nodes, "half", model.graph.input, model.graph.output, model.graph.initializer)
    onnx.save(helper.make_model(graph, opset_imports=model.opset_import, ir_version=8), path)
    return path


def test_half_precision_is_found_in_the_weights_and_judged_as_such(net, tmp_path):
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=half_file(tmp_path / "half.onnx", net), options=QUICK)
    row = record.row("ort-cpu")
    assert row.status == "ok", row.reason
    assert row.info.precision == "float16"
    assert row.parity.rtol == TOLERANCES["float16"].rtol
    assert 1e-5 < row.parity.max_abs_error < 1e-2
    assert record.row("eager").info.precision == "float32"


def test_the_callers_threads_are_given_back(net, folder):
    before = torch.get_num_threads()
    options = replace(QUICK, threads=before + 1)
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "right.onnx", options=options)
    assert {r.info.threads for r in record.rows} == {before + 1}
    assert torch.get_num_threads() == before


def test_more_threads_than_cores_are_remarked_on(record):
    machine = replace(record.environment, usable_cores=1)
    options = replace(record.options, threads=4)
    shown = text_of(profile_report(replace(record, environment=machine, options=options)))
    assert "4 threads shared 1 core:" in shown


class Fixed(nn.Module):
    """Made for one height and width, as most classifiers with a flattened head are."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 16 * 16, 5)

    def forward(self, x):
        return self.head(x.flatten(1))


def test_a_model_of_one_size_needs_no_dynamic_size():
    record = attn_deploy.profile(Fixed(), inputs=FILE_INPUT, batch=(2,), opset=17, options=QUICK)
    assert record.passed, [r.reason for r in record.rows]
    assert record.onnx[0]["dynamic_axes"] == ["N"]


def test_a_static_file_is_made_for_each_batch():
    record = attn_deploy.profile(Fixed(), inputs=FILE_INPUT, batch=(1, 2), dynamic=(), opset=17, options=QUICK)
    assert record.passed, [r.reason for r in record.rows]
    assert [f["dynamic_axes"] for f in record.onnx] == [[], []]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"runtimes": ["ort-gpu"]},
            InvalidRequestError,
            r"'ort-gpu' is unknown.*Known runtimes: eager, compile, ort-cpu",
        ),
        ({"runtimes": []}, InvalidRequestError, "no runtime"),
        ({"batch": (0,)}, InvalidRequestError, "batch size is 0"),
        ({"opset": 99}, OpsetError, "opset 99"),
        ({"dynamic": ("Q",)}, DynamicAxisError, "'Q'"),
        ({"inputs": parse_inputs(["1x32x8x8"])}, InvalidRequestError, r"must be \(N, 64, H, W\), got \(1, 32, 8, 8\)"),
        ({"threads": -1}, InvalidRequestError, "threads is -1"),
    ],
)
def test_requests_that_cannot_be_used(arguments, error, message):
    with pytest.raises(error, match=message):
        attn_deploy.profile("se", options=QUICK, **arguments)


def test_a_model_of_the_users_needs_its_input(net):
    with pytest.raises(InvalidRequestError, match="--input 1x3x224x224"):
        attn_deploy.profile(net, options=QUICK)


def test_a_foreign_file_of_unknown_size_asks(folder):
    with pytest.raises(InvalidRequestError, match="--size 224x224"):
        attn_deploy.profile(str(folder / "right.onnx"), options=QUICK)
    record = attn_deploy.profile(str(folder / "right.onnx"), size=(10, 14), batch=(2,), options=QUICK)
    assert record.rows[0].shapes == {"x": (2, 3, 10, 14)}


def test_eager_of_a_file_is_a_row_with_a_reason(folder):
    record = attn_deploy.profile(
        str(folder / "right.onnx"), runtimes=["eager", "ort-cpu"], inputs=FILE_INPUT, options=QUICK
    )
    assert [r.status for r in record.rows] == ["failed", "ok"]
    assert "give the model's name" in record.rows[0].reason


def test_a_fixed_axis_of_a_file_is_named(tmp_path, net):
    model = onnx.load(write_file(tmp_path / "net.onnx", net))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(InvalidRequestError, match="batch size 4 was asked for, and it is fixed at 2"):
        attn_deploy.profile(tmp_path / "fixed.onnx", batch=(4,), size=(8, 8), options=QUICK)


TORCH_FREE = """
import sys
sys.modules["torch"] = None
import attn_deploy
from attn_deploy.bench.options import BenchOptions
from attn_deploy.cli.profile import profile
from attn_deploy.inputs.grammar import parse_inputs
options = BenchOptions(min_samples=40, min_seconds=0, warmup_seconds=0.01, threads=1)
record = attn_deploy.profile(sys.argv[1], inputs=parse_inputs(["1x3x16x16"]), options=options)
assert record.passed and [r.runtime for r in record.rows] == ["ort-cpu"], record
from attn_deploy.report.profile.terminal import profile_report
profile_report(record)
print(record.rows[0].latency.n)
"""


def test_a_file_is_profiled_without_torch(folder):
    done = subprocess.run(
        [sys.executable, "-c", TORCH_FREE, str(folder / "right.onnx")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 40


def test_the_table_keeps_what_matters_when_it_in_half_range(record):
    wide, narrow = text_of(profile_report(record, 160)), text_of(profile_report(record, 80), 80)
    for title in ("p50 ms", "p99 ms", "vs eager", "verdict"):
        assert title in narrow
        assert title in wide
    assert "provider" in wide
    assert "Left out for the width" in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_noise_is_named(record):
    rows = list(record.rows)
    restless = replace(
        rows[1].latency, rounds=tuple(tuple(s * (1 + i % 3) for s in r) for i, r in enumerate(rows[1].latency.rounds))
    )
    rows[1] = replace(rows[1], latency=restless, noise=restless.noise(0.1))
    shown = text_of(profile_report(replace(record, rows=tuple(rows))))
    assert "ort-cpu fp32 b1 16x16: noisy: the rounds' medians spread by" in shown
    assert ", noisy" in next(line for line in shown.splitlines() if "│ ort-cpu" in line)


@pytest.fixture(scope="module")
def app():
    made = typer.Typer()
    made.command()(profile_command)
    return made


def test_the_command_prints_the_record_and_nothing_else(app, folder, tmp_path):
    arguments = [str(folder / "right.onnx"), "--input", "1x3x16x16", "--seconds", "0.05", "--threads", "1"]
    done = CliRunner().invoke(app, [*arguments, "--json", "-o", str(tmp_path / "r.json")])
    assert done.exit_code == 0, done.output
    assert ProfileRecord.from_dict(json.loads(done.stdout)) == ProfileRecord.read(tmp_path / "r.json")
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0
    assert "Max error is against ort-cpu" in " ".join(shown.stdout.split())  # the file without optimisations


def test_the_command_puts_rows_against_the_device_that_is_named(app, folder, tmp_path):
    arguments = [str(folder / "right.onnx"), "--input", "1x3x16x16", "--seconds", "0.01", "--threads", "1"]
    own = tmp_path / "mine.toml"
    own.write_text((DEVICES / "rtx4090.toml").read_text().replace('"rtx4090"', '"mine"'))
    for number, (device, name) in enumerate({"RTX 4090": "rtx4090", str(own): "mine"}.items()):
        save = tmp_path / f"{number}.json"
        done = CliRunner().invoke(app, [*arguments, "--device", device, "-o", str(save)])
        assert done.exit_code == 0, done.output
        assert f"The floor is the least time that {name} needs" in done.stdout
        (entry,) = overview(read_runs([save])).entries
        assert entry.limit.device == name
    done = CliRunner().invoke(app, [*arguments, "--device", "rtx409"])
    assert "did you mean 'rtx4090'" in str(done.exception)


def test_the_command_joins_repeated_options_and_tells_each_shape(app, folder, tmp_path):
    arguments = [str(folder / "right.onnx"), "--input", "1x3x16x16", "--seconds", "0.01", "--threads", "1"]
    saved = tmp_path / "r.json"
    again = ["--batch", "1", "--batch", "2,3", "--confidence", "0.9", "-o", str(saved)]
    done = CliRunner().invoke(app, [*arguments, *again])
    assert done.exit_code == 0, done.output
    record = ProfileRecord.read(saved)
    assert [r.batch for r in record.rows] == [1, 2, 3]
    assert record.options.confidence == 0.9
    assert "90% interval" in done.stdout
    lines = done.stderr.splitlines()
    assert [line.split(",")[0].split()[:3] for line in lines] == [[str(n), "of", "3:"] for n in (1, 2, 3)]
    assert ["b1-default" in lines[0], "b3-default" in lines[2]] == [True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--executor", "foo"], "use inline, processes, or --executor ray"),
        (["--resume"], "give its folder: -o DIR"),
        (["--executor", "ray", "--layers", "-o", "x"], "leave one of them out"),
        (["--confidence", "95"], "confidence is 95"),
    ],
)
def test_the_command_refuses_what_does_not_go_together(app, folder, options, message):
    done = CliRunner().invoke(app, [str(folder / "right.onnx"), *options])
    assert isinstance(done.exception, InvalidRequestError)
    assert message in str(done.exception)


def test_the_command_fails_with_an_invalid_row(app, folder, tmp_path):
    source = (
        "import numpy as np, torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.conv = nn.Conv2d(3, 4, 3, padding=1)\n"
        "    def forward(self, x):\n"
        "        return torch.relu(self.conv(x))\n"
    )
    (tmp_path / "net.py").write_text(source)
    arguments = [f"{tmp_path / 'net.py'}:Net", "--input", "1x3x16x16", "--seconds", "0.05", "--threads", "1"]
    assert CliRunner().invoke(app, [*arguments, "--onnx", str(folder / "right.onnx")]).exit_code == 0
    done = CliRunner().invoke(app, [*arguments, "--onnx", str(folder / "wrong.onnx")])
    assert done.exit_code == 1
    assert "invalid" in done.stdout


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--batch", "1,x", "whole number"),
        ("--size", "12by3", "--size 224x224"),
        ("--runtime", ",", "separated by commas"),
        ("--output", "/nowhere/r.json", "does not exist"),
    ],
)
def test_the_command_refuses_what_it_cannot_read(app, folder, option, value, message):
    done = CliRunner().invoke(app, [str(folder / "right.onnx"), option, value])
    assert isinstance(done.exception, InvalidRequestError)
    assert message in str(done.exception)


def test_inputs_of_both_sides_are_the_same(net, folder):
    """Eager takes inputs in order, ONNX Runtime by name; a file under other names is bound in order."""
    model = onnx.load(folder / "right.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = "pixels"
    onnx.save(model, folder / "renamed.onnx")
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "renamed.onnx", options=QUICK)
    assert record.passed
    assert record.row("eager").shapes == {"pixels": (1, 3, 16, 16)}
    assert np.isfinite(record.row("eager").latency.p50_ms)
