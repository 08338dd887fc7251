"""What may be profiled: models, files, shapes and runtimes, and the requests that are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest
import torch
from torch import nn

import attn_deploy
from attn_deploy import registry
from attn_deploy.bench.subject import make_subject
from attn_deploy.errors import DynamicAxisError, InvalidRequestError, MissingDependencyError, OpsetError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.report.profile.terminal import profile_report
from attn_deploy.runtimes import table as runtimes
from export_tests.bench.small_profiles import FILE_INPUT, QUICK, text_of, write_file
from export_tests.bench.small_profiles import folder as folder
from export_tests.bench.small_profiles import net as net


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


def test_the_callers_threads_are_given_back(net, folder):
    before = torch.get_num_threads()
    options = replace(QUICK, threads=before + 1)
    record = attn_deploy.profile(net, inputs=FILE_INPUT, onnx=folder / "right.onnx", options=options)
    assert {r.info.threads for r in record.rows} == {before + 1}
    assert torch.get_num_threads() == before


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


@pytest.mark.parametrize("option", [{"opset": 13}, {"dynamic": ("N",)}, {"onnx": "other.onnx"}])
def test_what_says_how_a_model_is_exported_is_refused_for_a_file(option, folder):
    with pytest.raises(InvalidRequestError, match=rf"--{next(iter(option))} is for models by name"):
        attn_deploy.profile(folder / "right.onnx", inputs=FILE_INPUT, options=QUICK, **option)


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
