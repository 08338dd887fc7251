"""What a package is made of: files, references, profiles, engines, and the requests that are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from attn_deploy import PackageRequest, export, package, verify_package
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
