"""Pipelines: files are checked before anything runs, steps are cached by content, gates decide on the package."""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import jsonschema
import pytest
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.cli.deploy import driven_commands
from attn_deploy.deploy.package.check import verify_package
from attn_deploy.errors import AttnDeployError, InvalidRequestError
from attn_deploy.files import alone_in
from attn_deploy.pipeline.commands import STEPS
from attn_deploy.pipeline.gates import judge
from attn_deploy.pipeline.keys import hash_of_model
from attn_deploy.pipeline.plan import plan_pipeline
from attn_deploy.pipeline.run import run_pipeline
from attn_deploy.pipeline.schema import pipeline_schema
from attn_deploy.pipeline.settings import checked_settings, read_settings
from attn_deploy.pipeline.template import template
from export_tests.conftest import ROOT

COMMANDS = driven_commands()
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.mix = torch.nn.Conv2d(3, 10, 3, padding=1)

    def forward(self, image):
        return self.mix(image).mean((2, 3))
"""
FILE = """
model = "net.py:Net"
output = "out"

[export]
input = "1x3x32x32"
exporter = "torchscript"
preprocess = "0..1,uint8"

[profile]
runtime = "ort-cpu"
seconds = 0.01
executor = "inline"
memory = false

[evaluate]
dataset = "digits"
images = 50

[gates]
min_top1 = 0.0
max_latency_ms = 10000
max_size_mb = 1

[package]
for = ["python"]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A pipeline that was run once."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "net.py").write_text(NET)
    (folder / "deploy.toml").write_text(FILE)
    result = run_pipeline(read_settings(folder / "deploy.toml", COMMANDS), COMMANDS)
    assert result.passed
    assert dict(result.steps) == dict.fromkeys(("export", "profile", "evaluate", "package"), "run")
    return folder


@pytest.fixture
def again(finished, tmp_path):
    """The finished pipeline somewhere else, to go on with."""
    return Path(shutil.copytree(finished, tmp_path / "again"))


def rerun(folder, text=FILE):
    (folder / "deploy.toml").write_text(text)
    return run_pipeline(read_settings(folder / "deploy.toml", COMMANDS), COMMANDS)


def test_the_package_holds_what_the_steps_measured(finished):
    package = finished / "out" / "package"
    assert verify_package(package).passed
    page = (package / "EVIDENCE.md").read_text()
    assert "ort-cpu fp32 b1" in page
    assert "digits test" in page
    assert json.loads((finished / "out" / "summary.json").read_text())["passed"]


def test_nothing_is_run_twice(again):
    assert set(dict(rerun(again).steps).values()) == {"there already"}


def test_a_changed_option_runs_its_step_alone(again):
    steps = dict(rerun(again, FILE.replace("images = 50", "images = 40")).steps)
    assert steps == {"export": "there already", "profile": "there already", "evaluate": "run", "package": "run"}


@pytest.mark.parametrize("change", ["source", "result"])
def test_changed_bytes_run_what_they_touch(again, change):
    if change == "source":
        (again / "net.py").write_text(NET.replace("manual_seed(1)", "manual_seed(2)"))
    else:
        path = again / "out" / "model.onnx"
        path.write_bytes(path.read_bytes()[:-3])
    steps = plan_pipeline(read_settings(again / "deploy.toml", COMMANDS), COMMANDS).steps
    assert not steps[0].cached
    assert all(not s.cached for s in steps) == (change == "source")


def test_what_a_source_imports_is_part_of_it(again):
    (again / "net.py").write_text("import widths\n" + NET.replace("Conv2d(3, 10, 3", "Conv2d(3, widths.classes(), 3"))
    (again / "widths.py").write_text("from counts import COUNT\ndef classes():\n    return COUNT\n")
    (again / "counts.py").write_text("COUNT = 10\n")
    read = read_settings(again / "deploy.toml", COMMANDS)
    keys = [s.key for s in plan_pipeline(read, COMMANDS).steps]
    assert keys == [s.key for s in plan_pipeline(read, COMMANDS).steps]
    (again / "counts.py").write_text("COUNT = 11\n")
    assert all(a != s.key for a, s in zip(keys, plan_pipeline(read, COMMANDS).steps, strict=True))


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (("installed_versions", lambda names: {"onnxruntime": "9.9"}), {"export"}),
        (("processors", lambda: ("another", "2 cores")), {"export", "evaluate"}),
    ],
)
def test_what_was_measured_is_measured_again_elsewhere(again, monkeypatch, change, kept):
    monkeypatch.setattr(f"attn_deploy.pipeline.keys.{change[0]}", change[1])
    steps = plan_pipeline(read_settings(again / "deploy.toml", COMMANDS), COMMANDS).steps
    assert {s.name for s in steps if s.cached} == kept


@pytest.mark.parametrize(
    ("model", "same"),
    [("resnet8+se", False), ("best.pt+eca@layer3", False), ("timm:resnet18", True), ("nothing-of-the-kind", True)],
)
def test_a_model_is_known_by_what_it_is_made_of(model, same, tmp_path, monkeypatch):
    (tmp_path / "best.pt").write_bytes(b"weights")
    before = hash_of_model(model, tmp_path)
    assert bool(before) == (model != "nothing-of-the-kind")
    (tmp_path / "best.pt").write_bytes(b"other weights")
    monkeypatch.setattr("attn_deploy.pipeline.keys.model_hash", lambda name: "another source")
    if not model.startswith("nothing"):
        assert (hash_of_model(model, tmp_path) == before) == same


def test_a_gate_that_fails_is_named_and_nothing_is_packaged(again):
    shutil.rmtree(again / "out" / "package")
    (again / "deploy.toml").write_text(FILE.replace("min_top1 = 0.0", "min_top1 = 0.99"))
    result = CliRunner().invoke(app, ["deploy", str(again / "deploy.toml")])
    assert result.exit_code == 1
    assert "nothing was packaged: the gate min_top1 failed" in result.stdout
    assert not (again / "out" / "package").exists()


def test_each_gate_can_fail(again):
    settings = read_settings(again / "deploy.toml", COMMANDS)
    plan = plan_pipeline(settings, COMMANDS)
    worse = copy.deepcopy(json.loads((again / "out" / "evaluate.json").read_text()))
    baseline = again / "baseline"
    shutil.copytree(again / "out", baseline)
    worse.update(predictions=worse["labels"], in_top5=len(worse["labels"]))
    limits = {"max_latency_ms": 1e-9, "min_top1": 1.0, "max_size_mb": 1e-6, "no_regression": "baseline"}
    (same,) = judge({"no_regression": "baseline"}, plan, again)
    assert same.passed
    (baseline / "evaluate.json").write_text(json.dumps(worse))
    assert [g.passed for g in judge(limits, plan, again)] == [False] * 4
    record = again / "out" / "profile" / "record.json"
    data = json.loads(record.read_text())
    for row in data["rows"]:
        row.update(status="failed", latency=None, summary=None)
    record.write_text(json.dumps(data))
    (none,) = judge({"max_latency_ms": 1e9}, plan, again)
    assert (none.passed, none.words) == (False, "no row of the profile has a number")
    with pytest.raises(InvalidRequestError, match="holds no profile"):
        judge({"no_regression": "nowhere"}, plan, again)


def test_two_do_not_run_in_one_folder(again):
    with (
        alone_in(again / "out", "deploying"),
        pytest.raises(InvalidRequestError, match="another process is deploying in"),
    ):
        rerun(again)
    assert rerun(again).passed


def test_a_gate_compares_with_no_accuracy_that_is_none(again):
    plan = plan_pipeline(read_settings(again / "deploy.toml", COMMANDS), COMMANDS)
    baseline = again / "baseline"
    shutil.copytree(again / "out", baseline)
    file = baseline / "evaluate.json"
    sound = json.loads(file.read_text())
    for data in ({}, [], None, {"summary": {"top1": "x"}}, {"summary": {"top1": float("nan")}}, {**sound, "labels": 3}):
        file.write_text(json.dumps(data))
        with pytest.raises(InvalidRequestError, match=r"evaluate\.json"):
            judge({"no_regression": "baseline"}, plan, again)
    del sound["summary"]  # which is said twice: what counts are the answers
    file.write_text(json.dumps(sound))
    (gate,) = judge({"no_regression": "baseline"}, plan, again)
    assert gate.passed


def test_a_step_that_fails_says_why(tmp_path):
    (tmp_path / "net.py").write_text(NET.replace("self.mix(image)", "self.nix(image)"))
    with pytest.raises(AttnDeployError, match=r"the step export failed: .*has no attribute 'nix'"):
        rerun(tmp_path)
    assert not (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(again):
    text = FILE.replace("seconds = 0.01", "seconds = 60").replace("images = 50", "images = 30")
    (again / "deploy.toml").write_text(text)
    process = subprocess.Popen(
        [sys.executable, "-m", "attn_deploy", "deploy", str(again / "deploy.toml")],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = [process.stderr.readline()]
    if said == ["deploy: starting\n"]:  # it was not quick enough to say what it does at once
        said = [process.stderr.readline()]
    assert said[0].startswith("profile: attn-deploy profile")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    steps = plan_pipeline(read_settings(again / "deploy.toml", COMMANDS), COMMANDS).steps
    assert [s.cached for s in steps] == [True, False, False]
    assert set(dict(rerun(again).steps)) == {"export", "profile", "evaluate", "package"}


def test_ctrl_c_while_a_step_starts_leaves_no_step_behind(again, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        rerun(again, FILE.replace("seconds = 0.01", "seconds = 60"))
    assert [p.returncode is not None for p in started] == [True]
    assert signal.getsignal(signal.SIGINT) is before


def test_plan_and_init(tmp_path):
    runner = CliRunner()
    path = tmp_path / "deploy.toml"
    assert runner.invoke(app, ["deploy", str(path), "--init", "resnet18+se"]).exit_code == 0
    plan = runner.invoke(app, ["deploy", str(path), "--plan"])
    assert plan.exit_code == 0
    assert [line.split()[0] for line in plan.stdout.splitlines() if line[0] != " "] == [
        "export",
        "profile",
        "gate",
        "package",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deploy.toml"]
    assert runner.invoke(app, ["deploy", str(path), "--init", "resnet18"]).exit_code == 2


@pytest.mark.parametrize(
    ("tables", "target"),
    [
        ({}, []),
        ({"build": [{}]}, ["gpu"]),
        ({"package": {"device": "rtx4090"}}, ["gpu"]),
        ({"package": {"for": ["python"]}}, []),
        ({"build": [{}], "quantize": {"target": "cpu"}}, ["cpu"]),
    ],
)
def test_what_becomes_an_engine_is_quantized_for_gpus(tmp_path, tables, target):
    data = {"model": "a.onnx", "quantize": {}, **tables}
    argv = plan_pipeline(checked_settings(data, tmp_path, "deploy.toml", COMMANDS), COMMANDS).steps[0].argv
    assert [word for flag, word in itertools.pairwise(argv) if flag == "--target"] == target


@pytest.mark.parametrize("model", ["resnet18+se", "net.py:Net", "a/model.onnx"])
def test_what_init_writes_is_a_file_that_can_be_read(tmp_path, model):
    settings = checked_settings(tomllib.loads(template(model)), tmp_path, "deploy.toml", COMMANDS)
    assert settings.model == model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "model is missing"),
        ('modell = "a"', "modell is unknown; did you mean model?"),
        ('model = "a"\n[exprot]', "exprot is unknown; did you mean export?"),
        ('model = "a"\n[export]\nopsett = 17', "export.opsett is unknown; did you mean export.opset?"),
        ('model = "a"\n[export]\nopset = "17"', "export.opset is '17', and must be a whole number"),
        ('model = "a"\n[export]\noutput = "b"', "export.output is set by the pipeline"),
        ('model = "a"\n[export]\n[gates]\nmin_top1 = 0.5', "needs the numbers of [evaluate]"),
        ('model = "a"\n[export]\n[evaluate]\n[gates]\nmin_top1 = 95', "it is a share"),
        ('model = "a"\n[export]\n[gates]\nmin_top = 1', "did you mean gates.min_top1?"),
        ('model = "a"\n[profile]', "add the table [export]"),
        ('model = "a.onnx"\n[export]', "leave out [train] and [export]"),
        ('model = "a"\n[export]\n[[build]]\n[[build]]', "two steps are called"),
        ("model =", "is not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / "deploy.toml"
    path.write_text(text)
    result = CliRunner().invoke(app, ["deploy", str(path)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert words in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["deploy.toml"]


def test_every_option_of_the_commands_can_be_written():
    import typer.main

    group = typer.main.get_command(app)
    for name, own in STEPS.items():
        flags = {o for p in group.commands[name].params for o in p.opts if o.startswith("--") and o != "--help"}
        known = {o.flag for o in COMMANDS[name].values()}
        assert known <= flags
        missing = {f for f in flags - known if not f.startswith("--no-")}
        assert all(any(f in p.opts and p.opts[0] != f for p in group.commands[name].params) for f in missing), missing
        assert set(own) <= {o.removeprefix("--").replace("-", "_") for o in flags}


def test_the_published_schema_is_up_to_date_and_takes_what_the_program_takes():
    path = ROOT / "docs" / "deploy.schema.json"
    schema = pipeline_schema(COMMANDS)
    assert json.loads(path.read_text()) == schema, "run python docs/write_schema.py"
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for text in (FILE, (ROOT / "examples" / "cpu.toml").read_text(), template("resnet18")):
        validator.validate(tomllib.loads(text))
    for text in ('model = "a"\n[export]\nopsett = 17', "[export]", 'model = "a"\n[export]\nopset = "x"'):
        assert not validator.is_valid(tomllib.loads(text))


def test_the_example_can_be_read():
    settings = read_settings(ROOT / "examples" / "cpu.toml", COMMANDS)
    assert [n for n, _ in settings.steps] == ["train", "export", "quantize", "profile", "evaluate", "package"]


@pytest.mark.slow
def test_the_example_runs_from_training_to_package(tmp_path):
    shutil.copy(ROOT / "examples" / "cpu.toml", tmp_path)
    result = run_pipeline(read_settings(tmp_path / "cpu.toml", COMMANDS), COMMANDS)
    assert result.passed, result.gates
    assert verify_package(result.package).passed


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('model = "resnet88"\n[export]\n', "did you mean 'resnet"),
        ('model = "resnet8"\n[export]\nprecision = "int8"\n', "[export]: export writes fp32, fp16 or bf16"),
        ('model = "resnet8"\n[export]\nopset = 99\n', "[export]: opset 99"),
        ('model = "resnet8"\n[export]\npreprocess = "imagnet"\n', "did you mean 'imagenet'"),
        ('model = "resnet8"\n[train]\ndataset = "digit"\n[export]\n', "[train]"),
        ('model = "resnet8"\n[export]\n[quantize]\ncalibration = "cifar1"\n', "did you mean 'cifar10'"),
        ('model = "resnet8"\n[export]\n[build]\ndevice = "rtx4091"\n', "did you mean 'rtx4090'"),
        ('model = "resnet8"\n[export]\n[profile]\nruntime = "ort-cp"\n', "did you mean 'ort-cpu'"),
        ('model = "resnet8"\n[export]\n[package]\nfor = ["python", "tritn"]\n', "did you mean 'triton'"),
        ('model = "resnet8"\n[export]\n[package]\nfor = "triton"\ntriton = "99.01"\n', "[package]: --triton '99.01'"),
    ],
)
def test_a_wrong_value_is_answered_before_the_first_step(tmp_path, lines, words):
    (tmp_path / "d.toml").write_text(lines)
    settings = read_settings(tmp_path / "d.toml", COMMANDS)
    with pytest.raises((InvalidRequestError, AttnDeployError)) as caught:
        plan_pipeline(settings, COMMANDS)
    assert words in str(caught.value)
    assert not (tmp_path / "deployed").exists()
