"""The doctor on this installation, and on installations that are broken on purpose."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from attn_deploy.cli.doctor import doctor as doctor_command
from attn_deploy.machine import doctor, probes
from attn_deploy.machine.doctor import (
    PACKAGES,
    InstalledCheck,
    compatibility,
    examine_machine,
    judge_package,
    version_key,
)
from attn_deploy.machine.environment import GpuDescription, describe_environment
from attn_deploy.report.doctor import doctor_report

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@pytest.fixture(scope="module")
def report():
    return examine_machine()


def package(name):
    return next(p for p in PACKAGES if p.name == name)


def install(folder, distribution, source, *, version="9.9", module=None):
    """A distribution that is there as far as metadata can tell, with the given source."""
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    if source is not None:
        made = folder / (module or distribution.replace("-", "_"))
        made.mkdir(exist_ok=True)
        (made / "__init__.py").write_text(source)


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Install a package that shadows or adds to this installation, and say what the doctor finds of it."""

    def check(name, distribution, source, module=None):
        install(tmp_path, distribution, source, module=module)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        found = doctor._installed(package(name))
        return judge_package(package(name), found, doctor._probe(package(name)))

    return check


def test_this_installation_is_healthy(report):
    assert report.healthy, [c for c in report.checks if c.state == "broken"]
    assert report.check("torch").found == torch.__version__
    assert report.check("torch").facts["cuda"] == torch.version.cuda
    assert report.check("onnx").facts["max_opset"] == onnx.defs.onnx_opset_version()
    assert report.check("tensorrt_rtx").state in ("ok", "missing")


def test_providers_that_are_compiled_in_are_told_from_those_that_run(report):
    facts = report.check("onnxruntime").facts
    available = [p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers()]
    assert facts["compiled_in"] == available
    assert "CPU" in facts["usable"]
    assert "Azure" not in facts["usable"]
    assert probes._runs(onnxruntime, "CPU")
    assert not probes._runs(onnxruntime, "Imaginary")  # onnxruntime falls back in silence here


def test_the_newest_opset_of_onnxruntime_is_measured(report):
    facts = report.check("onnxruntime").facts
    assert probes._loads(onnxruntime, facts["max_opset"], 7)
    assert 20 <= facts["max_opset"] <= onnx.defs.onnx_opset_version()
    if facts["max_opset"] < onnx.defs.onnx_opset_version():
        assert not probes._loads(onnxruntime, facts["max_opset"] + 1, 7)
    assert str(facts["max_opset"]) in report.check("opsets").detail


def test_a_library_that_is_missing_is_broken_and_not_absent(broken):
    """As the vendor's bindings without its libraries."""
    found = broken("tensorrt", "tensorrt", "raise OSError('libnvinfer.so.10: cannot open shared object file')")
    assert (found.state, found.found) == ("broken", "9.9")
    assert "libnvinfer.so.10" in found.detail
    assert "attn-deploy[tensorrt]" in found.remedy


def test_an_empty_shell_is_broken(broken):
    found = broken("tensorrt", "tensorrt", None)
    assert found.state == "broken"
    assert found.detail == "import tensorrt_bindings fails: No module named 'tensorrt_bindings'"


def test_a_package_that_crashes_is_broken_and_the_doctor_lives(broken):
    found = broken("onnxsim", "onnxsim", "import os; os.abort()")
    assert found.state == "broken"
    assert "SIGABRT" in found.detail
    assert found.remedy == "pip install --force-reinstall --no-deps onnxsim"


def test_a_package_that_is_old_is_broken():
    found = judge_package(package("torch"), {"torch": "2.3.1+cu121"}, {"version": "2.3.1"})
    assert found.state == "broken"
    assert "2.3.1+cu121 is older than 2.9" in found.detail
    assert found.remedy == "pip install --upgrade attn-deploy"


def test_two_builds_of_onnxruntime_are_a_conflict(tmp_path, monkeypatch):
    install(tmp_path, "onnxruntime-gpu", None, version="1.31.1")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor._installed(package("onnxruntime"))
    assert set(found) == {"onnxruntime", "onnxruntime-gpu"}
    check = judge_package(package("onnxruntime"), found, {"version": "1.31.1"})
    assert check.state == "broken"
    assert "overwrite each other" in check.detail
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in check.remedy


def test_what_is_missing_names_its_extra(monkeypatch):
    monkeypatch.setattr(doctor, "_installed", lambda p: {})
    monkeypatch.setattr(doctor, "_probe", lambda p: pytest.fail("nothing is there to be tried"))
    report = examine_machine()
    assert report.healthy
    assert {c.state for c in report.checks if c.name in {p.name for p in PACKAGES}} == {"missing"}
    assert report.check("onnxsim").remedy == "pip install 'attn-deploy[simplify]'"
    assert report.check("torch").remedy == "pip install attn-deploy"


def test_a_driver_too_old_for_torch_is_broken():
    gpu = GpuDescription("NVIDIA A10", "525.60", "8.6", 24000, 1700, 1700, 40)
    machine = describe_environment()
    checks = {
        "onnx": InstalledCheck("onnx", "ok"),
        "onnxruntime": InstalledCheck("onnxruntime", "missing"),
        "torch": InstalledCheck("torch", "ok", facts={"cuda": "13.0"}),
        "tensorrt_rtx": InstalledCheck("tensorrt_rtx", "missing"),
    }

    def found(served):
        return compatibility(checks, replace(machine, gpus=(gpu,), cuda=served))

    assert [(c.name, c.state) for c in found("12.4")] == [("cuda", "broken")]
    assert [(c.name, c.state) for c in found("13.1")] == [("cuda", "ok")]
    assert compatibility(checks, machine) == []


def test_a_gpu_that_a_runtime_cannot_use_is_a_warning():
    gpu = GpuDescription("NVIDIA H100", "570.86", "9.0", 81559, 1980, 1980, 31)
    machine = replace(describe_environment(), gpus=(gpu,), cuda="13.0")
    checks = {
        "onnx": InstalledCheck("onnx", "missing"),
        "onnxruntime": InstalledCheck("onnxruntime", "ok", facts={"usable": ["CPU"], "compiled_in": ["Azure", "CPU"]}),
        "torch": InstalledCheck("torch", "ok", facts={"cuda": None}),
        "tensorrt_rtx": InstalledCheck("tensorrt_rtx", "ok"),
    }
    found = {c.name: c for c in compatibility(checks, machine)}
    assert set(found) == {"rtx on gpu", "onnxruntime on gpu"}
    assert {c.state for c in found.values()} == {"warning"}
    assert "compute capability 9.0" in found["rtx on gpu"].detail
    assert "attn-deploy[gpu]" in found["onnxruntime on gpu"].remedy
    ampere = replace(machine, gpus=(replace(gpu, compute_capability="8.6"),))
    checks["onnxruntime"] = InstalledCheck("onnxruntime", "ok", facts={"usable": ["CUDA", "CPU"]})
    assert compatibility(checks, ampere) == []


def test_minimums_and_extras_are_those_of_the_project():
    tomllib = pytest.importorskip("tomllib")  # since Python 3.11
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    wanted = {
        re.split(r"[<>=;\[ ]", r)[0]: re.search(r">=([\d.]+)", r)[1]
        for r in [*project["dependencies"], *(r for e in project["optional-dependencies"].values() for r in e)]
        if ">=" in r
    }
    for entry in PACKAGES:
        extra = re.fullmatch(r"attn-deploy(?:\[(\w+)\])?", entry.install)[1]
        assert extra is None or extra in project["optional-dependencies"]
        if entry.name != "tensorrt":  # runtimes of old devices are older than what pip is asked for
            assert wanted[entry.distributions[0]] == entry.minimum, entry.name


@pytest.mark.parametrize(
    ("version", "key"), [("2.13.0+cpu", (2, 13, 0)), ("1.7.1.116", (1, 7, 1, 116)), ("10.0.0b6", (10, 0, 0)), ("?", ())]
)
def test_versions_are_compared_by_number(version, key):
    assert version_key(version) == key


def test_the_command(report, monkeypatch):
    app = typer.Typer()
    app.command()(doctor_command)
    monkeypatch.setattr(doctor, "examine_machine", lambda tell: report)
    done = CliRunner().invoke(app, ["--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["healthy"]
    sick = doctor.DoctorReport(
        report.environment, (InstalledCheck("torch", "broken", "2.0", "import fails", "pip install x"),)
    )
    monkeypatch.setattr(doctor, "examine_machine", lambda tell: sick)
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 1
    assert "Broken: torch." in done.stdout
    assert "torch: pip install x" in done.stdout


def test_every_check_is_in_the_table(report):
    console = Console(width=200)
    with console.capture() as shown:
        console.print(doctor_report(report))
    for check in report.checks:
        assert check.name in shown.get()
        assert not check.remedy or check.remedy in shown.get()
