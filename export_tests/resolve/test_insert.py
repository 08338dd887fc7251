"""Zoo modules in other people's networks: in their place, with their weights, exported like any other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import attn_deploy
from attn_deploy import as_layer, export, insert
from attn_deploy.errors import InvalidRequestError, UnknownModelError
from attn_deploy.modules.attention.cbam import CBAM
from attn_deploy.modules.attention.coord_attention import CoordAttention
from attn_deploy.modules.attention.eca import ECA
from attn_deploy.resolve.names import parse_name
from attn_deploy.resolve.resolve import resolve

NET = """
import torch
from torch import nn

def block(a, b):
    return nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = block(3, width)
        self.stages = nn.ModuleDict({"one": nn.Sequential(block(width, 12), block(12, 12)), "two": block(12, 16)})
        self.head = nn.Linear(16, 5)

    def forward(self, image):
        x = self.stem(image)
        x = self.stages["two"](self.stages["one"](x))
        return self.head(x.mean((2, 3)))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.py"
    path.write_text(NET)
    return path


@pytest.fixture
def net(file):
    torch.manual_seed(2)
    return resolve(f"{file}:Net").module


IMAGE = torch.linspace(-2, 2, 2 * 3 * 64 * 48).reshape(2, 3, 64, 48)


def test_modules_stand_behind_those_that_a_pattern_names(net):
    before = copy.deepcopy(net.state_dict())
    result = insert(net, {"stages.one.*": "cbam:reduction=4", "stages.two": "coord_attention:reduction=4"})
    assert [(p.path, p.name, p.shape[1]) for p in result.places] == [
        ("stages.one.0", "cbam", 12), ("stages.one.1", "cbam", 12), ("stages.two", "coord_attention", 16),
    ]  # fmt: skip
    assert str(result.places[0]) == "cbam behind stages.one.0, 12 channels, 16x16"
    model = result.model
    inner = model.get_submodule("stages.one.0.inserted"), model.get_submodule("stages.two.inserted")
    assert [type(m) for m in inner] == [CBAM, CoordAttention]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), "the network itself was changed"
    stem = net.stem(IMAGE)
    expected = stem
    for index in (0, 1):
        expected = model.get_submodule(f"stages.one.{index}.inserted")(net.stages["one"][index](expected))
    expected = net.head(inner[1](net.stages["two"](expected)).mean((2, 3)))
    assert torch.equal(model(IMAGE), expected)


def test_state_dicts_of_the_network_still_load_and_its_own_do_too(net):
    model = insert(net, {"stages.two": "cbam:reduction=4"}).model
    other = copy.deepcopy(net)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    kept = copy.deepcopy(model.get_submodule("stages.two.inserted").state_dict())
    assert not any(model.load_state_dict(other.state_dict()))
    assert torch.equal(model.head.weight, other.head.weight)
    assert all(torch.equal(v, kept[k]) for k, v in model.get_submodule("stages.two.inserted").state_dict().items())
    twin = copy.deepcopy(model)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(IMAGE), model(IMAGE))
    partial = {k: v for k, v in model.state_dict().items() if "spatial" not in k}
    with pytest.raises(RuntimeError, match="Missing key"):
        twin.load_state_dict(partial)


def test_gradients_reach_what_was_inserted_and_modes_are_kept(net):
    net.train()
    net.stem.eval()
    model = insert(net, {"stages.two": "se:reduction=4"}).model
    assert [model.training, model.stem.training, model.get_submodule("stages.two.inserted").training] == [
        True,
        False,
        True,
    ]
    model(IMAGE).sum().backward()
    assert all(p.grad is not None for p in model.get_submodule("stages.two.inserted").parameters())


def test_a_module_can_take_a_place(net):
    result = insert(net, {"stages.one.1.0": "ghostmodule"}, replace=True)
    assert result.places[0].replaced
    assert type(result.model.get_submodule("stages.one.1.0")).__name__ == "GhostModule"
    assert result.model(IMAGE).shape == (2, 5)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_the_name_grammar_takes_it_and_the_file_is_proven(file, tmp_path, exporter):
    from attn_deploy.inputs.grammar import parse_inputs

    torch.manual_seed(2)
    plain = resolve(f"{file}:Net:width=6").module
    weights = tmp_path / "net.pth"
    torch.save(plain.state_dict(), weights)
    artifact = export(
        f"{file}:Net:width=6+eca:kernel_size=5@stages.one.*", tmp_path / "net.onnx", weights=weights,
        inputs=parse_inputs(["1x3x64x48"]), exporter=exporter,
    )  # fmt: skip
    assert artifact.dynamic_axes == ("N", "H", "W")
    assert artifact.record["weights"][0] == "net.pth"
    assert "Sigmoid" in artifact.operators


def test_names_are_read():
    name = parse_name("timm:resnet50:num_classes=10+cbam:reduction=8@layer3")
    assert (name.package, name.base, name.arguments) == ("timm", "resnet50", {"num_classes": 10})
    assert (name.slot, name.slot_arguments, name.stage) == ("cbam", {"reduction": 8}, "layer3")
    assert parse_name("net.py:Net+eca@backbone.stage4").stem == "net-eca-backbone-stage4"
    assert parse_name("resnet18+cbam@layer3").package is None


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.two = nn.Identity()
        self.idle = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        y = self.a(x)
        return self.two((y, y))[0].mean((2, 3))


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ({"b": "se"}, "has no module 'b'"),
        ({"a.*": "se"}, "has no module 'a.*'"),
        ({}, "nothing to insert"),
        ({"two": "se"}, "gives a tuple"),
        ({"idle": "se"}, "is not called"),
        ({"a": "se", "*": "eca"}, "two patterns name the module 'a'"),
        ({"a": "se:channels=3"}, "channels is set by the backbone"),
        ({"a": "se:nothing=3"}, "has no argument 'nothing'"),
        ({"a": "resnet18"}, "cannot fill a slot"),
    ],
)
def test_what_does_not_fit_is_said(modules, words):
    with pytest.raises(InvalidRequestError) as caught:
        insert(Pair(), modules)
    assert words in str(caught.value)


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = Body()

    def forward(self, x):
        return self.body(x).mean((2, 3))


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


def test_a_module_that_loops_over_its_children_is_not_gone_through_twice():
    with pytest.raises(InvalidRequestError, match="calls its children by itself"):
        insert(Loop(), {"body": "se:reduction=4"})
    assert insert(Loop(), {"body.b": "se:reduction=4"}).places


def test_unknown_modules_and_sizes_are_said(file):
    with pytest.raises(UnknownModelError, match="did you mean"):
        insert(Pair(), {"a": "cbamm"})
    with pytest.raises(InvalidRequestError, match=r"does not run on 1x3x1x1.*Say what it takes"):
        insert(Pair(), {"a": "se"}, inputs="1x3x1x1")
    with pytest.raises(InvalidRequestError, match="behind which module"):
        parse_name("timm:resnet50+se")
    with pytest.raises(InvalidRequestError, match="has no module 'nowhere'"):
        resolve(f"{file}:Net+se@nowhere")


def test_a_layer_is_a_callable_of_channels():
    """As timm's create_attn calls it: the class with the channels, and settings of its own layers."""
    layer = as_layer("eca")
    assert isinstance(layer(32), ECA)
    assert type(as_layer("se:reduction=8")(64, rd_ratio=0.25, act_layer=nn.ReLU)).__name__ == "SqueezeExcitation"
    assert layer(16).training
    with pytest.raises(InvalidRequestError, match="has no argument 'reductions'"):
        as_layer("se")(64, reductions=4)
    with pytest.raises(UnknownModelError):
        attn_deploy.as_layer("squeeeze")


class Last(nn.Module):
    """A part that works on maps with their channels last, as a Swin's blocks do."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, 4)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Conv2d(24, 5, 1)

    def forward(self, image):
        return self.head(self.norm(self.stem(image).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("inputs", [None, "1x3x64x64", "1x3x40x72"])
def test_a_map_with_its_channels_last_is_refused(inputs):
    with pytest.raises(InvalidRequestError, match="with its channels last"):
        insert(Last(), {"norm": "eca"}, inputs=inputs)
    assert [p.path for p in insert(Last(), {"stem": "eca", "head": "simam"}, inputs=inputs).places] == ["stem", "head"]
