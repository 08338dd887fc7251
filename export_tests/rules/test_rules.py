"""Each rule of the table is provoked by a model, and comes back as the error's rule with its remedy and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from attn_deploy.diagnosis.lint import lint
from attn_deploy.errors import AttnDeployError, ExportError, InvalidRequestError, OpsetError
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.pipeline import export
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.parity.verify import verify
from attn_deploy.rules.examine import examine
from attn_deploy.rules.rules import RULES, explain, rule
from attn_deploy.rules.source import read_source
from export_tests.cli.test_cli import run
from export_tests.exporters.test_user_models import FOLDER, ROWS
from export_tests.exporters.user_models import broken

INPUTS = parse_inputs(["1x3x16x12"])
ALL = ("N", "H", "W")
SCRIPT = {"exporter": "torchscript", "opset": 17, "simplify": False, "dynamic": ALL}
AS_WRITTEN = {**SCRIPT, "rewrite": False}
TRACED = {"exporter": "dynamo", "opset": 18, "simplify": False, "dynamic": ALL}

# Rule -> model, options of the export, and a line of the model's source that the message names.
PROVOKED = {
    "data-dependent-branch": (broken.DecidesOnValues, SCRIPT, "x.mean() > 0.5"),
    "branch-on-shape": (broken.DecidesOnSize, SCRIPT, "x.shape[2] > 20"),
    "loop-over-batch": (broken.LoopsOverBatchPlainly, SCRIPT, "range(x.shape[0])"),
    "number-from-shape": (broken.HalvesWithInt, SCRIPT, "int(x.shape[2] * 0.5)"),
    "number-from-tensor": (broken.ScalesByItem, SCRIPT, ".item()"),
    "pool-window-from-shape": (broken.PoolsTheWholeMap, AS_WRITTEN, "broken.py, line"),
    "adaptive-pooling": (broken.PyramidPooling, AS_WRITTEN, "(pool, broken.py, line"),
    "groups-from-batch": (broken.DynamicKernels, AS_WRITTEN, "broken.py, line"),
    "multi-head-attention": (broken.HeadsOverBatch, AS_WRITTEN, "(attn, broken.py, line"),
    "fft": (broken.Spectrum, SCRIPT, "broken.py, line"),
    "complex-output": (broken.ComplexSpectrum, SCRIPT, ""),
    "fold": (broken.Folds, AS_WRITTEN, "broken.py, line"),
    "overlapping-write": (broken.ShiftsInPlace, SCRIPT, "y[:, :, 1:, :] = y[:, :, :-1, :]"),
    "state-in-forward": (broken.Counts, SCRIPT, "'steps'"),
    "cached-by-size": (broken.CachesGrid, TRACED, "self.grid is kept"),
    "random-in-forward": (broken.DropsAlways, SCRIPT, "broken.py, line"),
    "batch-statistics": (broken.NoStatistics, SCRIPT, "NoStatistics.bn"),
    "fixed-size": (broken.FixedHead, SCRIPT, "(fc, broken.py, line"),
    "not-finite": (broken.MasksWholeRows, SCRIPT, ""),
    "constant-output": (broken.StartsAtZero, SCRIPT, ""),
    "no-tensor": (broken.ReturnsNumber, SCRIPT, ""),
    "unsupported-operator": (broken.TakesBessel, TRACED, "broken.py, line"),
    "baked-size": (broken.WarpsByAffineGrid, TRACED, ""),
    "eager-failure": (broken.MismatchedLayers, SCRIPT, "(fc, broken.py, line"),
}
ELSEWHERE = {"hard-coded-device", "native-attention", "data-dependent-size", "unsupported-by-target", "wrong-numbers"}
ELSEWHERE |= {"later-form", "scripted-part", "endless-arithmetic", "detector"}  # in test_named_causes.py, test_words.py


def test_every_rule_is_provoked_and_says_what_to_do():
    assert set(PROVOKED) | ELSEWHERE == {r.id for r in RULES}
    assert len({r.id for r in RULES}) == len(RULES)
    for entry in RULES:
        assert entry.remedy.endswith(".")
        assert not entry.explanation.endswith(".")
        assert json.dumps(entry.to_dict())


@pytest.mark.parametrize("identifier", PROVOKED)
def test_a_failure_names_its_rule(identifier, tmp_path):
    model, options, line = PROVOKED[identifier]
    path = tmp_path / "m.onnx"
    with pytest.raises(AttnDeployError) as caught:
        export(model(), path, inputs=INPUTS, **options)
    error = caught.value
    assert error.rule == identifier
    assert explain(error) is rule(identifier)
    assert line in str(error)
    assert identifier in ("fixed-size", "no-tensor") or rule(identifier).remedy in str(error)
    assert not path.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine on which .cuda() fails")
def test_a_hard_coded_device(tmp_path):
    with pytest.raises(ExportError, match=r"device=x\.device") as caught:
        export(broken.WantsCuda(), tmp_path / "m.onnx", inputs=INPUTS)
    assert caught.value.rule == "hard-coded-device"


def test_a_file_with_other_numbers(tmp_path):
    made = export(broken.Base().conv, tmp_path / "m.onnx", inputs=INPUTS, opset=17, simplify=False)
    report = verify(broken.Base().conv, made.path, inputs=INPUTS)  # with other weights
    with pytest.raises(AttnDeployError) as caught:
        report.raise_if_failed("m")
    assert explain(caught.value) is rule("wrong-numbers")


def test_rules_are_recognised_in_causes_and_specific_ones_first():
    error = ValueError("it failed")
    error.__cause__ = RuntimeError(
        "Exporting the operator 'aten::fft_rfft2' to ONNX opset version 20 is not supported."
    )
    assert explain(error) is rule("fft")
    assert explain("all is well") is None


def test_models_that_change_their_input_are_compared_on_what_they_were_given(tmp_path):
    made = export(broken.NormalisesInPlace(), tmp_path / "m.onnx", inputs=INPUTS, opset=17)
    assert made.record["parity"]["max_abs_error"] < 1e-4


def test_native_attention_needs_an_opset_that_has_it():
    with pytest.raises(OpsetError) as caught:
        ExportOptions(opset=22, native_attention=True)
    assert explain(caught.value) is rule("native-attention")


@pytest.mark.parametrize(
    ("model", "identifier"),
    [("PicksPositive", "data-dependent-size"), ("PoolsDilated", "unsupported-by-target"), ("Spectrum", "fft")],
)
def test_lint_knows_the_target(model, identifier):
    name = f"{FOLDER}/broken.py:{model}"
    inputs = INPUTS if model == "PicksPositive" else None
    found = [f for f in lint(name, target="tensorrt-rtx", inputs=inputs).findings if f.rule == identifier]
    assert [f.severity for f in found] == ["error"]
    assert not any(f.severity == "error" for f in lint(name, opset=17).findings)


@pytest.mark.parametrize("name", [n for n, r in ROWS.items() if not r.rule])
def test_lint_has_no_errors_for_what_exports(name):
    row = ROWS[name]
    report = lint(f"{FOLDER}/{row.model}", opset=row.opset)
    assert report.passed, report.findings
    assert not report.traced


def test_lint_with_inputs_finds_what_the_trace_refuses():
    name, inputs = f"{FOLDER}/pad_if_needed.py:PadIfNeeded", parse_inputs(["1x3x30x22"])
    report = lint(name, inputs=inputs, dynamic=("N", "H", "W"))
    [finding] = report.findings
    assert (finding.rule, finding.severity, finding.place.line) == ("branch-on-shape", "error", 17)
    assert Path(finding.place.file).name == "pad_if_needed.py"
    left_open = lint(name, inputs=inputs)
    assert left_open.passed, "an export with the axes left open makes N move"
    assert {"branch-on-shape", "fixed-size"} == {f.rule for f in left_open.findings}


def test_lint_tells_what_a_run_does_inside_of_modules():
    model = torch.nn.Sequential(broken.Base().conv, torch.nn.AdaptiveMaxPool2d((2, 3)), torch.nn.Flatten())
    report = lint(model, inputs=INPUTS, dynamic=("N",))
    assert [(f.rule, f.place.module, f.severity) for f in report.findings] == [("adaptive-pooling", "1", "rewritten")]


class Prepared(nn.Module):
    """Holds a part that a whole detector would call, as its forward does not."""

    def __init__(self):
        super().__init__()
        self.preparation, self.net = Preparation(), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.net(self._halved(x))

    def _halved(self, x):
        return x / 2 if x.shape[2] > 8 else x


class Preparation(nn.Module):
    def forward(self, images):
        for k in range(images.shape[0]):
            images[k] = images[k] - images[k].mean()
        return images


def test_functions_that_do_not_run_are_the_cause_of_nothing():
    examples = [(torch.randn(2, 3, 8, 8),), (torch.randn(3, 3, 12, 9),)]
    assert {f.rule for f in examine(Prepared())} >= {"loop-over-batch", "branch-on-shape"}
    assert {f.rule for f in examine(Prepared(), examples)} == {"branch-on-shape"}
    failing = [(torch.randn(2, 5, 8, 8),)]  # of channels that the model does not take: nothing is known
    assert "loop-over-batch" in {f.rule for f in examine(Prepared(), failing)}


def test_source_is_read_through_methods_of_self():
    found = {(f.rule, f.severity) for f in read_source(broken.LoopsOverBatchPlainly())}
    assert found == {("loop-over-batch", "error")}
    assert read_source(broken.Base()) == ()


def test_a_loop_over_something_else_is_no_loop_over_the_batch():
    class Unpacks(torch.nn.Module):
        def forward(self, x):
            q, k = x.reshape(x.shape[0], 2, -1).unbind(1)
            return q * k

    batches = [(torch.zeros(n, 2, 4, 4),) for n in (2, 3)]
    assert examine(Unpacks(), batches) == ()


def test_lint_command(tmp_path):
    name = f"{FOLDER}/per_sample.py:PerSample"
    done = run("lint", name, "--input", "1x3x8x8", "--dynamic", "N,H,W", "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["passed"] is False
    assert [f["rule"] for f in report["findings"]] == ["loop-over-batch"]
    told = run("lint", f"{FOLDER}/fft_mixer.py:GlobalFilter", "--opset", "13")
    assert told.exit_code == 1
    assert "fft_mixer.py, line 18: error [fft] torch.fft.rfft2" in told.stdout
    assert run("lint", f"{FOLDER}/se_resnet.py:SEResNet").exit_code == 0
    assert run("lint", "se", "--target", "toaster").exit_code == 2


def test_lint_refuses_an_unknown_target():
    with pytest.raises(InvalidRequestError, match="choose onnxruntime, tensorrt, tensorrt-rtx"):
        lint("se", target="toaster")
