"""Zoo names in ultralytics' model files and OpenMMLab's registry: the real packages where they are, restated ones else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from attn_deploy import export
from attn_deploy.errors import InvalidRequestError, UnknownModelError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.integrations import mmcv, ultralytics
from attn_deploy.integrations.layers import fitting_names
from attn_deploy.modules.attention.coord_attention import CoordAttention
from attn_deploy.modules.attention.eca import ECA
from export_tests.integrations.restated import IMAGE, Registry, tasks_module

ROWS = {
    "depth_multiple": 0.5,
    "width_multiple": 0.5,
    "backbone": [[-1, 1, "Conv", [32, 3, 2]], [-1, 1, "coord_attention", [{"reduction": 4}]]],
    "head": [[-1, 4, "eca", []], [-1, 1, "Conv", [8, 1, 1]]],
}


def test_names_stand_in_model_files_with_channels_scaling_and_repeats():
    tasks = tasks_module()
    assert {"coord_attention", "eca", "cbam"} <= set(ultralytics.register_in(tasks))
    rows = copy.deepcopy(ROWS)
    model, _ = tasks.parse_model(rows, 3)
    assert rows == ROWS, "the user's table was changed"
    assert type(model[1]) is CoordAttention
    assert [type(m) for m in model[2]] == [ECA, ECA], "4 repeats at half the depth"
    assert model(IMAGE).shape == (2, 4, 32, 48)
    assert ultralytics.register_in(tasks) == ultralytics.register_in(tasks, ["eca"]), "registered once"
    again, _ = tasks.parse_model(copy.deepcopy(ROWS), 3)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(IMAGE), model.eval()(IMAGE))


def test_what_a_row_cannot_be_is_said():
    tasks = tasks_module()
    ultralytics.register_in(tasks, ["se", "eca"])
    rows = copy.deepcopy(ROWS)
    rows["backbone"][1] = [-1, 1, "se", [16]]
    with pytest.raises(InvalidRequestError, match="written with their names"):
        tasks.parse_model(rows, 3)
    rows["backbone"][1] = [-1, 1, "se", [{"reductoin": 4}]]
    with pytest.raises(InvalidRequestError, match="has no argument 'reductoin'"):
        tasks.parse_model(rows, 3)
    with pytest.raises(InvalidRequestError, match="builds networks in another way"):
        tasks.se("ch", "f")
    with pytest.raises(UnknownModelError):
        ultralytics.register_in(tasks, ["squeeeze"])
    tasks.cbam = object()
    with pytest.raises(InvalidRequestError, match="of its own"):
        ultralytics.register_in(tasks, ["cbam"])
    with pytest.raises(InvalidRequestError, match="holds no network"):
        ultralytics.exportable(object())


def test_every_registered_name_keeps_the_channels_of_its_map():
    names = fitting_names()
    assert len(names) > 30
    assert not {"resnet18", "ghostmodule", "aspp"} & set(names)


@pytest.fixture
def registry():
    try:
        from mmengine.registry import Registry as Real
    except ModuleNotFoundError:
        return Registry()
    return Real("models of a test")


def test_plugins_are_made_from_a_table(registry):
    names = mmcv.register(["eca", "coord_attention"], registry)
    assert names == ("attn_deploy.eca", "attn_deploy.coord_attention")
    mmcv.register(["eca"], registry)  # again
    plugin = registry.get("attn_deploy.coord_attention")
    assert plugin._abbr_ == "coord_attention"  # what mmcv calls the attribute after
    layer = registry.build({"type": "attn_deploy.coord_attention", "in_channels": 32, "reduction": 8})
    assert type(layer) is CoordAttention
    assert layer(torch.zeros(1, 32, 9, 7)).shape == (1, 32, 9, 7)


YOLO = """
nc: 4
scales: {n: [0.33, 0.25, 1024]}
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 3, C2f, [128, True]]
  - [-1, 1, coord_attention, [{reduction: 8}]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 6, eca, []]
head:
  - [[3, 5], 1, Detect, [nc]]
"""


def test_a_yolo_with_attention_is_exported_at_any_size(tmp_path):
    pytest.importorskip("ultralytics", reason="pip install ultralytics")
    import yaml
    from ultralytics.nn.tasks import DetectionModel

    ultralytics.register()
    torch.manual_seed(0)
    network = DetectionModel({**yaml.safe_load(YOLO), "scale": "n"}, ch=3, verbose=False)
    assert type(network.model[3]) is CoordAttention
    assert [type(m) for m in network.model[5]] == [ECA, ECA]
    path = tmp_path / "yolo.pt"
    torch.save({"model": network}, path)  # as its trainer keeps a network
    trained = torch.load(path, weights_only=False)["model"]
    artifact = export(
        ultralytics.exportable(trained), tmp_path / "yolo.onnx", inputs=parse_inputs(["1x3x64x96"]),
        dynamic=["N", "H", "W"], exporter="torchscript", opset=17,
    )  # fmt: skip
    assert artifact.dynamic_axes == ("N", "H", "W")
    assert len(artifact.record["verified_shapes"]) >= 3


def test_heads_forget_nothing_between_sizes():
    """A head that keeps its anchors is told to make them anew."""

    class Head(nn.Module):
        dynamic = export = False
        format = None

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = Head()

    network = Network()
    head = ultralytics.exportable(network).head
    assert (head.dynamic, head.export, head.format) == (True, True, "onnx")
    assert not network.head.dynamic
