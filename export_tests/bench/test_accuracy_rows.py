"""Accuracy beside latency: identical images, agreement and a paired test against eager, and rows that lose their number."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

import attn_deploy
from attn_deploy.bench.images import calibration_images, trained_model
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.plan import AccuracyPlan
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.bench.request import plan_profile
from attn_deploy.comparison.collection import named_runs
from attn_deploy.comparison.overview import overview
from attn_deploy.data import cifar10, load_dataset
from attn_deploy.errors import DatasetError, InvalidRequestError, ParityError
from attn_deploy.report.profile.terminal import profile_report
from attn_deploy.resolve.checkpoints import HEADER
from attn_deploy.resolve.resolve import create
from attn_deploy.runtimes.table import RUNTIMES

QUICK = BenchOptions(
    min_samples=20, min_seconds=0, warmup_seconds=0.01, max_seconds=1, settle_seconds=0.001, threads=1, rounds=10
)
MODEL = "resnet8:num_classes=10"


def text_of(record):
    console = Console(width=400, file=io.StringIO())
    console.print(profile_report(record, 400))
    return console.file.getvalue()


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
    plan = plan_profile(MODEL, weights=checkpoint)
    assert trained_model(plan).dataset == "digits"
    assert trained_model(plan_profile(MODEL)) is None
    with pytest.raises(InvalidRequestError, match=r"was trained as resnet8:num_classes=10, not resnet20"):
        attn_deploy.profile("resnet20", weights=checkpoint, options=QUICK)


def test_answers_that_are_not_finite_take_the_time_along(checkpoint, monkeypatch):
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


def test_a_test_that_fails_leaves_the_time(checkpoint, monkeypatch):
    import attn_deploy.bench.accuracy as beside

    real, tried = beside.run_dataset, []

    def failing(runner, *arguments, **settings):
        tried.append(runner.info.precision)
        if runner.info.precision == "bfloat16":
            raise OSError("the disk is gone")
        return real(runner, *arguments, **settings)

    monkeypatch.setattr(beside, "run_dataset", failing)
    plan = AccuracyPlan(dataset="digits", images=10)
    request = {"accuracy": plan, "options": QUICK, "runtimes": ["eager"], "precisions": ["fp32", "bf16"]}
    record = attn_deploy.profile(str(checkpoint), **request)
    eager, half = record.rows
    assert (half.status, half.accuracy, half.accuracy_missing) == ("ok", None, "OSError: the disk is gone")
    assert half.latency is not None
    assert half.speedup is not None
    assert eager.accuracy.images == 10
    assert not record.passed
    assert "eager bf16 b1 32x32: no top-1: OSError: the disk is gone" in text_of(record)

    def unreachable(*_, **__):
        tried.append("images")
        raise DatasetError("cifar10: the download failed")

    tried.clear()
    monkeypatch.setattr(beside, "images_to_test", unreachable)
    record = attn_deploy.profile(str(checkpoint), **request)
    assert [(r.status, r.accuracy_missing) for r in record.rows] == [("ok", "cifar10: the download failed")] * 2
    assert tried == ["images"], "what cannot be had once is not asked for again"


def test_rows_of_another_size_than_the_images_have_no_accuracy(checkpoint):
    record = attn_deploy.profile(
        str(checkpoint),
        runtimes=["eager"],
        size=[(32, 32), (64, 64)],
        accuracy=AccuracyPlan(dataset="digits", images=10),
        options=QUICK,
    )
    small, large = record.rows
    assert record.passed
    assert (small.accuracy.images, large.accuracy) == (10, None)
    texts = "no top-1: the images of digits are 32x32, and it ran at another size"
    assert f"eager fp32 b1 64x64: {texts}" in text_of(record)
    (run,) = named_runs([(Path("record.json"), record, ())])
    assert [e.on_front for e in overview([run]).entries] == [True, False]
    only = attn_deploy.profile(
        str(checkpoint),
        runtimes=["eager"],
        precisions=["fp32", "bf16"],
        size=(64, 64),
        accuracy="digits",
        options=QUICK,
    )
    assert [r.accuracy for r in only.rows] == [None, None]
    assert not only.passed, "accuracy was asked for, and there is none"


def test_what_is_no_classifier_of_the_images_is_told():
    record = attn_deploy.profile("se", runtimes=["eager"], accuracy="digits", options=QUICK)
    assert record.rows[0].status == "ok"
    assert "is not a classifier of images" in record.rows[0].accuracy_missing
    assert not record.passed


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"accuracy": "digit"}, "there is no data set 'digit'; did you mean 'digits'"),
        ({"accuracy": AccuracyPlan(dataset="digits", images=0)}, "0 images were asked for"),
        ({"accuracy": "folder"}, "--data-dir path/to/images"),
        ({"accuracy": "cifar10", "data_dir": "/nonexistent"}, "no folder /nonexistent"),
        (
            {"calibration": "/nonexistent"},
            r"calibration data '/nonexistent' not found\. Give cifar10, digits, a folder",
        ),
        ({"calibration": "cifar"}, "did you mean 'cifar10'"),
    ],
)
def test_images_that_cannot_be_had_are_refused_before_anything_is_made(request_, message, monkeypatch):
    monkeypatch.delenv("ATTN_DEPLOY_DATA", raising=False)
    with pytest.raises(InvalidRequestError, match=message):
        plan_profile("resnet8", **request_)


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """CIFAR-10's files with few records of noise in a folder, and no way to the network."""
    monkeypatch.setattr(cifar10, "RECORDS", 40)
    rng = np.random.default_rng(0)
    for name in (n for names in cifar10.FILES.values() for n in names):
        records = rng.integers(0, 256, (40, cifar10.RECORD_BYTES), np.uint8)
        records[:, 0] = np.arange(40) % 10
        records.tofile(tmp_path / name)

    def blocked(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(cifar10, "download", blocked)
    monkeypatch.setattr(cifar10, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path


@pytest.mark.parametrize(
    "request_", [{"accuracy": "cifar10"}, {"calibration": "cifar10"}, {"calibration": "cifar10", "accuracy": "digits"}]
)
def test_images_to_calibrate_with_are_those_of_the_folder(small_cifar10, request_):
    plan = plan_profile(MODEL, data_dir=small_cifar10, **request_)
    images = calibration_images(plan, has_module=True, progress=lambda _: None)
    assert (images.name, images.split, len(images)) == ("cifar10", "train", 200)


@pytest.mark.slow
def test_int8_with_accuracy_reads_the_folder_alone(small_cifar10):
    record = attn_deploy.profile(
        MODEL,
        runtimes=["ort-cpu"],
        precisions=["int8"],
        accuracy=AccuracyPlan(dataset="cifar10", images=10),
        data_dir=small_cifar10,
        options=QUICK,
    )
    (row,) = record.rows
    assert (row.status, row.reason, row.accuracy_missing) == ("ok", "", "")
    assert row.accuracy.images == 10
