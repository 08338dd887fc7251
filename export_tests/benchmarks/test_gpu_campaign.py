"""The prepared hour on a GPU, rehearsed: every step on the CPU, what a crash and a hang leave, and the import."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from attn_deploy import registry
from attn_deploy.data import load_dataset
from attn_deploy.engine.artifact import sidecar_of, write_sidecar
from attn_deploy.engine.builder import build as build_engine
from attn_deploy.engine.flavors import FLAVORS, Flavor
from attn_deploy.errors import MissingDependencyError, NoDeviceError
from attn_deploy.machine.gpu import Gpu, find_gpu
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from attn_deploy.training.recipe import recipe_for
from export_tests.engine.engine_graphs import convolution
from export_tests.runtimes.fake_gpu import FakeCuda, FakeTensorRT

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_campaign.py"
sys.path.append(str(ROOT / "benchmarks"))

from campaign import latency, prepare, tensorrt, training  # noqa: E402
from campaign.budget import run_steps, shares  # noqa: E402
from campaign.importing import BEGIN, END, import_campaign, slug  # noqa: E402
from campaign.units import RUNNING, Settings, StepFolder, Unit, run_units  # noqa: E402

STEPS = ("environment", "latency", "training", "prepare", "tensorrt", "ort")
PYTHON310 = os.environ.get("ATTN_DEPLOY_PYTHON310", "")


def campaign(*words: object, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [python, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def record(folder: Path, step: str, unit: str) -> dict:
    return json.loads((folder / step / f"{unit}.json").read_text())


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """All steps, with more seconds than a busy machine needs; and what they said."""
    folder = tmp_path_factory.mktemp("campaign")
    done = campaign("--rehearse", "--budget", 3000, "--out", folder)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
    return folder, done.stdout


@pytest.mark.slow
def test_every_step_leaves_its_records_and_a_line_for_each(rehearsed):
    folder, said = rehearsed
    for step in STEPS:
        records = [json.loads(p.read_text()) for p in (folder / step).glob("*.json")]
        assert records, f"{step} left nothing"
        for entry in records:
            assert entry["status"] == "ok", entry
            assert f"{step}/{entry['unit']}: " in said
        assert not (folder / step / RUNNING).exists()
    assert record(folder, "environment", "tests")["counts"]["passed"] > 0
    assert "resnet8" in record(folder, "training", "resnet8-s0")["record"]["model"]
    engine = record(folder, "tensorrt", "resnet8-int8")
    assert 0 <= engine["max_error"] < engine["allowed"]
    assert {r["batch"] for r in engine["rows"]} == {1, 4}
    assert engine["accuracy"]["images"] == 40, "the trained network's graph has its top-1"


@pytest.mark.slow
def test_what_is_done_is_not_done_again(rehearsed):
    folder, _ = rehearsed
    before = {p: p.stat().st_mtime_ns for s in STEPS for p in (folder / s).glob("*.json")}
    again = campaign("ort", "training", "--rehearse", "--budget", 600, "--out", folder)
    assert again.returncode == 0
    assert "/resnet8" not in again.stdout
    assert {p: p.stat().st_mtime_ns for s in STEPS for p in (folder / s).glob("*.json")} == before


@pytest.mark.slow
def test_the_import_makes_records_a_page_and_rows(rehearsed, tmp_path):
    folder, _ = rehearsed
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n\n{BEGIN}\nold rows\n{END}\n\nafter\n")
    for _ in range(2):  # twice is once
        done = campaign("--import", folder, "--into", tmp_path, "--rehearse")
        assert done.returncode == 0, done.stderr
    text = readme.read_text()
    assert text.startswith(f"before\n\n{BEGIN}\n| claim | figure | record |\n")
    assert text.endswith(f"{END}\n\nafter\n")
    assert "old rows" not in text
    assert text.count("[record](profiles/rehearsal/campaign.md)") == 3
    page = (tmp_path / "profiles" / "rehearsal" / "campaign.md").read_text()
    for heading in ("The machine", "PyTorch", "Training by the recipe", "TensorRT engines", "ONNX Runtime"):
        assert f"## {heading}" in page
    assert "resnet8 | digits | 0 |" in page
    kept = tmp_path / "profiles" / "rehearsal" / "campaign"
    assert len(list(kept.glob("*.json"))) == sum(
        len(list((folder / s).glob("*.json"))) for s in STEPS if s != "prepare"
    )
    assert "resnet8" in (tmp_path / "profiles" / "rehearsal" / "profiles.md").read_text()


@pytest.mark.slow
def test_a_rehearsal_is_not_taken_for_a_gpu(rehearsed, tmp_path, capsys):
    folder, _ = rehearsed
    assert import_campaign(folder, tmp_path, rehearsed=False) == 2
    assert "without a GPU" in capsys.readouterr().out
    assert import_campaign(tmp_path / "nothing", tmp_path, rehearsed=True) == 2
    assert "run the step environment" in capsys.readouterr().out
    assert not (tmp_path / "profiles").exists()


def test_a_gpu_has_a_folder_of_its_name():
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_the_readme_has_the_place_for_the_rows():
    text = (ROOT / "README.md").read_text()
    assert text.index(BEGIN) < text.index(END)


@pytest.mark.skipif(not PYTHON310, reason="ATTN_DEPLOY_PYTHON310 names no Python 3.10 with the packages of a device")
@pytest.mark.slow
def test_the_engines_step_runs_under_python_3_10_without_torch(rehearsed, tmp_path):
    folder, _ = rehearsed
    done = campaign(
        "tensorrt", "--rehearse", "--budget", 900, "--out", tmp_path, "--graphs", folder / "graphs", python=PYTHON310
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert record(tmp_path, "tensorrt", "resnet8-fp32")["status"] == "ok"


WITHOUT_TORCH = """
import sys
sys.path[:0] = [{root!r}, {benchmarks!r}]
from export_tests.cli.without_torch import Blocker
sys.meta_path.insert(0, Blocker())
sys.argv = ["gpu_campaign.py", "--child", "tensorrt", "--rehearse", "--budget", "900", "--out", {out!r}, "--graphs", {graphs!r}]
import gpu_campaign
sys.exit(gpu_campaign.main())
"""


@pytest.mark.slow
def test_the_engines_step_needs_no_torch(rehearsed, tmp_path):
    folder, _ = rehearsed
    settings = {
        "root": str(ROOT),
        "benchmarks": str(SCRIPT.parent),
        "out": str(tmp_path),
        "graphs": str(folder / "graphs"),
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH.format(**settings)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    entries = [json.loads(p.read_text()) for p in (tmp_path / "tensorrt").glob("*.json")]
    assert [e["status"] for e in entries] == ["ok"] * len(entries) != []


def test_the_campaign_is_python_3_10():
    for path in (SCRIPT, *(SCRIPT.parent / "campaign").glob("*.py")):
        tree = ast.parse(path.read_text(), str(path), feature_version=(3, 10))
        names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert "tomllib" not in names, path


def test_a_folder_without_graphs_says_what_to_do(tmp_path):
    done = campaign("tensorrt", "--rehearse", "--budget", 60, "--out", tmp_path)
    assert done.returncode == 1
    assert "run the step prepare first" in done.stderr
    assert "outside of a unit" in done.stdout


# What goes wrong


def settings(out: Path, seconds: float = 60.0) -> Settings:
    return Settings(out=out, rehearse=True, data_dir=None, graphs=out / "graphs", deadline=time.monotonic() + seconds)


def test_a_unit_that_fails_costs_its_own_record(tmp_path, capsys):
    def broken():
        raise RuntimeError("the kernel\n is gone")

    units = [Unit("bad", broken), Unit("good", lambda: {"line": "fine"}), Unit("long", dict, seconds=500)]
    run_units(units, settings(tmp_path), StepFolder(tmp_path, "latency"))
    said = capsys.readouterr().out
    assert record(tmp_path, "latency", "bad")["reason"] == "RuntimeError: the kernel is gone"
    assert record(tmp_path, "latency", "good")["status"] == "ok"
    assert not (tmp_path / "latency" / "long.json").exists()
    assert "latency/bad: FAILED RuntimeError" in said
    assert "latency/long: left out" in said


CHILD = """
import os, sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {benchmarks!r}]
from campaign.units import Settings, StepFolder, Unit, run_units

out, budget = Path(sys.argv[sys.argv.index("--out") + 1]), float(sys.argv[sys.argv.index("--budget") + 1])
units = [Unit("a", lambda: {{}}, 0.1), Unit("dies", lambda: os._exit(9), 0.1), Unit("b", lambda: {{}}, 0.1),
         Unit("hangs", lambda: time.sleep(600), 0.1), Unit("never", lambda: {{}}, 0.1)]
step = sys.argv[sys.argv.index("--child") + 1]
run_units(units, Settings(out, True, None, out, time.monotonic() + budget), StepFolder(out, step))
"""


@pytest.mark.slow
def test_a_crash_and_a_hang_cost_their_units_and_the_step_its_share(tmp_path, monkeypatch):
    monkeypatch.setattr("campaign.budget.GRACE", 0.5)
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(root=str(ROOT), benchmarks=str(SCRIPT.parent)))
    begun = time.monotonic()
    outcome = run_steps(script, ["latency"], 12.0, ["--out", str(tmp_path)], tmp_path)
    assert time.monotonic() - begun < 120
    states = {p.stem: json.loads(p.read_text())["status"] for p in (tmp_path / "latency").glob("*.json")}
    assert states == {"a": "ok", "dies": "failed", "b": "ok", "hangs": "failed"}
    assert outcome == {"latency": "ended at the end of its share, in hangs"}
    assert "killed at the end of its share, or crashed" in record(tmp_path, "latency", "hangs")["reason"]


def test_shares_follow_the_weights():
    whole = shares(STEPS, 900)
    assert sum(whole.values()) == pytest.approx(900)
    assert whole["latency"] > whole["ort"]
    assert shares(["ort"], 100) == {"ort": 100}


def test_words_that_cannot_be(tmp_path):
    assert "there is no step lattency" in campaign("lattency", "--budget", 1, "--out", tmp_path).stderr
    assert "--out DIR and --budget SECONDS are needed" in campaign("latency").stderr


@pytest.mark.slow
def test_a_failed_unit_is_done_again_when_that_is_asked_for(rehearsed, tmp_path):
    folder, _ = rehearsed
    graphs = tmp_path / "graphs"
    shutil.copytree(folder / "graphs", graphs)
    kept = (graphs / "resnet8-fp32.npz").read_bytes()
    (graphs / "resnet8-fp32.npz").write_bytes(kept[:100])
    words = ("tensorrt", "--rehearse", "--budget", 600, "--out", tmp_path, "--graphs", graphs)
    first = campaign(*words)
    assert first.returncode == 1
    assert "failed: tensorrt/resnet8-fp32: " in first.stdout
    (graphs / "resnet8-fp32.npz").write_bytes(kept)
    assert campaign(*words).returncode == 1, "a failure stays until it is tried again"
    assert campaign(*words, "--retry").returncode == 0


# What only a GPU can run, as far as it goes without one


def test_every_name_of_the_campaign_is_known():
    names = {*latency.NETWORKS, *latency.ZOO, *training.MODELS, *prepare.MODELS, *prepare.ZOO}
    for name in names:
        for part in name.split("+"):
            assert registry.get(part)
    recipe = recipe_for("cifar10", **training.CHANGES)
    assert recipe.side(0, 32) == 20


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
@pytest.mark.parametrize("step", [latency.units, latency.ort_units, training.units], ids=["latency", "ort", "training"])
def test_without_a_gpu_each_step_fails_for_that_reason_alone(step, tmp_path, monkeypatch):
    real = dataclasses.replace(settings(tmp_path), rehearse=False)
    monkeypatch.setattr("attn_deploy.training.run.load_dataset", lambda name, *a, **k: load_dataset("digits", *a[:1]))
    units = step(real)
    assert len({u.name for u in units}) == len(units)
    with pytest.raises((NoDeviceError, MissingDependencyError), match=r"CUDA|GPU|runtime"):
        units[0].work()


@pytest.mark.slow
def test_the_engines_step_over_a_stand_in_for_the_gpu(tmp_path, monkeypatch):
    """All that a real run does: the runner, both launches, parity, the profile of an engine file, layers."""
    rtx = pytest.importorskip("tensorrt_rtx")
    graphs = tmp_path / "graphs"
    graphs.mkdir()
    graph = convolution(graphs / "net-fp32.onnx")
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    outputs = run_once(OnnxRuntimeRunner(graph, threads=1), inputs)
    np.savez(graphs / "net-fp32.npz", **{"in.x": inputs["x"]}, **{f"out.{k}": v for k, v in outputs.items()})
    entry = {"name": "net-fp32", "model": "net", "precision": "fp32", "size": [8, 8], "batches": [1, 4], "channels": 3}
    (graphs / "index.json").write_text(json.dumps([{**entry, "dataset": None}]))
    gpu, cuda = Gpu("NVIDIA H100 80GB HBM3", "sm90", "13.0"), FakeCuda(memory=1 << 24)

    def build(onnx, path, *, profiles, flavor, timeout):
        assert flavor == "tensorrt"
        assert profiles == "x:1x3x8x8,4x3x8x8,4x3x8x8"
        made = build_engine(onnx, path, profiles=profiles)
        options = dataclasses.replace(made.options, targets=("sm90",))
        made = dataclasses.replace(made, flavor="tensorrt", version="8.5.3.1", options=options, device=gpu.name)
        write_sidecar(made, sidecar_of(path))
        return made

    library = Flavor(FLAVORS["tensorrt"], FakeTensorRT(rtx, cuda, graph, jit=False), "8.5.3.1")
    monkeypatch.setattr("attn_deploy.engine.builder.build", build)
    monkeypatch.setattr("attn_deploy.runtimes.cuda.import_cuda", lambda: cuda)
    monkeypatch.setattr("attn_deploy.runtimes.tensorrt.find_gpu", lambda device: gpu)
    monkeypatch.setattr("attn_deploy.machine.gpu.find_gpu", lambda *_: gpu)
    monkeypatch.setattr("attn_deploy.runtimes.tensorrt.load_runtime", lambda spec, **_: library)
    monkeypatch.setattr("attn_deploy.engine.lean.load_runtime", lambda spec, **_: library)
    real = dataclasses.replace(settings(tmp_path), rehearse=False)
    (unit,) = tensorrt.units(real)
    found = unit.work()
    assert found["build"]["library"] == "tensorrt 8.5.3.1"
    assert found["max_error"] == 0.0
    assert [(r["batch"], r["cuda_graph"], r["clock"]) for r in found["rows"]] == [
        (1, False, "device"), (1, True, "device"), (4, False, "device"), (4, True, "device")
    ]  # fmt: skip
    assert found["layers"]["note"], "there is no library that could list them"
    spoiled = dict(np.load(graphs / "net-fp32.npz"))
    spoiled["out.y"] = spoiled["out.y"] + 1
    np.savez(graphs / "net-fp32.npz", **spoiled)
    with pytest.raises(ValueError, match=r"of the largest output; 0\.001 is allowed"):
        unit.work()
