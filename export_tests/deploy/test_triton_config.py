"""Triton's configuration: its own message reads it, and what the server would refuse is refused."""

from __future__ import annotations

import re

import pytest

from attn_deploy.deploy.package.triton import (
    TENSORRT_OF,
    ServedTensor,
    TritonModel,
    check_engine,
    config_text,
    triton_tensorrt,
)
from attn_deploy.errors import EngineMismatchError, InvalidRequestError
from export_tests.deploy.triton_message import parsed

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
