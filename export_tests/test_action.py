"""The composite action: what it takes, and its `run` steps in bash with the runner's environment faked by files."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import yaml

from export_tests.conftest import ROOT

ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image):
        return self.mix(image).mean((2, 3))

class Wrong(Net):
    def forward(self, image):
        return super().forward(image)[:, : int(image.sum())]
"""
GIVEN = {"opsets": "17", "exporters": "torchscript"}


def step(name):
    return next(s for s in ACTION["runs"]["steps"] if s.get("name") == name)


@pytest.fixture
def runner(tmp_path):
    """Runs a step of the action as the runner does, in a repository with models of its own."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "bin").mkdir()
    log = tmp_path / "python.log"
    python = tmp_path / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\nif [ "$2" = pip ]; then exit 0; fi\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)

    def run(name, **inputs):
        values = {k: v.get("default", "") for k, v in ACTION["inputs"].items()} | GIVEN | inputs

        def fill(match):
            context, key = match[1].split(".")
            return values[key] if context == "inputs" else str(ROOT)

        own = {k: re.sub(r"\$\{\{ ([\w.]+) \}\}", fill, v) for k, v in step(name)["env"].items()}
        environment = {
            **os.environ, **own, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"), "PYTHONPATH": str(ROOT),
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        script = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step(name)["run"]]
        return subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)

    run.folder, run.log, run.summary = tmp_path, log, tmp_path / "summary.md"
    return run


def test_inputs_and_steps_fit_together():
    assert ACTION["runs"]["using"] == "composite"
    named = set(re.findall(r"inputs\.(\w+)", (ROOT / "action.yml").read_text()))
    assert named == set(ACTION["inputs"])
    assert all(i["description"] for i in ACTION["inputs"].values())
    assert all(s["shell"] == "bash" for s in ACTION["runs"]["steps"] if "run" in s)
    assert not any("${{" in s["run"] for s in ACTION["runs"]["steps"] if "run" in s), "an input could be run as code"


def test_it_installs_itself_with_the_extras(runner):
    assert runner("Install", extras="cpu,rtx").returncode == 0
    assert runner.log.read_text() == f"-m pip install {ROOT}[cpu,rtx]\n"


@pytest.mark.slow
def test_a_matrix_writes_its_table_into_the_summary(runner):
    result = runner("Run", models="net.py:Net", input="1x3x32x32")
    assert result.returncode == 0, result.stderr
    assert "Net" in runner.summary.read_text()
    folder = runner.folder / "attn-deploy-results"
    assert {"matrix.html", "matrix.xml", "record.json"} <= {p.name for p in folder.iterdir()}


def test_a_red_cell_fails_the_job_unless_the_baseline_has_it(runner):
    result = runner("Run", models="net.py:Wrong", input="1x3x32x32")
    assert result.returncode == 1
    assert runner.summary.exists()
    baseline = runner.folder / "attn-deploy-results" / "record.json"
    kept = runner.folder / "baseline.json"
    kept.write_bytes(baseline.read_bytes())
    result = runner("Run", models="net.py:Wrong", input="1x3x32x32", baseline=str(kept), output="second")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_pipeline_runs_and_its_failure_is_the_jobs(runner):
    (runner.folder / "deploy.toml").write_text(
        'model = "net.py:Net"\n[export]\ninput = "1x3x32x32"\nexporter = "torchscript"\n[gates]\nmax_size_mb = 0.00001\n'
    )
    result = runner("Run", config="deploy.toml")
    assert result.returncode == 1, result.stderr
    assert "FAILED" in runner.summary.read_text()


@pytest.mark.parametrize("inputs", [{}, {"models": "a", "config": "b"}])
def test_models_or_config(runner, inputs):
    result = runner("Run", **inputs)
    assert (result.returncode, "::error::" in result.stdout) == (2, True)


def test_the_examples_and_workflows_call_the_action_with_what_it_takes():
    files = [ROOT / "examples" / "pull-request.yml", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))]
    calls = 0
    for path in files:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for entry in job.get("steps", ()):
                uses = entry.get("uses", "")
                if uses == "./" or uses.startswith("OWNER/attn-deploy@"):
                    assert set(entry.get("with", {})) <= set(ACTION["inputs"]), path
                    calls += 1
    assert calls >= 2, "the example and a workflow of our own use it"
