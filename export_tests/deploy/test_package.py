"""Packages: they stand alone, their clients answer as eager mode does, and their checks can fail."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from attn_deploy import verify_package
from attn_deploy.errors import AttnDeployError
from export_tests.deploy.small_package import CLASSES, answer_of_eager, call
from export_tests.deploy.small_package import pkg as pkg
from export_tests.deploy.small_package import place as place
from export_tests.deploy.stub_triton import grpc_server, http_server
from export_tests.deploy.triton_message import parsed


def test_it_stands_alone_and_checks_itself(pkg):
    result = call(pkg / "verify.py", "--json")
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["passed"]
    assert said["remarks"][0].startswith("3 golden inputs ran in onnxruntime")
    assert verify_package(pkg).passed


def test_its_client_answers_as_eager_does(place, pkg):
    result = call(pkg / "client" / "infer.py", place / "photo.png")
    assert result.returncode == 0, result.stderr
    answer, right = json.loads(result.stdout), answer_of_eager(place)
    assert answer["class_ids"] == right.indices.tolist()
    np.testing.assert_allclose(answer["scores"], right.values.numpy(), rtol=1e-4)
    assert answer["labels"] == [CLASSES[i] for i in right.indices[0].tolist()]


def test_its_evidence_is_on_one_page(pkg):
    page = (pkg / "EVIDENCE.md").read_text()
    for words in ("PyTorch in eager mode", "largest error", "untraced shape", "imagenet", "topk", "model.onnx"):
        assert words in page
    assert "<table>" in (pkg / "EVIDENCE.html").read_text()
    assert all("Not built here" in p.read_text().splitlines()[0] for p in (pkg / "docker").iterdir())


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "name", ["model.onnx", "golden.npz", "client/infer.py", "triton/net/config.pbtxt", "EVIDENCE.md"]
)
def test_a_changed_byte_is_told(pkg, name):
    _flip(pkg / name)
    result = call(pkg / "verify.py")
    assert result.returncode == 1
    assert f"{name} was changed" in result.stdout
    assert not verify_package(pkg).passed


def test_a_missing_file_and_a_changed_manifest_are_told(pkg):
    (pkg / "labels.txt").unlink()
    assert "labels.txt is missing" in call(pkg / "verify.py").stdout
    path = pkg / "manifest.json"
    path.write_text(path.read_text().replace('"golden": 3', '"golden": 4'))
    result = call(pkg / "verify.py")
    assert (result.returncode, "was changed after the package was made" in result.stderr) == (1, True)
    with pytest.raises(AttnDeployError, match="was changed after"):
        verify_package(pkg)


def _reseal(pkg, change):
    """Change a package as somebody would who makes its hashes right again."""
    from attn_deploy.deploy.package.make import _write_manifest

    manifest = json.loads((pkg / "manifest.json").read_text())
    (pkg / "manifest.json").unlink()
    manifest.pop("seal")
    change(manifest)
    _write_manifest(pkg, manifest)


def test_another_runtime_version_is_told(pkg):
    _reseal(pkg, lambda m: m.update(runtime="onnxruntime 1.0.0"))
    result = call(pkg / "verify.py")
    assert result.returncode == 0
    assert "proven in onnxruntime 1.0.0, and this is" in result.stdout


@pytest.mark.parametrize("name", ["0/output/scores", "1/output/class_ids"])
def test_a_wrong_answer_is_told(pkg, name):
    with np.load(pkg / "golden.npz") as file:
        arrays = {k: file[k] for k in file.files}
    arrays[name] = arrays[name] + (1 if arrays[name].dtype.kind == "i" else 1e-3)
    np.savez(pkg / "golden.npz", **arrays)
    _reseal(pkg, lambda m: None)
    result = call(pkg / "verify.py")
    assert result.returncode == 1
    assert f"golden input {name[0]}: {name.split('/')[-1]}" in result.stdout


def test_the_clients_say_what_they_cannot_take(pkg, tmp_path):
    np.savez(tmp_path / "wrong.npz", other=np.zeros(3))
    result = call(pkg / "client" / "infer.py", tmp_path / "wrong.npz")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "lacks an array 'image'" in result.stderr
    result = call(pkg / "verify.py", "--engine", "none.engine")
    assert (result.returncode, "has no engine" in result.stderr) == (2, True)


# Triton


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_triton_client_gets_its_answer(place, pkg, protocol):
    pytest.importorskip("tritonclient", reason="pip install 'tritonclient[http,grpc]'")
    server = http_server if protocol == "http" else grpc_server
    with server(pkg / "triton" / "net" / "1" / "model.onnx", "net") as url:
        script = pkg / "client" / "triton_infer.py"
        result = subprocess.run(
            [sys.executable, script, place / "photo.png", "--url", url, "--protocol", protocol],
            capture_output=True,
            text=True,
        )
        other = subprocess.run(
            [sys.executable, script, place / "photo.png", "--url", url, "--protocol", protocol, "--model", "no"],
            capture_output=True,
            text=True,
        )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["class_ids"] == answer_of_eager(place).indices.tolist()
    assert (other.returncode, "does not have the model 'no' ready" in other.stderr) == (1, True)


def test_a_package_holds_a_configuration_that_triton_reads(pkg):
    config = parsed((pkg / "triton" / "net" / "config.pbtxt").read_text())
    assert (config.name, config.max_batch_size) == ("net", 16)
    assert [(i.name, list(i.dims)) for i in config.input] == [("image", [-1, -1, 3])]
    assert config.model_warmup[0].batch_size == 1
