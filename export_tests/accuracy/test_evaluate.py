"""Accuracy: numbers from predictions, runtimes on the same images, and every refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

import attn_deploy
from attn_deploy.accuracy.metrics import (
    binomial_two_sided,
    confusion_matrix,
    mcnemar,
    mean_and_spread,
    ranks_of_labels,
    wilson_interval,
)
from attn_deploy.accuracy.predict import run_dataset
from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.cli import app
from attn_deploy.conversion.convert import convert
from attn_deploy.data import load_dataset
from attn_deploy.deploy.quantize import quantize
from attn_deploy.errors import CheckpointError, EngineMismatchError, GraphError, InvalidRequestError, ParityError
from attn_deploy.graph.artifact import read_onnx
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.runtimes.eager import EagerRunner
from attn_deploy.training.recipe import recipe_for
from attn_deploy.training.run import train

# numbers


def test_ranks():
    logits = np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.1], [0.3, 0.3, 0.3]])
    assert ranks_of_labels(logits, np.array([1, 2, 1])).tolist() == [0, 2, 1]


def test_confusion():
    made = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert made.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("few", "all_", "p"), [(0, 0, 1.0), (1, 10, 0.021484375), (5, 10, 1.0), (0, 5, 0.0625), (40, 121, 0.000241)]
)
def test_binomial_test_against_published_values(few, all_, p):
    assert binomial_two_sided(few, all_) == pytest.approx(p, rel=0.02)


def test_mcnemar_counts_only_disagreements():
    first = np.array([True] * 90 + [False] * 10)
    second = np.array([True] * 89 + [False] * 2 + [True] * 9)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (1, 9)
    assert found.p_value == pytest.approx(0.0215, abs=1e-4)
    with pytest.raises(InvalidRequestError, match="100 and 99 were given"):
        mcnemar(first, second[:99])


def test_intervals_and_spreads():
    low, high = wilson_interval(354, 360)
    assert (round(low, 4), round(high, 4)) == (0.9641, 0.9923)
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)
    assert mean_and_spread([0.5]) == (0.5, None)
    assert mean_and_spread([1.0, 2.0, 3.0]) == (2.0, 1.0)


# runtimes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "resnet8-eca-digits-s0"
    train("resnet8+eca", dataset="digits", recipe=recipe_for("digits", epochs=2), output=folder)
    return folder


@pytest.fixture(scope="module")
def exported(trained):
    path = trained.parent / "model.onnx"
    attn_deploy.export(str(trained), path, exporter="torchscript")
    return path


@pytest.fixture(scope="module")
def results(trained):
    return attn_deploy.evaluate(trained, runtimes=("eager", "ort-cpu"))


def test_eager_and_onnx_runtime_give_the_same_answers(trained, results):
    eager, ort = results
    record = json.loads((trained / "record.json").read_text())
    assert eager.correct == ort.correct == record["test"]["correct"]
    assert eager.predictions == ort.predictions
    assert (ort.agreement.same, ort.agreement.count, ort.agreement.paired.p_value) == (360, 360, 1.0)
    assert eager.top1 > 0.2
    assert eager.top5 > eager.top1
    assert ort.info.provider == "CPUExecutionProvider"
    assert int(eager.confusion.sum()) == 360
    assert np.trace(eager.confusion) == eager.correct
    assert set(eager.per_class()) == set("0123456789")


def test_an_export_of_a_trained_model_keeps_its_weights(trained, exported):
    """Export gives untrained models made-up weights; those of a trained one are its own."""
    module = attn_deploy.create(str(trained))
    record = onnx.load(exported)
    assert "resnet8-eca-digits-s0" in next(p.value for p in record.metadata_props if p.key == "attn_deploy.model")
    images = load_dataset("digits").head(20).normalised()
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    session = attn_deploy.evaluate(exported, dataset="digits", images=20)[0]
    assert list(session.predictions) == expected.argmax(1).tolist()


def test_a_file_against_the_run_and_against_a_saved_result(trained, exported, results, tmp_path):
    found = attn_deploy.evaluate(exported, dataset="digits", reference=trained)[0]
    assert found.agreement.same == 360
    results[0].write(tmp_path / "eager.json")
    again = attn_deploy.evaluate(exported, dataset="digits", reference=tmp_path / "eager.json")[0]
    assert again.agreement == found.agreement
    assert AccuracyResult.read(tmp_path / "eager.json") == results[0]
    with pytest.raises(InvalidRequestError, match="tested on different images"):
        attn_deploy.evaluate(exported, dataset="digits", images=50, reference=tmp_path / "eager.json")


def test_a_file_of_one_batch_size(trained, tmp_path):
    """Its last batch is filled up, and the filling is not counted."""
    path = tmp_path / "fixed.onnx"
    attn_deploy.export(str(trained), path, dynamic=(), inputs=parse_inputs(["image:7x3x32x32"]))
    found = attn_deploy.evaluate(path, dataset="digits", images=30, reference=trained)[0]
    assert (found.count, found.agreement.same) == (30, 30)


@pytest.mark.parametrize("precision", ["fp16", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_precision_is_that_of_the_graph_and_not_of_its_inputs(exported, tmp_path, precision):
    target = tmp_path / f"{precision}.onnx"
    if precision == "int8":
        quantize(exported, target, calibration="digits", images=64, method="minmax")
    else:
        convert(exported, target, precision=precision)
    assert read_onnx(target).inputs[0].dtype == "float"
    results = attn_deploy.evaluate(target, dataset="digits", images=50)
    assert [r.info.precision for r in results] == [precision]
    assert [r.info.precision for r in attn_deploy.evaluate(exported, dataset="digits", images=50)] == ["fp32"]


def test_disagreement_is_seen(trained, results):
    """A model with one class's bias raised answers otherwise, and the comparison says how often."""
    module = attn_deploy.create(str(trained))
    with torch.no_grad():
        module.fc.bias[3] += 1.0
    digits = load_dataset("digits")
    broken = run_dataset(EagerRunner(module), digits, model="broken", input_name="image")
    agreement = broken.compared_with(results[0])
    assert agreement.same == sum(a == b for a, b in zip(broken.predictions, results[0].predictions, strict=True)) < 360
    with torch.no_grad():
        module.fc.bias[3] = float("nan")
    with pytest.raises(ParityError, match="the output for image 0 is NaN or infinite"):
        run_dataset(EagerRunner(module), digits, model="broken", input_name="image")


def test_what_cannot_be_tested(trained, exported, tmp_path):
    with pytest.raises(
        InvalidRequestError, match=r"resnet8 has random weights.*--weights, or the folder of a training run"
    ):
        attn_deploy.evaluate("resnet8")
    with pytest.raises(CheckpointError, match="expected the folder of a training run"):
        attn_deploy.evaluate(tmp_path / "resnet8-digits-s0")
    with pytest.raises(GraphError, match="there is no file"):
        attn_deploy.evaluate(tmp_path / "none.onnx", dataset="digits")
    with pytest.raises(InvalidRequestError, match="name the data set: --dataset cifar10"):
        attn_deploy.evaluate(exported)
    with pytest.raises(InvalidRequestError, match=r"eager runs a PyTorch model, and .* is a file"):
        attn_deploy.evaluate(exported, dataset="digits", runtimes=("eager",))
    with pytest.raises(InvalidRequestError, match="the runtime 'ort' is unknown"):
        attn_deploy.evaluate(trained, runtimes=("ort",))
    (tmp_path / "model.engine").write_bytes(b"plan")
    with pytest.raises(EngineMismatchError, match=r"has no model\.engine\.json beside it"):
        attn_deploy.evaluate(tmp_path / "model.engine", dataset="digits")
    odd = tmp_path / "odd.onnx"
    attn_deploy.export("se:channels=3,reduction=1", odd)
    with pytest.raises(InvalidRequestError, match=r"has the shape .* expected \(100, 10\), one score for each class"):
        attn_deploy.evaluate(odd, dataset="digits")


def test_other_classes_are_refused(trained, monkeypatch):
    digits = load_dataset("digits")
    other = replace(digits, name="letters", classes=tuple("abcdefghij"))
    monkeypatch.setattr("attn_deploy.accuracy.evaluate.load_dataset", lambda *a, **k: other)
    with pytest.raises(
        InvalidRequestError, match=r"trained on 10 classes of digits \(0, 1, 2, ...\), and letters has 10"
    ):
        attn_deploy.evaluate(trained)


def test_a_run_that_is_not_finished(tmp_path):
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(CheckpointError, match="the run is not finished: train with --resume"):
        attn_deploy.evaluate(tmp_path)


def test_the_command_line(trained, tmp_path):
    saved = tmp_path / "result.json"
    done = CliRunner().invoke(
        app, ["evaluate", str(trained), "--runtime", "eager,ort-cpu", "-o", str(saved)], env={"COLUMNS": "80"}
    )
    assert done.exit_code == 0, done.output
    result = AccuracyResult.read(saved)
    assert f"{result.correct:,} of 360" in done.stdout
    assert "360 of 360" in done.stdout
    assert "UCI handwritten digits" in done.stdout
    machine = CliRunner().invoke(app, ["evaluate", str(trained), "--images", "10", "--json"])
    assert json.loads(machine.stdout)[0]["summary"]["images"] == 10
    assert CliRunner().invoke(app, ["evaluate", str(trained), "--split", "val"]).exit_code == 2


def test_files_are_tested_without_torch(exported):
    code = (
        "import sys; sys.modules['torch'] = None; import attn_deploy;"
        f"print(attn_deploy.evaluate({str(exported)!r}, dataset='digits', images=30)[0].count)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "30", done.stderr
