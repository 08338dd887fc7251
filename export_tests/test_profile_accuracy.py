"""Accuracy beside latency: identical images, agreement and a paired test against eager, and rows that lose their number."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import attn_deploy
from attn_deploy.bench.images import trained_model
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.plan import AccuracyPlan
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.bench.request import make_plan
from attn_deploy.bench.runtimes import RUNTIMES
from attn_deploy.data import load_dataset
from attn_deploy.errors import InvalidRequestError, ParityError
from attn_deploy.models import create
from attn_deploy.training.checkpoint import HEADER

QUICK = BenchOptions(
    min_samples=20, min_seconds=0, warmup_seconds=0.01, max_seconds=1, settle_seconds=0.001, threads=1, rounds=10
)
MODEL = "resnet8:num_classes=10"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a run that was never trained: what is tested here does not depend on how good a model is."""
    folder = tmp_path_factory.mktemp("runs") / "resnet8-digits-s0"
    folder.mkdir()
    torch.manual_seed(0)
    images = load_dataset("digits", "test")
    header = {
        "model": MODEL,
        "arguments": {},
        "dataset": "digits",
        "classes": list(images.classes),
        "mean": list(images.mean),
        "std": list(images.std),
    }
    save_file(create(MODEL).state_dict(), folder / "model.safetensors", metadata={HEADER: json.dumps(header)})
    return folder


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile") / "run"
    record = attn_deploy.profile(
        str(checkpoint),
        precisions=["fp32", "fp16"],
        runtimes=["eager", "ort-cpu"],
        accuracy=AccuracyPlan(dataset="digits", images=120),
        options=QUICK,
        save=folder,
        executor="inline",
    )
    return folder, record


def test_every_row_has_the_accuracy_of_its_runtime_and_precision(run, checkpoint):
    folder, record = run
    assert record.passed, [r.reason for r in record.rows]
    assert {(r.accuracy.dataset, r.accuracy.images, r.accuracy.sha256) for r in record.rows} == {
        ("digits", 120, load_dataset("digits", "test").head(120).digest)
    }
    eager = record.row("eager", precision="fp32").accuracy
    assert (eager.reference, eager.same, eager.p_value) == ("", None, None)
    (by_evaluate,) = attn_deploy.evaluate(checkpoint, images=120)
    assert eager.correct == by_evaluate.correct
    for row in record.rows[1:]:
        assert row.accuracy.reference.endswith("in eager")
        assert row.accuracy.same >= 115
        assert row.accuracy.only_this - row.accuracy.only_reference == row.accuracy.correct - eager.correct
        assert 0 <= row.accuracy.p_value <= 1
    ort = record.row("ort-cpu", precision="fp32").accuracy
    assert (ort.same, ort.p_value) == (120, 1.0)
    assert ProfileRecord.read(folder / "record.json") == record
    assert len(list((folder / "accuracy").glob("*.json"))) == 4


def test_weights_of_a_run_belong_to_the_model_that_is_named(checkpoint):
    plan = make_plan(MODEL, weights=checkpoint)
    assert trained_model(plan).dataset == "digits"
    assert trained_model(make_plan(MODEL)) is None
    with pytest.raises(InvalidRequestError, match=r"was trained as resnet8:num_classes=10, and resnet20 was named"):
        attn_deploy.profile("resnet20", weights=checkpoint, options=QUICK)


def test_a_latency_without_the_accuracy_that_was_asked_for_is_none(checkpoint, monkeypatch):
    import attn_deploy.bench.accuracy as beside

    real = beside.run_dataset

    def failing(runner, *arguments, **settings):
        if runner.info.runtime == "ort-cpu":
            raise ParityError("the output for image 3 is NaN or infinite.")
        return real(runner, *arguments, **settings)

    monkeypatch.setattr(beside, "run_dataset", failing)
    record = attn_deploy.profile(
        str(checkpoint),
        accuracy=AccuracyPlan(dataset="digits", images=10),
        options=QUICK,
        runtimes=list(RUNTIMES)[:3:2],
    )
    eager, ort = record.rows
    assert (eager.status, eager.accuracy.images) == ("ok", 10)
    assert (ort.status, ort.latency) == ("invalid", None)
    assert "could not be measured: the output for image 3" in ort.reason


def test_what_is_no_classifier_of_the_images_is_told():
    record = attn_deploy.profile("se", runtimes=["eager"], accuracy="digits", options=QUICK)
    assert record.rows[0].status == "invalid"
    assert "accuracy could not be measured" in record.rows[0].reason
