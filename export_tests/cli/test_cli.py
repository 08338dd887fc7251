"""The command line as a user meets it: output, exit codes, and nothing left behind after an error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from attn_deploy import registry
from attn_deploy.cli import app

MODELS = """
import torch
from torch import nn


class MyBlock(nn.Module):
    def __init__(self, channels=32):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        y = self.body(x)
        return y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))


class FailsInForward(nn.Module):
    def forward(self, x):
        return x @ torch.zeros(3, 3)


class DependsOnValues(nn.Module):
    def forward(self, x):
        if x.mean() > 0:
            return x + 1
        return x - 1


class BoundToItsSize(nn.Module):
    def forward(self, x):
        return x.reshape(-1, 32 * 40 * 24)


class LoopsOverTheBatch(nn.Module):
    def forward(self, x):
        return torch.stack([sample * 2 for sample in x])


class AdaptivePool(nn.Module):
    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, 4)


class TwoInputs(nn.Module):
    def forward(self, image, mask):
        return {"kept": image * mask.unsqueeze(1), "share": mask.float().mean((1, 2))}


class Talks(nn.Module):
    def __init__(self):
        super().__init__()
        print("making a model")

    def forward(self, x):
        print("running at", tuple(x.shape))
        return x * 2


class FailsInInit(nn.Module):
    def __init__(self):
        super().__init__()
        self.width = 64 // 0


not_a_model = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def left_behind(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"models.py", "broken.py", "__pycache__"}


def test_export_prints_the_evidence(folder):
    done = run("export", "ghostmodule", "--opset", "17")
    assert done.exit_code == 0, done.output
    rows = dict(re.findall(r"^(\S[\w ]*?) {2,}(\S.*)$", done.stdout, re.MULTILINE))
    model = onnx.load("ghostmodule.onnx")
    assert {o.domain: o.version for o in model.opset_import} == {"": 17}
    assert rows["opset"].startswith("17, read back")
    assert rows["exporter"].startswith("torchscript")
    assert rows["dynamic axes"] == "N, H, W"
    assert len(rows["proven at"].split(", ")) >= 3
    assert float(rows["max error"].split()[0]) < 1e-4
    assert re.match(r"\d+ -> \d+ ", rows["nodes"])
    assert re.fullmatch(r"[0-9a-f]{64}", rows["sha256"])
    assert left_behind(folder) == {"ghostmodule.onnx"}


def test_the_same_request_makes_the_same_bytes(folder):
    first = json.loads(run("export", "eca", "--opset", "17", "-o", "a.onnx", "--json").stdout)
    second = json.loads(run("export", "eca", "--opset", "17", "-o", "b.onnx", "--json").stdout)
    assert first["sha256"] == second["sha256"]


def test_json_is_the_record_and_nothing_else(folder):
    record = json.loads(run("export", "se", "--opset", "18", "--exporter", "dynamo", "--json").stdout)
    assert record["opset"] == record["record"]["opset"] == 18
    assert record["metadata"]["model"] == "se"
    assert record["record"]["verified_shapes"][0]["x"][0] == 1


def test_metadata_is_in_the_file_and_names_no_machine(folder):
    run("export", "models.py:MyBlock", "--input", "1x32x40x24", "-o", "m.onnx")
    found = {p.key: p.value for p in onnx.load("m.onnx").metadata_props}
    for key in ("version", "model", "arguments", "exporter", "opset", "dynamic_axes", "parity", "torch", "record"):
        assert f"attn_deploy.{key}" in found
    assert str(folder) not in Path("m.onnx").read_bytes().decode("latin-1")


@pytest.mark.parametrize(
    ("arguments", "outputs"),
    [
        (["resnet18+cbam@layer3", "--opset", "17", "-o", "m.onnx"], ["logits"]),
        pytest.param(
            ["resnet18:stem=imagenet,num_classes=1000", "--opset", "18", "-o", "m.onnx"],
            ["logits"],
            marks=pytest.mark.slow,
        ),
        (["models.py:MyBlock", "--input", "1x32x40x24", "-o", "m.onnx"], ["y"]),
        (["models.py:MyBlock:channels=8", "--input", "1x8x40x24", "-o", "m.onnx", "--no-simplify", "--no-fuse"], ["y"]),
        (["models.py:BoundToItsSize", "--input", "1x32x40x24", "--dynamic", "N", "-o", "m.onnx"], ["y"]),
        (
            [
                "models.py:TwoInputs",
                "--input",
                "image:1x3x20x16",
                "--input",
                "mask:1x20x16:bool",
                "--dynamic",
                "N",
                "-o",
                "m.onnx",
            ],
            ["kept", "share"],
        ),
    ],
    ids=["backbone", "imagenet", "own", "own-arguments", "own-size-bound", "own-two-inputs"],
)
def test_every_kind_of_model_exports_the_same_way(folder, arguments, outputs):
    done = run("export", *arguments, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert [o["name"] for o in record["outputs"]] == outputs
    assert len(record["record"]["verified_shapes"]) >= 3
    assert left_behind(folder) == {"m.onnx"}


OWN = ["--input", "1x32x40x24", "-o", "m.onnx"]
BAD = {
    "unknown module": (["export", "ghostmodul"], 2, r"no model is called 'ghostmodul'; did you mean 'ghostmodule'"),
    "bad argument value": (["export", "se:reduction=900"], 2, "channels // reduction must be at least 1"),
    "unknown argument": (["export", "se:ratio=2"], 2, "no argument 'ratio'; it takes channels, reduction, bias"),
    "opset 12": (["export", "se", "--opset", "12"], 2, "opset 12 is not supported: choose 13 to 25"),
    "opset 99": (["export", "se", "--opset", "99"], 2, "opset 99 is not supported: choose 13 to 25"),
    "unknown exporter": (["export", "se", "--exporter", "fx"], 2, "exporter 'fx' is unknown"),
    "unknown axis": (["export", "se", "--dynamic", "Q"], 2, "axis 'Q' cannot be dynamic; those that can are N, H, W"),
    "missing folder": (["export", "se", "-o", "no/such/m.onnx"], 2, "folder 'no/such' does not exist"),
    "output of another kind": (["export", "se", "-o", "m.txt"], 2, "ends in '.txt'"),
    "missing file": (["export", "nothing.py:Net"], 2, "there is no file 'nothing.py'"),
    "missing class": (["export", "models.py:Net"], 2, "defines no 'Net'; its model classes are MyBlock"),
    "no class": (["export", "models.py"], 2, "names a file but no class"),
    "not a model": (["export", "models.py:not_a_model"], 2, "expected a torch.nn.Module, got int"),
    "broken file": (["export", "broken.py:Net"], 2, r"No module named 'no_such_package' \(broken.py, line 1\)"),
    "fails in init": (["export", "models.py:FailsInInit"], 2, r"ZeroDivisionError: .* \(models.py, line \d+\)"),
    "no input shape": (["export", "models.py:MyBlock"], 2, "shape of its input is not known"),
    "bad input shape": (["export", "models.py:MyBlock", "--input", "1x32xx4"], 2, "cannot be read"),
    "wrong channels": (["export", "se", "--input", "1x3x8x8"], 2, r"must be \(N, 64, H, W\), got \(1, 3, 8, 8\)"),
    "fails in forward": (["export", "models.py:FailsInForward", *OWN], 1, r"mat1 and mat2 .* \(models.py, line \d+\)"),
    "depends on values": (
        ["export", "models.py:DependsOnValues", *OWN],
        1,
        "Python decision on the values of a tensor",
    ),
    "bound to its size": (["export", "models.py:BoundToItsSize", *OWN, "--dynamic", "N,H,W"], 1, "--dynamic N"),
    "loops over the batch": (
        ["export", "models.py:LoopsOverTheBatch", *OWN, "--dynamic", "N,H,W"],
        1,
        "axis N cannot be dynamic",
    ),
    "adaptive pooling": (
        ["export", "models.py:AdaptivePool", *OWN, "--no-rewrite", "--dynamic", "N,H,W"],
        1,
        "with the window of the traced",
    ),
    "native attention": (["export", "se", "--native-attention"], 2, "--native-attention needs opset 23 or above"),
    "torchscript at 23": (["export", "se", "--opset", "23", "--exporter", "torchscript"], 2, "which ends at 22"),
    "no checkpoint": (["export", "se", "--weights", "no.pth"], 2, "there is no checkpoint 'no.pth'"),
    "not ONNX": (["build", "models.onnx"], 2, "models.onnx"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_end_with_one_line_and_leave_nothing(folder, case):
    arguments, code, message = BAD[case]
    if "models.onnx" in arguments:
        (folder / "models.onnx").write_text(MODELS)
    before = left_behind(folder)
    done = run(*arguments)
    assert done.exit_code == code, done.output
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.output
    assert left_behind(folder) == before


def test_an_axis_that_the_module_cannot_move(folder):
    """A kernel of the size of the map: height and width are part of the model."""
    done = run("export", "ge_theta", "--dynamic", "N,H", "-o", "m.onnx")
    assert done.exit_code == 2
    assert "axis 'H' cannot be dynamic; those that can are N" in done.stderr
    assert left_behind(folder) == set()


@pytest.mark.skipif(os.name == "nt", reason="permission bits do not stop a write there")
def test_a_read_only_folder(folder):
    locked = folder / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    try:
        if os.access(locked, os.W_OK):
            pytest.skip("this user may write where the permission bits say no")
        done = run("export", "se", "-o", "locked/m.onnx")
        assert done.exit_code == 2
        assert "cannot be written" in done.stderr
    finally:
        locked.chmod(0o755)


def in_child(code: str, folder: Path, **environment: str):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("blocked", "command", "extra"),
    [
        (["onnxruntime"], ["export", "se"], "attn-deploy[cpu]"),
        (
            ["tensorrt_rtx", "tensorrt_rtx_bindings"],
            ["build", "m.onnx", "--flavor", "tensorrt-rtx"],
            "attn-deploy[rtx]",
        ),
    ],
)
def test_a_missing_package_is_told_with_the_extra_that_brings_it(folder, blocked, command, extra):
    if command[0] == "build":
        assert run("export", "se", "--opset", "17", "-o", "m.onnx").exit_code == 0
    before = left_behind(folder)
    stubs = folder.parent / "stubs"  # found before the real packages, here and in every child process
    stubs.mkdir(exist_ok=True)
    for package in blocked:
        text = f"raise ModuleNotFoundError('No module named {package}', name='{package}')"
        (stubs / f"{package}.py").write_text(text)
    code = f"import sys; sys.argv = ['attn-deploy', *{command!r}]; from attn_deploy.cli import main; main()"
    path = os.pathsep.join([str(stubs), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = in_child(code, folder, PYTHONPATH=path)
    assert done.returncode == 3, done.stderr
    assert extra in done.stderr
    assert "Traceback" not in done.stderr
    assert left_behind(folder) == before


def test_debug_shows_the_traceback(folder):
    code = "import sys; sys.argv = ['attn-deploy', 'export', 'nothing', '--debug']; from attn_deploy.cli import main; main()"
    done = in_child(code, folder)
    assert done.returncode == 2, "the code is the same with and without --debug"
    assert "Traceback" in done.stderr
    assert "UnknownModelError" in done.stderr


def test_help_and_list_import_no_torch(folder):
    for arguments in (["--help"], ["list"], ["info", "se"], ["export", "--help"]):
        code = f"import sys; sys.modules['torch'] = None; sys.argv = ['a', *{arguments!r}]\n"
        code += "from attn_deploy.cli import main; main()"
        done = in_child(code, folder)
        assert done.returncode == 0, done.stderr


def test_help_has_examples():
    for name in ("export", "build", "list", "info", "profile", "doctor"):
        done = run(name, "--help")
        assert done.exit_code == 0
        assert f"attn-deploy {name}" in done.stdout.split("Examples:")[1]


def test_list_shows_every_model_under_its_family():
    text = run("list").stdout
    for spec in registry.list_models():
        assert re.search(rf"^  {spec.name} ", text, re.MULTILINE)
        assert re.search(rf"^{spec.family} \(", text, re.MULTILINE)
    only = run("list", "backbone").stdout
    assert "resnet18" in only
    assert "ghostmodule" not in only
    assert run("list", "nothing").exit_code == 2
    assert len(json.loads(run("list", "--json").stdout)) == len(registry.list_models())


def test_info_shows_what_the_registry_knows():
    text = run("info", "non-local").stdout
    for words in ("non_local_embedded_gaussian", "arXiv:1711.07971", "2018", "inter_channels", "8,480", "N, H, W"):
        assert words in text
    assert json.loads(run("info", "nl", "--json").stdout)["name"] == "non_local_embedded_gaussian"


@pytest.mark.parametrize(
    "command",
    [
        ("export",),
        ("lint",),
        ("diagnose", "--no-build"),
        ("profile", "--runtimes", "eager", "--seconds", "0.01", "--executor", "inline"),
    ],
    ids=lambda c: c[0],
)
def test_what_a_model_prints_is_not_in_the_record(folder, command):
    done = run(command[0], "models.py:Talks", "--input", "1x3x8x8", *command[1:], "--json")
    assert isinstance(json.loads(done.stdout), dict), done.output
    assert "running at" in done.stderr
    assert "making a model" in done.stderr


def test_an_unknown_package_is_told_from_a_malformed_argument(folder):
    done = run("export", "hugging:resnet18")
    assert done.exit_code == 2
    known = "those of timm, torchvision, transformers, smp and ultralytics are"
    assert f"'hugging' is a package, its models are not known, {known}" in done.stderr


def test_a_damaged_checkpoint_is_told_in_words(folder):
    (folder / "garb.pth").write_bytes(b"e not a pickle at all")
    done = run("export", "models.py:Talks", "--input", "1x3x8x8", "--weights", "garb.pth")
    assert done.exit_code == 2
    assert "no file that torch.save wrote, or was cut short" in done.stderr
    assert "**" not in done.stderr


def test_lint_tells_a_remedy_once(folder):
    done = run("lint", "models.py:FailsInForward", "--input", "1x3x8x8")
    assert " ".join(done.stdout.split()).count("Check the shapes and element types") == 1


def test_completion_knows_the_registry():
    from attn_deploy.cli.completion import complete_family, complete_model

    assert "ghostmodule" in [name for name, _ in complete_model("gho")]
    assert "resnet18+cbam" in [name for name, _ in complete_model("resnet18+cb")]
    assert "resnet18+resnet50" not in [name for name, _ in complete_model("resnet18+res")]
    assert complete_family("att") == ["attention"]
