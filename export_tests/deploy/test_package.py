"""Packages: they stand alone, their checks can fail, Triton's own message reads their configuration."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attn_deploy import PackageRequest, export, package, verify_package
from attn_deploy.deploy.package.triton import (
    TENSORRT_OF,
    ServedTensor,
    TritonModel,
    check_engine,
    config_text,
    triton_tensorrt,
)
from attn_deploy.errors import (
    AttnDeployError,
    EngineMismatchError,
    EvidenceError,
    FileWarning,
    InvalidRequestError,
    ParityError,
)
from attn_deploy.graph.evidence import read_evidence, write_evidence
from attn_deploy.inputs.grammar import parse_inputs
from export_tests.deploy.stub_triton import grpc_server, http_server

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.mix = torch.nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, image):
        return self.mix(image).mean((2, 3))
"""
PARTS = ("triton", "python", "docker")
CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A package of a small classifier of photographs."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "net.py").write_text(NET)
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (31, 23, 3), np.uint8)).save(folder / "photo.png")
    request = PackageRequest(parts=PARTS, name="net", labels=folder / "classes.txt")
    package(
        f"{folder}/net.py:Net", folder / "pkg", request=request, inputs=parse_inputs(["1x3x24x20"]),
        preprocess="imagenet,uint8,nhwc", postprocess="softmax,topk=2", exporter="torchscript",
    )  # fmt: skip
    return folder


@pytest.fixture
def pkg(place, tmp_path):
    """A copy of the package somewhere else."""
    return Path(shutil.copytree(place / "pkg", tmp_path / "elsewhere"))


def call(*words, cwd=None):
    """A script of the package without attn-deploy and torch: those imports fail."""
    block = "import sys; sys.modules.update(dict.fromkeys(['torch', 'attn_deploy', 'onnx']))\n"
    script = "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", block + script, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
    )


def answer_of_eager(place):
    spec = importlib.util.spec_from_file_location("net_of_package", place / "net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with Image.open(place / "photo.png") as image:
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    odds = module.Net()((pixels - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)).softmax(1)
    return odds.detach().topk(2)


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


IMAGE, MASK = ServedTensor("image", "uint8", ("N", "H", "W", 3)), ServedTensor("mask", "bool", ("N", "H", "W"))
SCORES, COUNT = ServedTensor("scores", "float32", ("N", 6)), ServedTensor("count", "int64", ("N",))
CONFIGS = {
    "batched": TritonModel(name="a", backend="onnxruntime", inputs=(IMAGE,), outputs=(SCORES,), labels=6, preferred=(4, 8)),
    "several": TritonModel(name="b", backend="onnxruntime", inputs=(IMAGE, MASK), outputs=(SCORES, COUNT), batch=4),
    "no batch": TritonModel(
        name="c", backend="onnxruntime", inputs=(ServedTensor("image", "float32", (1, 3, 8, 8)),), outputs=(SCORES,),
        warmup={"image": (1, 3, 8, 8)},
    ),
    "plan": TritonModel(name="d", backend="tensorrt", inputs=(IMAGE,), outputs=(SCORES,), engine_batch=8),
}  # fmt: skip


def parsed(text):
    """The text as Triton's own message, or, where tritonclient is not installed, as one of the fields that are written."""
    from google.protobuf import text_format

    try:
        from tritonclient.grpc.model_config_pb2 import ModelConfig as Config
    except ModuleNotFoundError:
        Config = restated_message()
    return text_format.Parse(text, Config())


def restated_message():
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="restated.proto", package="restated", syntax="proto3")
    types = {"string": 9, "int32": 5, "int64": 3, "uint64": 4, "bool": 8}
    for name, values in {
        "DataType": "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16",
        "Kind": "AUTO GPU CPU MODEL",
    }.items():
        prefix = "TYPE_" if name == "DataType" else "KIND_"
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values.split()):
            enum.value.add(name=prefix + value, number=number)
    fields = {
        "Reshape": "shape:int64*",
        "Tensor": "name:string data_type:DataType dims:int64* reshape:Reshape label_filename:string",
        "Batching": "preferred_batch_size:int32* max_queue_delay_microseconds:uint64",
        "Group": "count:int32 kind:Kind",
        "WarmupInput": "data_type:DataType dims:int64* random_data:bool",
        "Entry": "key:string value:WarmupInput",
        "Warmup": "name:string batch_size:int32 inputs:Entry*",
        "Config": "name:string backend:string default_model_filename:string max_batch_size:int32 input:Tensor* "
        "output:Tensor* dynamic_batching:Batching instance_group:Group* model_warmup:Warmup*",
    }
    for message, words in fields.items():
        described = file.message_type.add(name=message)
        for number, word in enumerate(words.split(), 1):
            name, kind = word.rstrip("*").split(":")
            label = 3 if word.endswith("*") else 1
            if kind in types:
                described.field.add(name=name, number=number, label=label, type=types[kind])
            else:
                number_of = 14 if kind in ("DataType", "Kind") else 11
                described.field.add(
                    name=name, number=number, label=label, type=number_of, type_name=f".restated.{kind}"
                )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("restated.Config"))


def test_the_message_refuses_what_is_no_field():
    from google.protobuf import text_format

    with pytest.raises(text_format.ParseError):
        parsed("max_batch: 4")


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_tritons_own_message_reads_the_configuration(kind):
    model = CONFIGS[kind]
    config = parsed(config_text(model))
    assert (config.name, config.backend) == (model.name, model.backend)
    batched = kind != "no batch"
    assert config.max_batch_size == {"batched": 16, "several": 4, "no batch": 0, "plan": 8}[kind]
    assert [i.name for i in config.input] == [i.name for i in model.inputs]
    for tensor, message in zip(model.inputs, config.input, strict=True):
        dims = [d if isinstance(d, int) else -1 for d in tensor.shape]
        assert list(message.dims) == (dims[1:] if batched else dims)
    assert bool(config.dynamic_batching.max_queue_delay_microseconds) == batched
    if kind == "batched":
        assert config.output[0].label_filename == "labels.txt"
        assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    if kind == "several":
        assert list(config.output[1].dims) == [1], "a server wants a dimension beside the batch"
        assert config.output[1].HasField("reshape")
    if kind == "plan":
        assert config.default_model_filename == "model.plan"


def test_a_package_holds_a_configuration_that_triton_reads(pkg):
    config = parsed((pkg / "triton" / "net" / "config.pbtxt").read_text())
    assert (config.name, config.max_batch_size) == ("net", 16)
    assert [(i.name, list(i.dims)) for i in config.input] == [("image", [-1, -1, 3])]
    assert config.model_warmup[0].batch_size == 1


def test_what_triton_would_refuse_is_refused():
    with pytest.raises(InvalidRequestError, match="first axes move together"):
        config_text(
            TritonModel(
                name="a",
                backend="onnxruntime",
                inputs=(ServedTensor("x", "float32", (1, 3)),),
                outputs=(SCORES,),
                batch=4,
            )
        )
    with pytest.raises(InvalidRequestError, match="profiles end at 8"):
        config_text(
            TritonModel(name="a", backend="tensorrt", inputs=(IMAGE,), outputs=(SCORES,), engine_batch=8, batch=9)
        )
    with pytest.raises(InvalidRequestError, match="cannot be a folder"):
        config_text(TritonModel(name="a/b", backend="onnxruntime", inputs=(IMAGE,), outputs=(SCORES,)))
    release, version = next(reversed(TENSORRT_OF.items()))
    check_engine("tensorrt", f"{version}.7", release)
    with pytest.raises(EngineMismatchError, match=f"Triton {release} ships"):
        check_engine("tensorrt", "8.6.1", release)
    with pytest.raises(EngineMismatchError, match="loads those of TensorRT"):
        check_engine("tensorrt-rtx", "1.4.0", release)
    with pytest.raises(InvalidRequestError, match="name the server's release"):
        check_engine("tensorrt", version, None)


# Requests


def exported(folder, **options):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv2d(3, 6, 3, padding=1)

        def forward(self, image):
            return self.mix(image).mean((2, 3))

    torch.manual_seed(3)
    return export(
        Net().eval(), folder / "net.onnx", inputs=parse_inputs(["1x3x24x20"]), exporter="torchscript", **options
    )


def test_a_file_is_its_own_reference_or_another_is(tmp_path):
    source = exported(tmp_path).path
    own = package(source, tmp_path / "own")
    assert "the file itself" in own.manifest["reference"]
    other = package(source, tmp_path / "other", request=PackageRequest(reference=source))
    assert other.manifest["reference"] == "net.onnx in ONNX Runtime"
    assert verify_package(other.path).passed
    (tmp_path / "b").mkdir()
    with torch.random.fork_rng():
        changed = exported(tmp_path / "b")
    import onnx

    model = onnx.load(changed.path)
    weight = next(i for i in model.graph.initializer if i.dims[:] == [6, 3, 3, 3])
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * 1.01).astype(np.float32).tobytes()
    onnx.save(model, changed.path)
    with pytest.raises(EvidenceError, match="changed after it was proven"):
        package(changed.path, tmp_path / "no")
    with (
        pytest.warns(FileWarning, match="changed after it was proven"),
        pytest.raises(ParityError, match="disagree on golden inputs"),
    ):
        package(source, tmp_path / "no", request=PackageRequest(reference=changed.path))
    del model.metadata_props[:]
    onnx.save(model, changed.path)
    with pytest.raises(ParityError, match="disagree on golden inputs"):
        package(changed.path, tmp_path / "no", request=PackageRequest(reference=source))
    assert not (tmp_path / "no").exists()


def test_evidence_that_cannot_be_encoded_is_shown(tmp_path):
    """JSON may write half a character, and nobody can write it down."""
    import onnx

    path = exported(tmp_path).path
    model = onnx.load(path)
    evidence = read_evidence(model)
    write_evidence(model, replace(evidence, record={**evidence.record, "model": "\ud800net"}))
    onnx.save(model, path)
    made = package(path, tmp_path / "made")
    assert verify_package(made.path).passed
    assert "\\ud800net" in (made.path / "EVIDENCE.md").read_text(encoding="utf-8")


def test_eight_bits_are_packaged_with_their_own_proof(tmp_path):
    from attn_deploy import quantize

    source = exported(tmp_path, preprocess="0..1,uint8").path
    small = quantize(source, tmp_path / "small.onnx")
    made = package(small.path, tmp_path / "pkg", request=PackageRequest(parts=("triton",), reference=source))
    assert made.manifest["precision"] == "int8"
    assert "the file itself" in made.manifest["reference"]
    assert made.manifest["preprocess"]["dtype"] == "uint8"
    assert "quantize" in (made.path / "EVIDENCE.md").read_text()
    assert verify_package(made.path).passed


def test_a_profile_gives_latencies_and_batches(tmp_path):
    source = exported(tmp_path).path
    rows = [
        {"runtime": "ort-cpu", "precision": "fp32", "batch": b, "size": [24, 20], "status": "ok",
         "summary": {"p50_ms": 1.0 * b, "items_per_second": r, "median_interval_ms": {"low": 0.9, "high": 1.1}}}
        for b, r in ((1, 100.0), (2, 150.0), (4, 300.0), (8, 400.0))
    ]  # fmt: skip
    (tmp_path / "record.json").write_text(json.dumps({"rows": rows}))
    made = package(
        source, tmp_path / "pkg", request=PackageRequest(parts=("triton",), profile=tmp_path / "record.json")
    )
    assert "preferred_batch_size: [ 4, 8 ]" in (made.path / "triton" / "net" / "config.pbtxt").read_text()
    assert "ort-cpu fp32 b8 24x20" in (made.path / "EVIDENCE.md").read_text()


def test_bad_requests_leave_nothing(tmp_path):
    source = exported(tmp_path).path
    full = tmp_path / "full"
    full.mkdir()
    (full / "note.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidRequestError, match="is not empty"):
        package(source, full)
    with pytest.raises(InvalidRequestError, match="did you mean 'triton'"):
        PackageRequest(parts=("tritn",))
    with pytest.raises(InvalidRequestError, match="those known are"):
        PackageRequest(triton="19.01")
    with pytest.raises(InvalidRequestError, match=r"--labels .* not found"):
        PackageRequest(labels=tmp_path / "no.txt")
    with pytest.raises(InvalidRequestError, match="is for models by name"):
        package(source, tmp_path / "pkg", preprocess="imagenet")
    fixed = exported(tmp_path / "full", dynamic=()).path
    with pytest.raises(InvalidRequestError, match="first axes move together"):
        package(fixed, tmp_path / "pkg", request=PackageRequest(parts=("triton",), max_batch=4))
    (full / "net.onnx").unlink()
    with pytest.raises(AttnDeployError, match="is no package"):
        verify_package(full)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_an_engine_travels_with_its_sidecar(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    source = exported(tmp_path).path
    made = package(source, tmp_path / "pkg", request=PackageRequest(target="sm86"))
    (engine,) = made.manifest["engines"]
    assert engine["flavor"] == "tensorrt-rtx"
    assert {"engines/target.engine", "engines/target.engine.json"} <= set(made.manifest["files"])
    with pytest.raises(EngineMismatchError, match="loads those of TensorRT"):
        package(source, tmp_path / "no", request=PackageRequest(target="sm86", parts=("triton",)))
    assert not (tmp_path / "no").exists()


def test_a_release_of_the_server_may_say_its_own_tensorrt():
    assert triton_tensorrt("25.06") == "10.11.0"
    assert triton_tensorrt("26.01=10.14.1") == "10.14.1"
    check_engine("tensorrt", "10.14.1.48", "26.01=10.14.1")
    with pytest.raises(EngineMismatchError, match=r"ships 10\.14\.1"):
        check_engine("tensorrt", "10.13.3.9", "26.01=10.14.1")
    for release, words in (
        ("26.01", "--triton 26.01=10.14.1"),
        ("25.06=10.3.0", "ships TensorRT 10.11.0"),
        ("x=y", "not known"),
    ):
        with pytest.raises(InvalidRequestError, match=re.escape(words)):
            triton_tensorrt(release)
