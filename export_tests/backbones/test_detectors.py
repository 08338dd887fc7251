"""YOLOv8n and YOLO11n: the official networks' tensors and numbers, their slots, and their exported files.

The digest holds, of ultralytics' own networks with the weights that `official_state` gives, the number of parameters, a
hash of the names and shapes, and values of the output for one image.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from attn_deploy import create, export, fuse, load_official_state_dict
from attn_deploy.errors import InvalidRequestError
from attn_deploy.fusing import fuse_with_report
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import randomize

DIGEST = json.loads((Path(__file__).with_name("yolo_digest.json")).read_text(encoding="utf-8"))
NAMES = list(DIGEST)
every_detector = pytest.mark.parametrize("name", NAMES)


def official_shapes(module):
    """Names and shapes of the official state dict, but for the fixed weights of the distribution layer."""
    official = {ours: theirs for theirs, ours in module.official_keys.items() if ours}
    shapes = {}
    for key, value in module.state_dict().items():
        parts = key.split(".")
        cuts = (count for count in range(len(parts), 0, -1) if ".".join(parts[:count]) in official)
        count = next(cuts)
        shapes[".".join([official[".".join(parts[:count])], *parts[count:]])] = tuple(value.shape)
    return shapes


def official_state(shapes):
    """Weights that depend on each tensor's name alone."""
    state = {}
    for key, shape in shapes.items():
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        noise = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
        elif key.endswith(("running_var", "bn.weight")):
            state[key] = 0.75 + 0.5 * noise.abs()
        elif len(shape) == 4:
            state[key] = 1.4 * noise / (noise[0].numel() ** 0.5)
        else:
            state[key] = 0.2 * noise
    return state


def image():
    return torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(7))


@every_detector
def test_the_official_networks_tensors_and_numbers(name):
    expected = DIGEST[name]
    module = create(name)
    shapes = official_shapes(module)
    lines = "\n".join(f"{key} {shape}" for key, shape in sorted(shapes.items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == expected["sha256"]
    assert sum(p.numel() for p in module.parameters()) == expected["parameters"] - 16  # the distribution layer's
    state = {**official_state(shapes), expected["distribution_layer"]: torch.arange(16.0).reshape(1, 16, 1, 1)}
    load_official_state_dict(module, state)
    raw = create(name, decode=False)
    load_official_state_dict(raw, state)
    with torch.no_grad():
        outputs = {"decoded": module(image()), "fused": fuse(module)(image())}
        outputs["raw"] = torch.cat([level.flatten(2) for level in raw(image())], 2)
    for kind, output in outputs.items():
        values = expected["raw" if kind == "raw" else "decoded"]
        assert list(output.shape) == values["shape"]
        flat = output.flatten()
        picked = flat[torch.arange(0, flat.numel(), flat.numel() // 40)]
        wanted = torch.tensor(values["values"])
        atol = 1e-5 * max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(picked, wanted, rtol=1e-4, atol=atol)
        torch.testing.assert_close(flat.mean(), torch.tensor(values["mean"]), rtol=1e-4, atol=atol)


@every_detector
def test_boxes_follow_from_the_raw_maps(name):
    module = randomize(create(name, num_classes=3), deep=True)
    with torch.no_grad():
        decoded = module(image())
        module.head.decode = False
        levels = module(image())
    start = 0
    for level, stride in zip(levels, (8, 16, 32), strict=True):
        assert level.shape == (2, 64 + 3, 96 // stride, 64 // stride)
        sides = [(level[1, 16 * i : 16 * i + 16, 2, 1].softmax(0) * torch.arange(16)).sum() for i in range(4)]
        left, top, right, bottom = sides
        position = decoded[1, :, start + 2 * level.shape[3] + 1]  # row 2, column 1
        x1, y1 = 1.5 - left, 2.5 - top
        x2, y2 = 1.5 + right, 2.5 + bottom
        box = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) * stride
        torch.testing.assert_close(position[:4], box, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(position[4:], level[1, 64:, 2, 1].sigmoid())
        start += level.shape[2] * level.shape[3]
    assert decoded.shape == (2, 4 + 3, start)
    assert len(module.train()(image())) == 3


@every_detector
def test_batch_norms_are_those_of_the_official_networks(name):
    module = create(f"{name}+cbam@neck")
    inside = [m for slot in module.modules() if type(slot).__name__ == "CBAM" for m in slot.modules()]
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms if all(m is not i for i in inside)} == {(1e-3, 0.03)}
    assert {(m.eps, m.momentum) for m in norms if any(m is i for i in inside)} == {(1e-5, 0.01)}
    result = fuse_with_report(randomize(create(name), deep=True))
    assert result.left == ()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in result.model.modules())


@pytest.mark.parametrize(
    ("slot", "kind", "count"),
    [
        ("se", "SqueezeExcitation", 8),
        ("se@neck", "SqueezeExcitation", 4),
        ("eca@stage3", "ECA", 1),
        ("psp", "PyramidPoolingModule", 1),
    ],
)
@every_detector
def test_slots(name, slot, kind, count):
    module = create(f"{name}+{slot}")
    placed = [m for m in module.modules() if type(m).__name__.startswith(kind)]
    assert len(placed) == count
    with torch.no_grad():
        assert module(image()).shape == (2, 84, 126)


def test_convolutions_take_the_place_of_the_bottlenecks():
    module = create("yolov8n+ghostmodule@stage4")
    assert sum(type(m).__name__ == "GhostModule" for m in module.modules()) == 4
    with torch.no_grad():
        assert module(image()).shape == (2, 84, 126)
    fused = fuse(randomize(module, deep=True))
    with torch.no_grad():
        torch.testing.assert_close(fused(image()), module(image()), rtol=1e-4, atol=1e-3)


def test_refusals():
    with pytest.raises(InvalidRequestError, match=r"stage must be one of 'stage2', .*'neck', got 'layer1'"):
        create("yolov8n+se@layer1")
    with pytest.raises(ValueError, match=r"multiples of 32, got 64x80: pad the map to 64x96"):
        create("yolov8n")(torch.zeros(1, 3, 64, 80))
    with pytest.raises(InvalidRequestError, match="num_classes must be an integer of at least 1"):
        create("yolo11n:num_classes=0")


@pytest.mark.parametrize(
    ("name", "exporter", "opset"),
    [
        ("yolov8n+se@neck", "torchscript", 13),
        *(
            pytest.param(n, *how, marks=pytest.mark.slow)
            for n in NAMES
            for how in (("dynamo", 18), ("torchscript", 20))
        ),
        pytest.param("yolo11n:decode=False", "torchscript", 17, marks=pytest.mark.slow),
    ],
)
def test_exports_with_dynamic_sizes(name, exporter, opset, tmp_path):
    model = resolve(name)
    assert model.inputs[0].multiple["H"] % 32 == 0
    artifact = export(name, tmp_path / "m.onnx", exporter=exporter, opset=opset)
    graph = onnx.load(artifact.path).graph
    assert all(graph.input[0].type.tensor_type.shape.dim[axis].dim_param for axis in (0, 2, 3))
    assert len(graph.output) == (3 if "decode" in name else 1)
    assert not {n.op_type for n in graph.node} & {"If", "Loop", "Scan", "BatchNormalization"} - (
        {"BatchNormalization"} if "+" in name else set()
    )
