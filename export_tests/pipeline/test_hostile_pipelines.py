"""A pipeline's file removes nothing that it did not make, and says what it cannot do before it begins."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.cli.deploy import driven_commands
from attn_deploy.errors import AttnDeployError, InvalidRequestError
from attn_deploy.pipeline.plan import plan_pipeline
from attn_deploy.pipeline.run import run_pipeline
from attn_deploy.pipeline.settings import checked_settings, read_settings
from export_tests.deploy.test_hostile_packages import graph

COMMANDS = driven_commands()


def settings(folder, data):
    return checked_settings({"model": "m.onnx", "output": "out", **data}, folder, "deploy.toml", COMMANDS)


@pytest.mark.parametrize("step", ["package", "profile"])
@pytest.mark.parametrize("output", ["out", "../elsewhere"])
def test_a_folder_of_others_is_not_removed(step, output, tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    graph(folder / "m.onnx")
    precious = (folder / output / step).resolve()
    precious.mkdir(parents=True)
    (precious / "data").write_text("not to be lost")
    with pytest.raises(InvalidRequestError, match="is there and was not made by this pipeline"):
        run_pipeline(settings(folder, {"output": output, step: {}}), COMMANDS)
    assert (precious / "data").read_text() == "not to be lost"


def test_what_it_made_itself_is_made_again(tmp_path):
    graph(tmp_path / "m.onnx")
    wanted = settings(tmp_path, {"package": {}})
    assert run_pipeline(wanted, COMMANDS).package
    (tmp_path / "out" / "package" / "EVIDENCE.md").write_text("changed")
    assert dict(run_pipeline(wanted, COMMANDS).steps) == {"package": "run"}


@pytest.mark.parametrize(
    "state", ["[]", '{"package": 3}', '{"package": {"key": 1, "hash": ""}}', '{"package": {}}', "{", "null"]
)
def test_a_state_of_others_is_an_error_that_names_it(state, tmp_path):
    graph(tmp_path / "m.onnx")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.json").write_text(state)
    with pytest.raises(InvalidRequestError, match=r"state\.json"):
        run_pipeline(settings(tmp_path, {"package": {}}), COMMANDS)


@pytest.mark.parametrize("model", ["--help", "-h", "--version", "a\x00b"])
def test_a_model_is_no_option(model, tmp_path):
    with pytest.raises(InvalidRequestError, match="no name and no path"):
        settings(tmp_path, {"model": model, "export": {}})


@pytest.mark.parametrize(
    "text",
    ["a=" + "[" * 5000, "a." * 5_000 + "b=1", "\x00", "# " + "x" * 2_000_000, "model = 3"],
    ids=["lists", "tables", "zero", "long", "number"],
)
def test_a_file_without_end_is_one_line(text, tmp_path):
    path = tmp_path / "deploy.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequestError, match=r"deploy\.toml"):
        read_settings(path, COMMANDS)
    assert CliRunner().invoke(app, ["deploy", str(path)]).exit_code == 2


@pytest.mark.parametrize(
    "table",
    [{"gates": {"max_size_mb": float("nan")}}, {"profile": {"seconds": float("inf")}}, {"package": {"name": "a\x00b"}}],
)
def test_values_are_numbers_and_texts(table, tmp_path):
    with pytest.raises(InvalidRequestError, match="must be"):
        settings(tmp_path, table)


@pytest.mark.parametrize("word", ["../../x", "/tmp/x", "..", "a/b.toml"])
def test_no_step_writes_outside_of_the_output(word, tmp_path):
    plan = plan_pipeline(settings(tmp_path, {"build": {"target": word}}), COMMANDS)
    (step,) = plan.steps
    assert step.output.parent == tmp_path / "out" / "engines"


def test_a_step_that_writes_nothing_is_no_success(tmp_path, monkeypatch):
    graph(tmp_path / "m.onnx")

    class Nothing:
        returncode = 0

        def __init__(self, *_, **__): ...

        def communicate(self):
            return "", ""

    monkeypatch.setattr("attn_deploy.pipeline.run.subprocess.Popen", Nothing)
    with pytest.raises(AttnDeployError, match=r"the step package ended well and wrote no .*package"):
        run_pipeline(settings(tmp_path, {"package": {}}), COMMANDS)
    assert json.loads((tmp_path / "out" / "state.json").read_text())["package"]["hash"] == ""
