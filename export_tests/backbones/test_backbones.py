"""Backbones: published sizes, the names of the common checkpoints, and what stands in their slots."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

import attn_deploy
from attn_deploy import registry
from attn_deploy.backbones.slots import Slots
from attn_deploy.errors import InvalidRequestError
from attn_deploy.resolve.make import slot_factory
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import randomize

BACKBONES = [s.name for s in registry.list_models("backbone") if s.outputs == ("logits",)]  # no detectors
# In the default tier where a test builds each backbone.
LIGHT = ("resnet8", "resnet18", "mobilenet_v2", "shufflenet_v2", "senet18")
DEPTHWISE = ("mobilenet_v2", "shufflenet_v2", "efficientnet_b0")

# torchvision 0.28: parameters, entries of the state dict, and SHA-256 of its sorted lines "key shape"; googlenet without
# its auxiliary classifiers.
TORCHVISION = [
    ("resnet18", 11_689_512, 122, "5191d63ec3989592"),
    ("resnet34", 21_797_672, 218, "f8de2a1812ef85e4"),
    ("resnet50", 25_557_032, 320, "a87e91cd6bd1f939"),
    ("mobilenet_v2", 3_504_872, 314, "e3eb10f890f74c6e"),
    ("shufflenet_v2", 2_278_604, 338, "c54ed350c00fa178"),
    ("googlenet", 6_624_904, 344, "545eb1baab91f5d8"),
    ("densenet121", 7_978_856, 727, "9c659ec278435e95"),
    ("vgg16_bn", 138_365_992, 97, "86bad13b66635552"),
    ("efficientnet_b0", 5_288_548, 360, "98a6d92c040c4bca"),
]
# Of the common CIFAR collections at ten classes; resnet20 by the paper's own count (0.27 M).
CIFAR = {
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "resnet20": 269_722,
    "senet18": 11_260_354,
    "mobilenet_v2": 2_296_922,
    "shufflenet_v2": 1_263_854,
    "googlenet": 6_166_250,
    "densenet121": 6_956_298,
    "vgg16_bn": 14_728_266,
}


@pytest.mark.parametrize(("name", "parameters", "entries", "digest"), TORCHVISION, ids=[t[0] for t in TORCHVISION])
def test_imagenet_forms_load_the_state_dicts_of_torchvision(name, parameters, entries, digest):
    with torch.device("meta"):
        module = attn_deploy.create(f"{name}:stem=imagenet,num_classes=1000")
    assert sum(p.numel() for p in module.parameters()) == parameters
    state = module.state_dict()
    assert len(state) == entries
    lines = "\n".join(f"{key} {tuple(value.shape)}" for key, value in sorted(state.items()))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(("name", "parameters"), CIFAR.items())
def test_cifar_forms_have_the_published_sizes(name, parameters):
    assert registry.get(name).parameters == parameters
    with torch.device("meta"):
        assert sum(p.numel() for p in attn_deploy.create(name).parameters()) == parameters


def test_auxiliary_classifiers_of_a_checkpoint_are_left_out():
    module = attn_deploy.create("googlenet:stem=imagenet,num_classes=1000")
    state = {**module.state_dict(), "aux1.conv.conv.weight": torch.zeros(1), "aux2.fc1.bias": torch.zeros(1)}
    module.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        module.load_state_dict({**state, "other.bias": torch.zeros(1)})


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in LIGHT else pytest.mark.slow)
        for n in BACKBONES
        if n not in ("resnet8", "resnet20")
    ],
)
def test_stems(name):
    """The ImageNet form works on a map that is several times smaller."""
    seen = {}
    for stem in ("cifar", "imagenet"):
        network = attn_deploy.create(name, stem=stem)
        network.context.register_forward_hook(lambda module, given, out, stem=stem: seen.update({stem: out.shape[2:]}))
        with torch.no_grad():
            assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
    small, large = seen["imagenet"][0], seen["cifar"][0]
    assert large >= small
    assert small == 2
    assert name == "vgg16_bn" or large >= 4


# slots


def test_a_slot_stands_after_the_last_normalisation_and_before_the_sum():
    """With a slot that doubles its input, the block gives relu(2 * branch + shortcut)."""

    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    for name, channels in (("resnet18", 64), ("resnet8", 16)):
        network = randomize(attn_deploy.create(f"{name}+se@layer1"))
        block = network.layer1[0]
        block.slot = Twice()
        x = torch.randn(2, channels, 8, 8)
        with torch.no_grad():
            inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
            torch.testing.assert_close(block(x), (2 * inner + x).relu())


def test_the_shortcut_of_the_small_networks_takes_every_second_pixel_and_adds_zero_channels():
    network = attn_deploy.create("resnet8")
    block = network.layer2[0]
    with torch.no_grad():
        block.bn2.weight.zero_()  # the branch gives its bias, which is 0
    x = torch.rand(2, 16, 7, 9)
    with torch.no_grad():
        out = block(x)
    assert out.shape == (2, 32, 4, 5)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


PLACES = {
    "resnet8": 3, "resnet20": 9, "resnet18": 8, "resnet34": 16, "resnet50": 16, "senet18": 8, "mobilenet_v2": 17,
    "shufflenet_v2": 16, "googlenet": 9, "densenet121": 4, "vgg16_bn": 5, "efficientnet_b0": 16,
}  # fmt: skip
CONVOLUTIONS = {
    "resnet8": 6, "resnet20": 18, "resnet18": 16, "resnet34": 32, "resnet50": 16, "senet18": 16, "googlenet": 27,
    "densenet121": 58, "vgg16_bn": 12,
}  # fmt: skip


def kinds_in(module: nn.Module, name: str) -> int:
    cls = registry.get(name).target.split(":")[1]
    return sum(type(m).__name__ == cls for m in module.modules())


@pytest.mark.parametrize("name", BACKBONES)
def test_attention_stands_in_every_place(name):
    whole = attn_deploy.create(f"{name}+eca")
    assert kinds_in(whole, "eca") == PLACES[name]
    with torch.no_grad():
        assert whole(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "shufflenet_v2", "googlenet"])
def test_attention_in_one_stage(name):
    stages = list(slots_of(name))
    count = [kinds_in(attn_deploy.create(f"{name}+eca@{stage}"), "eca") for stage in stages]
    assert sum(count) == PLACES[name]
    assert all(count)
    with pytest.raises(InvalidRequestError, match=f"stage must be one of .*{stages[0]}"):
        attn_deploy.create(f"{name}+eca@nowhere")


def slots_of(name):
    """The stages of a backbone, as its error message lists them."""
    try:
        attn_deploy.create(f"{name}+eca@nowhere")
    except InvalidRequestError as error:
        return [w for w in str(error).split("'") if any(c.isdigit() for c in w) and " " not in w and w != name]
    raise AssertionError("a stage of no backbone was accepted")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in LIGHT else pytest.mark.slow) for n in CONVOLUTIONS])
def test_convolutions_take_the_place_of_the_3x3(name):
    module = attn_deploy.create(f"{name}+ghostmodule")
    assert kinds_in(module, "ghostmodule") == CONVOLUTIONS[name]
    plain = [
        m for m in module.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and m.groups == 1 and m.in_channels > 3
    ]  # fmt: skip
    ghosts = [m for m in module.modules() if type(m).__name__ == "GhostModule"]
    assert len(plain) == len(ghosts), "each module has one 3x3 of its own, and no other is left"
    with torch.no_grad():
        assert module(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_networks_have_no_place_for_convolutions(name):
    with pytest.raises(InvalidRequestError, match=r"this backbone has none \(its 3x3 are depthwise\)"):
        attn_deploy.create(f"{name}+ghostmodule")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in LIGHT else pytest.mark.slow) for n in BACKBONES])
def test_context_stands_before_the_classifier_and_sets_its_width(name):
    with torch.device("cpu"):
        module = attn_deploy.create(f"{name}+psp")
        plain = attn_deploy.create(name)
    width = next(m for m in reversed(list(plain.modules())) if isinstance(m, nn.Linear)).in_features
    last = next(m for m in reversed(list(module.modules())) if isinstance(m, nn.Linear))
    assert last.in_features == 2 * width
    with torch.no_grad():
        assert module(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_convolution_keeps_stride_and_width_or_leaves_the_place_as_it_is():
    """sc_conv has one channel count: where the width changes, the plain convolution stays."""
    module = attn_deploy.create("resnet18+sc_conv")
    assert [type(b.conv1).__name__ for layer in (module.layer1, module.layer2) for b in layer] == [
        "SelfCalibratedConv2d", "SelfCalibratedConv2d", "Conv2d", "SelfCalibratedConv2d",
    ]  # fmt: skip
    assert module.layer2[0].conv1.stride == (2, 2)
    strided = attn_deploy.create("resnet18+condconv").layer2[0].conv1
    with torch.no_grad():
        assert strided(torch.zeros(1, 64, 8, 8)).shape == (1, 128, 4, 4)


def test_a_module_that_fits_nowhere_is_refused():
    filler = slot_factory("slimconv", {"reduction": 8})
    slots = Slots("made", filler, None, {"only": 2})
    assert isinstance(slots.convolution("only", 16, 32, 2, activated=True), nn.Conv2d)
    with pytest.raises(ValueError, match="cannot take the place of any 3x3 convolution"):
        slots.require_filled()


def test_slot_modules_keep_their_own_initial_weights():
    torch.manual_seed(0)
    module = attn_deploy.create("resnet8+acblock")
    names = [n for n, p in module.named_parameters() if p.dim() == 4 and bool((p == 0).all())]
    assert not names
    gate = attn_deploy.create("resnet8+gc").layer1[0].slot
    last = [p for p in gate.parameters() if p.dim() == 4][-1]
    assert not last.any(), "GCNet's last convolution starts at zero"


def test_the_limits_of_a_module_become_limits_of_the_image():
    """criss_cross needs maps of 2x2; the last stage of resnet8 is a quarter of the image."""
    inputs = resolve("resnet8+criss_cross").inputs[0]
    assert (inputs.minimum["H"], inputs.minimum["W"]) == (8, 8)
    assert resolve("resnet8+criss_cross@layer1").inputs[0].minimum["H"] == 2
    even = resolve("resnet8+rnan_res_att").inputs[0]
    assert even.multiple["H"] == 8
    assert even.shape()[2] % 8 == even.shape()[3] % 8 == 0


@pytest.mark.parametrize(
    "name",
    [
        "resnet18+se",
        pytest.param("resnet18+cbam@layer3", marks=pytest.mark.slow),
        pytest.param("resnet50+eca@layer4", marks=pytest.mark.slow),
        pytest.param("resnet18:stem=imagenet", marks=pytest.mark.slow),
        "resnet8+psp",
    ],
)
def test_fused_backbones_hold_no_batch_norm(name):
    model = resolve(name)
    randomize(
        model.module
    ).double()  # fifty layers deep, float32 rounds at 1e-3 of these logits with or without folding
    fused = attn_deploy.fuse(model.module)
    left = [p for p, m in fused.named_modules() if isinstance(m, torch.nn.BatchNorm2d) and "slot" not in p]
    assert left == []
    x = torch.randn(2, 3, 33, 48, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model.module(x), rtol=1e-9, atol=1e-9)
