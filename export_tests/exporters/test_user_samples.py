"""The user's own values and structures: they join the proof, and are never cast in silence."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.user_samples import parse_samples, with_samples
from export_tests.exporters.proven_exports import assert_right, copies, made
from export_tests.exporters.user_models import values


def test_values_of_the_user_join_the_proof(tmp_path):
    model = values.Resized().eval()
    inputs = ("maps:1x3x8x8", "size:2")
    artifact = made(model, tmp_path, inputs, samples=["size=20,30"])
    maps = torch.randn(2, 3, 8, 8)
    assert_right(artifact.path, copies(model), (maps, torch.tensor([20.0, 30.0])), (maps, torch.tensor([33.0, 7.0])))
    np.savez(tmp_path / "own.npz", maps=np.ones((3, 3, 8, 8), "float32"), size=np.float32([9, 11]))
    artifact = made(model, tmp_path, inputs, samples=[tmp_path / "own.npz"], dynamic=("N",))
    assert {"maps": (3, 3, 8, 8), "size": (2,)} in [
        {n: tuple(s) for n, s in case.items()} for case in artifact.record["verified_shapes"]
    ]


def test_samples_that_cannot_be_used():
    inputs = parse_inputs(["maps:1x3x8x8", "size:2:int64"])
    for text, words in {
        "size": "neither a file",
        "size=a,b": "no list of numbers",
        "gone.npz": "cannot be read",
    }.items():
        with pytest.raises(InvalidRequestError, match=words):
            parse_samples([text])
    for text, words in {
        "size=[[1,2]]": "shape",
        "other=1,2": "inputs are maps, size",
        "size=1.5,2": "not int64",
    }.items():
        with pytest.raises(InvalidRequestError, match=words):
            with_samples(inputs, parse_samples([text]), "net")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 3, 8, 8), bool), r"is bool of shape \(1, 3, 8, 8\), and the input is float32"),
        (np.full((1, 3, 8, 8), 1e300), r"not float32: 1e\+300, 1e\+300"),
        (np.zeros((1, 3, 8, 8), complex), "is complex128"),
        (np.zeros((1, 3, 8, 8), "datetime64[s]"), r"datetime64\[s\] of shape"),
        (np.full((1, 3, 8, 8), "1"), "<U1"),
    ],
)
def test_samples_are_not_cast_in_silence(array, words):
    with pytest.raises(InvalidRequestError, match=words):
        with_samples(parse_inputs(["maps:1x3x8x8"]), parse_samples([{"maps": array}]), "net")


def test_an_empty_archive_is_no_sample(tmp_path):
    np.savez(tmp_path / "own.npz")
    with pytest.raises(InvalidRequestError, match=r"own\.npz holds no arrays"):
        parse_samples([str(tmp_path / "own.npz")])


def test_dicts_lists_and_dataclasses(tmp_path):
    model = values.Structured().eval()
    texts = ("scale:1x1x1x1", "batch.maps.1:1x4x8x9", "batch.image:1x3x8x9", "batch.maps.0:1x4x8x9")
    artifact = made(model, tmp_path, texts)
    assert [o.name for o in artifact.outputs] == ["scores", "boxes"]
    assert set(artifact.dynamic_axes) == {"N", "H", "W"}
    tensors = {t.partition(":")[0]: torch.randn(2, int(t.partition(":")[2][2]), 6, 7) for t in texts[1:]}
    tensors["scale"] = torch.randn(2, 1, 1, 1)
    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    got = session.run(None, {n: t.numpy() for n, t in tensors.items()})
    maps = [tensors["batch.maps.0"], tensors["batch.maps.1"]]
    right = model({"image": tensors["batch.image"], "maps": maps}, tensors["scale"])
    np.testing.assert_allclose(got[0], right.scores.detach(), rtol=1e-4, atol=1e-5)
