"""Pre- and post-processing in the graph: exact against numpy and Pillow, proven at untraced sizes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from attn_deploy import export
from attn_deploy.accuracy.served import served_by
from attn_deploy.conversion.preprocess import PRESETS
from attn_deploy.data import load_dataset
from attn_deploy.errors import ExportError, InvalidRequestError, ParityError
from attn_deploy.exporters.answer_forms import box_answers
from attn_deploy.exporters.answers import Answers, parse_postprocess
from attn_deploy.exporters.pixel_forms import from_pixels, letterbox, stretch
from attn_deploy.exporters.pixels import Pixels, parse_preprocess
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.heads import scores_graph
from attn_deploy.inputs.grammar import parse_inputs


class Net(nn.Module):
    """Takes what preprocessing gives to its output, one number a channel and place."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 7, 3, padding=1)

    def forward(self, image):
        return self.mix(image).mean((2, 3))


class Boxes(nn.Module):
    """A detector of three classes on cells of four pixels, its output as the YOLOs give it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 7, 3, stride=4)

    def forward(self, image):
        y = self.head(image)
        size = y[:, :4].sigmoid() * 24
        columns = torch.arange(y.shape[3]).to(y.dtype) * 4
        rows = (torch.arange(y.shape[2]).to(y.dtype) * 4).unsqueeze(1)
        places = torch.cat((columns + size[:, :1], rows + size[:, 1:2], size[:, 2:]), 1)
        return torch.cat((places, y[:, 4:].sigmoid()), 1).flatten(2)


INPUT = parse_inputs(["2x3x40x32"])


def photo(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def run(path, array):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(
        zip(
            [o.name for o in session.get_outputs()],
            session.run(None, {session.get_inputs()[0].name: array}),
            strict=True,
        )
    )


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("preset", ["imagenet", "cifar10", "0..1", "-1..1", "0..255"])
def test_a_preset_is_bit_for_bit_what_numpy_computes(preset, color):
    pixels = parse_preprocess(f"{preset},uint8,nhwc,{color}")
    image = photo(9, 13)[None]
    values = from_pixels(torch.from_numpy(image), pixels, torch.float32).numpy()
    model_colours = image[..., ::-1] if color == "bgr" else image
    expected = PRESETS[preset].apply(
        np.ascontiguousarray(model_colours.transpose(0, 3, 1, 2)), nhwc=False, dtype="float32"
    )
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize(("height", "width"), [(30, 50), (50, 30), (7, 90), (64, 48), (1, 5)])
def test_letterbox_is_what_pillow_makes_when_it_enlarges(height, width):
    image = photo(height, width)
    size = (96, 100)  # of no image: Pillow smooths when it shrinks
    scale = min(size[0] / height, size[1] / width)
    high, wide = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    channels = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    inner = np.stack([np.asarray(c.resize((wide, high), Image.Resampling.BILINEAR)) for c in channels])
    expected = np.full((3, *size), 114, np.float32)
    top, left = (size[0] - high) // 2, (size[1] - wide) // 2
    expected[:, top : top + high, left : left + wide] = inner
    values = letterbox(torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)), size)[0].numpy()
    np.testing.assert_allclose(values, expected, atol=2e-3)


def test_resize_is_what_pillow_makes_when_it_enlarges():
    image = photo(20, 17)
    channels = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    expected = np.stack([np.asarray(c.resize((40, 64), Image.Resampling.BILINEAR)) for c in channels])
    values = stretch(torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)), (64, 40))[0].numpy()
    np.testing.assert_allclose(values, expected, atol=2e-3)


@pytest.mark.parametrize(("exporter", "opset"), [("dynamo", 20), ("torchscript", 13)])
def test_the_file_takes_bytes_and_answers_as_numpy_does(tmp_path, exporter, opset):
    net = Net().eval()
    artifact = export(
        net,
        tmp_path / "net.onnx",
        inputs=INPUT,
        exporter=exporter,
        opset=opset,
        preprocess="imagenet,uint8,nhwc,bgr",
        postprocess="softmax,topk=3",
    )
    (image,) = artifact.inputs
    assert (image.name, image.dtype, image.shape) == ("image", "uint8", ("N", "H", "W", 3))
    assert [o.name for o in artifact.outputs] == ["scores", "class_ids"]
    array = np.stack([photo(33, 21), photo(33, 21)[::-1]])
    answers = run(artifact.path, array)
    rgb = array[..., ::-1].astype(np.float64).transpose(0, 3, 1, 2) / 255
    values = (rgb - np.array(PRESETS["imagenet"].mean).reshape(3, 1, 1)) / np.array(PRESETS["imagenet"].std).reshape(
        3, 1, 1
    )
    logits = net.double()(torch.from_numpy(values)).detach().numpy()
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    order = np.argsort(-odds, 1)[:, :3]
    np.testing.assert_array_equal(answers["class_ids"], order)
    np.testing.assert_allclose(answers["scores"], np.take_along_axis(odds, order, 1), rtol=1e-4)
    record = artifact.record
    assert Pixels.from_record(record["preprocess"]) == parse_preprocess("imagenet,uint8,nhwc,bgr")
    assert Answers.from_record(record["postprocess"]) == parse_postprocess("softmax,topk=3")
    assert record["parity"]["cases"] >= 10, "the scores behind the choice were not compared"


@pytest.mark.parametrize("size", [(40, 32), (90, 70), (17, 80)])
def test_any_size_goes_in_where_the_graph_resizes(tmp_path, size):
    net = Net().eval()
    path = tmp_path / "net.onnx"
    artifact = export(net, path, inputs=INPUT, dynamic=["N", "H", "W"], preprocess="0..1,uint8,nhwc,letterbox=40x32")
    array = photo(*size)[None]
    pixels = letterbox(torch.from_numpy(array.transpose(0, 3, 1, 2).astype(np.float32)), (40, 32)) / 255
    np.testing.assert_allclose(next(iter(run(artifact.path, array).values())), net(pixels).detach().numpy(), atol=1e-4)


def greedy(boxes, scores, iou, least, most):
    """Suppression as a textbook loop; boxes (B, 4) by corners, scores (B, C)."""
    best, kinds = scores.max(1), scores.argmax(1)
    kept = []
    for i in np.argsort(-best, kind="stable")[:most]:
        if best[i] <= least:
            continue
        x, y = np.maximum(boxes[i, :2], boxes[kept][:, :2]), np.minimum(boxes[i, 2:], boxes[kept][:, 2:])
        shared = np.clip(y - x, 0, None).prod(1)
        areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)
        overlap = shared / (areas[i] + areas[kept] - shared)
        if not (overlap[kinds[kept] == kinds[i]] > iou).any():
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(6))
def test_suppression_is_that_of_the_textbook(seed):
    rng = np.random.default_rng(seed)
    low = rng.random((80, 2)) * 30
    boxes = np.concatenate([low, low + 4 + rng.random((80, 2)) * 25], 1).astype(np.float32)
    scores = rng.random((80, 3)).astype(np.float32)
    answers = parse_postprocess("nms:iou=0.4,score=0.3,max=60")
    outputs = [torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None]]
    found, values, kinds, count = (t[0].numpy() for t in box_answers(outputs, answers))
    kept = greedy(boxes, scores, 0.4, 0.3, 60)
    assert count == len(kept) < 60
    np.testing.assert_array_equal(found[: len(kept)], boxes[kept])
    np.testing.assert_array_equal(values[: len(kept)], scores.max(1)[kept])
    np.testing.assert_array_equal(kinds[: len(kept)], scores.argmax(1)[kept])
    assert (kinds[len(kept) :] == -1).all()
    assert not found[len(kept) :].any()


def test_a_detector_gives_boxes_in_plain_operators(tmp_path):
    net = Boxes().eval()
    artifact = export(
        net,
        tmp_path / "net.onnx",
        inputs=parse_inputs(["1x3x64x64"]),
        exporter="torchscript",
        opset=17,
        preprocess="0..1,uint8",
        postprocess="nms:iou=0.3,score=0.5,max=20",
    )
    assert [(o.name, o.shape) for o in artifact.outputs] == [
        ("boxes", ("N", 20, 4)), ("scores", ("N", 20)), ("class_ids", ("N", 20)), ("count", ("N",)),
    ]  # fmt: skip
    assert not {"NonMaxSuppression", "Loop", "If", "NonZero"} & set(artifact.operators)
    image = photo(80, 56)
    answers = run(artifact.path, image.transpose(2, 0, 1)[None])
    rows = net(torch.from_numpy(image.transpose(2, 0, 1)[None]) / 255)[0].detach().numpy().T
    corners = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)
    kept = greedy(corners, rows[:, 4:], 0.3, 0.5, 20)
    assert answers["count"] == len(kept) > 1
    np.testing.assert_allclose(answers["boxes"][0, : len(kept)], corners[kept], atol=1e-3)


def test_names_come_from_forward_or_from_the_user(tmp_path):
    plain = export(Net().eval(), tmp_path / "a.onnx", inputs=INPUT)
    assert [i.name for i in plain.inputs] == ["image"]
    named = export(Net().eval(), tmp_path / "b.onnx", inputs=INPUT, input_names=["frame"], output_names=["logits"])
    assert ([i.name for i in named.inputs], [o.name for o in named.outputs]) == (["frame"], ["logits"])


def test_a_choice_is_not_believed_without_its_scores(tmp_path, monkeypatch):
    """A graph that is wrong and mostly chooses the same is refused: the scores behind the choice differ."""
    from attn_deploy.exporters import pipeline

    translate = pipeline.translate

    def spoilt(*args, **kwargs):
        raw = translate(*args, **kwargs)
        for tensor in raw.model.graph.initializer:
            if tensor.name.endswith("mix.weight"):
                values = np.frombuffer(tensor.raw_data, np.float32) * np.float32(1.001)
                tensor.raw_data = values.tobytes()
        return raw

    monkeypatch.setattr(pipeline, "translate", spoilt)
    with pytest.raises(ParityError, match="attn_deploy_scores"):
        export(Net().eval(), tmp_path / "net.onnx", inputs=INPUT, postprocess="argmax")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preprocess": "imagnet"}, "'imagnet' is unknown; did you mean 'imagenet'"),
        ({"preprocess": "uint8,nhwc"}, "name a preset"),
        ({"preprocess": "imagenet,rgb,bgr"}, "two values for color"),
        ({"preprocess": "mean=0.5,std=0"}, "above 0"),
        ({"preprocess": "0..1,resize=0x9"}, "write resize=224x224"),
        ({"preprocess": "mean=0.5/0.5,std=1"}, "images of 2 channels, and the model takes 3"),
        ({"postprocess": "topk=9"}, "the output has 7 classes"),
        ({"postprocess": "nms"}, "needs boxes N x B x 4"),
        ({"postprocess": "softmx"}, "did you mean 'softmax'"),
        ({"postprocess": "argmax,softmax"}, "'softmax' cannot stand there"),
        ({"postprocess": "nms:iou=2"}, "iou is above 0"),
        ({"input_names": ["a", "b"]}, "gives 2 names, and the model has 1 inputs"),
        ({"output_names": ["a", "a"]}, "each needs a name of its own"),
        ({"input_names": ["a"], "output_names": ["a"]}, "a graph needs two names"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, options, words):
    with pytest.raises(InvalidRequestError) as caught:
        export(Net().eval(), tmp_path / "net.onnx", inputs=INPUT, **options)
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_accuracy_is_measured_on_the_images_as_the_file_takes_them(tmp_path):
    images = load_dataset("digits", "test").head(40)
    net = Net().eval()
    plain = export(net, tmp_path / "plain.onnx", inputs=INPUT)
    pixels = "mean=" + "/".join(map(str, images.mean)) + ",std=" + "/".join(map(str, images.std))
    served = export(
        net, tmp_path / "served.onnx", inputs=INPUT, preprocess=f"{pixels},uint8,nhwc,bgr", postprocess="argmax"
    )
    expected = run(plain.path, images.normalised())
    around = served_by(served.record)
    (batch,) = around.batches(images, 40, "uint8")
    assert batch[0].shape == (40, *images.size, 3)
    scores = around.scores(run(served.path, batch[0]), 10, "served")
    np.testing.assert_array_equal(scores.argmax(1), next(iter(expected.values())).argmax(1))


def test_a_graph_without_a_choice_has_no_scores(tmp_path):
    from attn_deploy.errors import GraphError

    artifact = export(Net().eval(), tmp_path / "net.onnx", inputs=INPUT)
    with pytest.raises(GraphError, match="no scores"):
        scores_graph(load_model(artifact.path), artifact.outputs[0].name, "behind")


def test_a_model_that_ignores_its_input_is_refused_behind_a_choice_too(tmp_path):
    class Constant(nn.Module):
        def forward(self, image):
            return image.mean((2, 3)) * 0 + torch.tensor([[1.0, 2.0, 3.0]])

    with pytest.raises(ExportError, match="same outputs for every input"):
        export(Constant(), tmp_path / "net.onnx", inputs=INPUT, postprocess="argmax")
