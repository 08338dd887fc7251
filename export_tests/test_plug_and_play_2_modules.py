"""What is special about the activations, context and fusion modules and the convolutions that go with them.

The properties that every module must have are in test_zoo_contract.py.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy import create, fuse, load_official_state_dict
from attn_deploy.ops import fold_bn_, fold_bn_before_conv, fuse_conv_bn

from .helpers import randomize, read_vectors
from .reference_cases import REFERENCE_CASES


def ramp(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * scale + torch.linspace(-1, 1, shape[-1])


def made(name, **arguments):
    return randomize(create(name, **arguments))


# Arguments that are refused: registry name, arguments, what the message says.

REFUSED = [
    ("swish", {"beta": math.inf}, "beta"),
    ("depthwise_separable_conv", {"depth_multiplier": 1.5}, "in_channels=64 and depth_multiplier=1.5"),
    ("depthwise_separable_conv", {"depth_multiplier": 0}, "depth_multiplier=0"),
    ("depthwise_separable_conv", {"kernel_size": 4}, "kernel_size=4"),
    ("depthwise_separable_conv", {"norm": "first"}, "norm must be one of"),
    ("depthwise_separable_conv", {"activation": "gelu"}, "activation must be one of"),
    ("fused_conv_bn", {"groups": 3}, "in_channels=64 and groups=3"),
    ("fused_conv_bn", {"out_channels": 66, "groups": 4}, "out_channels=66 and groups=4"),
    ("fused_conv_bn", {"output_padding": 1}, "transposed=True"),
    ("mixconv", {"in_channels": 2, "out_channels": 2}, "at most 2 kernels"),
    ("mixconv", {"kernel_size": ()}, "at least 1"),
    ("mixconv", {"out_channels": 100}, "out_channels=100"),
    ("mixconv", {"padding": "valid"}, "padding must be one of"),
    ("mixconv", {"kernel_size": (3, 4)}, "mixes odd and even"),
    ("mixconv", {"kernel_size": (3, 5), "padding": "same", "stride": 4}, "stride=4"),
    ("aspp", {"atrous_rates": ()}, "atrous_rates must hold at least 1"),
    ("aspp", {"atrous_rates": (1, 0)}, r"atrous_rates\[1\]"),
    ("aspp", {"in_channels": 0}, "in_channels"),
    ("rfb", {"in_channels": 15}, "in_channels must be at least 16"),
    ("rfb", {"stride": 3}, "stride must be one of 1, 2"),
    ("rfb", {"scale": math.nan}, "scale"),
    ("rfb", {"visual": 0}, "visual"),
    ("rfb_e", {"in_channels": 15}, "in_channels must be at least 16"),
    ("rfb_s", {"in_channels": 15}, "in_channels must be at least 16"),
    ("rfb_s", {"stride": 2}, "stride must be 1 for rfb_s, got 2"),
    ("seb", {"project_low": False, "out_channels": 32}, "low_channels=64 and out_channels=32"),
    ("seb", {"high_channels": 0}, "high_channels"),
    ("ssh", {"out_channels": 66}, "out_channels=66"),
    ("weighted_feature_fusion", {"num_inputs": 1}, "num_inputs must be at least 2, got 1"),
    ("weighted_feature_fusion", {"method": "attn"}, "method must be one of"),
    ("weighted_feature_fusion", {"method": "channel_fast", "channels": None}, "give channels"),
    ("yolo_weighted_fusion", {"channels": (64,)}, "2 or more"),
    ("yolo_weighted_fusion", {"channels": 64}, "2 or more"),
    ("yolo_weighted_fusion", {"channels": (64, 0)}, r"channels\[1\]"),
]


@pytest.mark.parametrize(("name", "arguments", "says"), REFUSED, ids=lambda v: v if isinstance(v, str) else None)
def test_arguments_that_cannot_work_are_refused(name, arguments, says):
    with pytest.raises(ValueError, match=says):
        create(name, **arguments)


def maps(*shapes):
    return [ramp(*shape, seed=i) for i, shape in enumerate(shapes)]


# Inputs that are refused.

REFUSED_INPUTS = [
    ("seb", {}, [(1, 64, 3, 3), (1, 32, 6, 6)], "64.*32"),
    ("seb", {}, [(1, 64, 3, 3), (2, 64, 6, 6)], "batch of 1 and low one of 2"),
    ("feature_concat", {}, [], "no map"),
    ("feature_concat", {}, [(1, 2, 3, 3), (1, 2, 3, 4)], r"\(1, 2, 3, 4\)"),
    ("feature_concat", {}, [(1, 2, 3, 3), (1, 2, 3)], "axis 1 only"),
    ("weighted_feature_fusion", {}, [(1, 64, 3, 3)] * 2, "expected 3 maps, got 2"),
    ("weighted_feature_fusion", {"num_inputs": 2}, [(1, 64, 3, 3), (1, 64, 3, 4)], "one shape"),
    ("yolo_weighted_fusion", {}, [(1, 64, 3, 3)] * 2, "expected 3 maps, got 2"),
    ("yolo_weighted_fusion", {"channels": (64, 32)}, [(1, 64, 3, 3), (1, 32, 3, 4)], "one height and width"),
    ("yolo_weighted_fusion", {"channels": (64, 32)}, [(1, 64, 3, 3), (1, 16, 3, 3)], "32.*16"),
]


@pytest.mark.parametrize(("name", "arguments", "shapes", "says"), REFUSED_INPUTS)
def test_inputs_that_do_not_fit_are_refused(name, arguments, shapes, says):
    module = create(name, **arguments)
    with pytest.raises(ValueError, match=says):
        module(*maps(*shapes))


# Activations.


@pytest.mark.parametrize("learnable", [False, True])
def test_swish_has_a_slope(learnable):
    x = ramp(2, 3, 5, scale=3)
    module = create("swish", beta=1.7, learnable=learnable)
    assert sum(p.numel() for p in module.parameters()) == int(learnable)
    torch.testing.assert_close(module(x), x * torch.sigmoid(1.7 * x))


def test_activations_equal_their_torch_operators_in_every_segment():
    x = torch.linspace(-100, 100, 4001)
    torch.testing.assert_close(create("swish")(x), F.silu(x))
    torch.testing.assert_close(create("hswish")(x), F.hardswish(x))
    torch.testing.assert_close(create("mish")(x), F.mish(x))
    assert torch.isfinite(create("hswish")(torch.tensor([6e4], dtype=torch.float16))).all()


# Convolutions.


def test_depthwise_separable_conv_multiplies_and_activates():
    module = made("depthwise_separable_conv", depth_multiplier=2, norm="both", activation="relu6", padding=0)
    assert module(ramp(1, 64, 9, 8)).shape == (1, 64, 7, 6)
    assert module.depthwise[0].out_channels == 128
    assert float(module(ramp(1, 64, 9, 8, scale=100)).detach().max()) <= 6


FOLDS = [
    (nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), (2, 6, 7, 5)),
    (nn.Conv2d(6, 8, 3, stride=2, dilation=2, groups=2), nn.BatchNorm2d(8, affine=False), (2, 6, 9, 8)),
    (nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect", groups=6), nn.BatchNorm2d(6), (2, 6, 7, 5)),
    (nn.ConvTranspose2d(6, 8, 3, stride=2, output_padding=1), nn.BatchNorm2d(8), (2, 6, 7, 5)),
    (nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1, groups=2, bias=False), nn.BatchNorm2d(8), (2, 6, 7, 5)),
    (nn.Conv1d(6, 8, 3, groups=2), nn.BatchNorm1d(8), (2, 6, 9)),
    (nn.Linear(6, 8), nn.BatchNorm1d(8), (4, 6)),
    (nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, affine=False), (4, 6)),
]


@pytest.mark.parametrize(("layer", "bn", "shape"), FOLDS, ids=lambda v: type(v).__name__)
def test_fuse_conv_bn_is_exact_and_keeps_the_settings(layer, bn, shape):
    pair = randomize(nn.Sequential(layer, bn).eval())
    fused = fuse_conv_bn(layer, bn)
    x = ramp(*shape)
    torch.testing.assert_close(fused(x), pair(x), rtol=1e-5, atol=5e-6)
    assert type(fused) is type(layer)
    assert fused.bias is not None
    kept = ("stride", "padding", "output_padding", "dilation", "groups", "padding_mode")
    assert [getattr(fused, k, None) for k in kept] == [getattr(layer, k, None) for k in kept]
    half = fuse_conv_bn(layer.half(), bn.half())
    assert half.weight.dtype == half.bias.dtype == torch.float16
    pair.float()


@pytest.mark.parametrize(
    ("layer", "bn", "says"),
    [
        (nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8).train(), "training mode"),
        (nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8, track_running_stats=False).eval(), "running statistics"),
        (nn.Conv2d(4, 8, 3), nn.BatchNorm2d(4).eval(), "4 channels after a convolution with 8"),
        (nn.Linear(4, 8), nn.BatchNorm1d(4).eval(), "4 channels after a linear layer with 8"),
        (nn.Embedding(4, 8), nn.BatchNorm1d(8).eval(), "got Embedding"),
        (nn.Conv2d(4, 8, 3), nn.GroupNorm(1, 8).eval(), "got GroupNorm"),
    ],
)
def test_fuse_conv_bn_refuses(layer, bn, says):
    with pytest.raises(ValueError, match=says):
        fuse_conv_bn(layer, bn)


def test_fold_bn_folds_a_whole_model_in_place():
    inner = nn.Sequential(nn.ConvTranspose2d(8, 4, 2, stride=2), nn.BatchNorm2d(4), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), inner, nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="training mode"):
        fold_bn_(model)
    randomize(model.eval())
    x = ramp(2, 3, 8, 9)
    before = model(x)
    assert fold_bn_(model) == 2
    assert isinstance(model[3], nn.BatchNorm2d), "this BatchNorm follows an activation"
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert fold_bn_(model) == 0


def test_a_layer_with_hooks_is_left_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    model[0].register_forward_hook(lambda module, given, result: result * 2)
    x = ramp(1, 3, 5, 5)
    torch.testing.assert_close(fuse(model)(x), model(x))


@pytest.mark.parametrize("groups", [1, 2])
def test_batchnorm_before_a_convolution_folds_only_without_padding(groups):
    bn, conv = nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, groups=groups)
    pair = randomize(nn.Sequential(bn, conv).eval())
    x = ramp(2, 6, 7, 8)
    torch.testing.assert_close(fold_bn_before_conv(bn, conv)(x), pair(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="border would differ"):
        fold_bn_before_conv(bn, nn.Conv2d(6, 8, 3, padding=1))
    with pytest.raises(ValueError, match="border would differ"):
        fold_bn_before_conv(bn, nn.Conv2d(6, 8, 3, padding="same"))
    with pytest.raises(ValueError, match="6 channels before a convolution with 4"):
        fold_bn_before_conv(bn, nn.Conv2d(4, 8, 3))
    with pytest.raises(ValueError, match="ConvTranspose2d"):
        fold_bn_before_conv(bn, nn.ConvTranspose2d(6, 8, 3))


@pytest.mark.parametrize("stem", [s for s in REFERENCE_CASES if s.startswith("conv_bn_fuse")])
def test_fused_weights_are_the_published_ones(stem, reference_folder):
    vectors = read_vectors(reference_folder / f"{stem}.npz")
    name, arguments = REFERENCE_CASES[stem]
    module = create(name, **arguments)
    load_official_state_dict(module, vectors["state"])
    fused = fuse(module)
    assert isinstance(fused.bn, nn.Identity)
    for ours, theirs in ((fused.conv.weight, "fused_weight"), (fused.conv.bias, "fused_bias")):
        torch.testing.assert_close(ours.detach(), torch.from_numpy(vectors["extra"][theirs]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(9, 10), (10, 9), (7, 8), (12, 11)])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1), (2, 3), (3, 1)])
def test_mixconv_same_padding_is_that_of_tensorflow(size, stride, dilation):
    kernels = (1, 3, 4, 5)
    module = made("mixconv", kernel_size=kernels, padding="same", stride=stride, dilation=dilation)
    x = ramp(1, 64, *size)
    expected = []
    for conv, part, k in zip(module.convs, x.chunk(4, 1), kernels, strict=True):
        pads = []
        for extent in (size[1], size[0]):
            total = max((-(-extent // stride) - 1) * stride + (k - 1) * dilation + 1 - extent, 0)
            pads += [total // 2, total - total // 2]
        expected.append(conv(F.pad(part, pads)))
    assert torch.equal(module(x), torch.cat(expected, 1))


# Context.


def test_aspp_trains_with_two_images_and_says_why_not_with_one():
    module = made("aspp").train()
    with pytest.raises(ValueError, match="batch of 1"):
        module(ramp(1, 64, 5, 6))
    assert module(ramp(2, 64, 5, 6)).shape == (2, 64, 5, 6)
    assert module.eval()(ramp(1, 64, 5, 6)).shape == (1, 64, 5, 6)


@pytest.mark.parametrize("name", ["rfb", "rfb_s", "rfb_e"])
def test_rfb_scale_is_folded_even_after_the_batchnorms(name):
    module = made(name, scale=0.3)
    x = ramp(1, 64, 9, 8)
    expected = module(x)
    fold_bn_(module)
    fused = fuse(module)
    assert fused.scale == 1.0
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(fused(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["rfb", "rfb_e"])
def test_rfb_strides(name):
    assert create(name, stride=2)(ramp(1, 64, 9, 12)).shape == (1, 64, 5, 6)


@pytest.mark.parametrize("project_low", [True, False])
def test_seb_takes_maps_of_any_size(project_low):
    module = made("seb", high_channels=32, project_low=project_low)
    high, low = maps((2, 32, 7, 9), (2, 64, 15, 17))
    up = F.interpolate(module.embed(high), (15, 17), mode="bilinear", align_corners=project_low)
    torch.testing.assert_close(module(high, low), module.project(low) * up)
    exact = F.interpolate(module.embed(high), scale_factor=2, mode="bilinear", align_corners=project_low)
    low = low[:, :, :14, :1].expand(-1, -1, -1, 18)
    torch.testing.assert_close(module(high, low), module.project(low) * exact)


def test_ssh_slope_follows_the_width():
    assert create("ssh").reduce[2].negative_slope == 0.1
    assert isinstance(create("ssh", out_channels=68).reduce[2], nn.ReLU)
    assert isinstance(create("ssh", norm=False).reduce[1], nn.ReLU)
    assert sum(p.numel() for p in create("ssh", norm=False).parameters()) == 34656


def test_feature_tools_equal_their_plain_forms_in_any_memory_layout():
    x = ramp(2, 6, 5, 7).to(memory_format=torch.channels_last)
    assert torch.equal(create("flatten")(x), x.reshape(2, -1))
    torch.testing.assert_close(create("global_avg_pool")(x), F.adaptive_avg_pool2d(x, 1).flatten(1))
    f = x.flatten(2)
    torch.testing.assert_close(create("gram_matrix")(x), f @ f.transpose(1, 2) / (6 * 5 * 7))


# Fusion.


def test_feature_concat_takes_a_list_and_passes_a_single_map_through():
    x = maps((1, 2, 3, 4), (1, 2, 3, 5))
    assert torch.equal(create("feature_concat", dim=-1)(x), torch.cat(x, -1))
    assert create("feature_concat")(x[0]) is x[0]


@pytest.mark.parametrize("method", ["fast", "softmax", "sum", "channel_fast", "channel_softmax"])
def test_weighted_fusion_methods(method):
    module = create("weighted_feature_fusion", num_inputs=2, method=method)
    x = torch.stack(maps((2, 64, 3, 5), (2, 64, 3, 5)))
    if method == "sum":
        assert not list(module.parameters())
        weight = torch.ones(2)
    else:
        nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(0))
        weight = module.weight.detach()
        weight = weight.softmax(0) if "softmax" in method else weight.relu() / (weight.relu().sum(0) + 1e-4)
    expected = (x * weight.reshape(2, 1, -1, 1, 1)).sum(0)
    torch.testing.assert_close(module(*x), expected)
    torch.testing.assert_close(fuse(module)(*x), expected)


def test_yolo_fusion_leaves_the_first_map_alone():
    x, other = maps((1, 4, 3, 3), (1, 2, 3, 3))
    kept = x.clone()
    y = create("yolo_weighted_fusion", channels=(4, 2), weighted=False)(x, other)
    assert torch.equal(x, kept)
    assert torch.equal(y, torch.cat([x[:, :2] + other, x[:, 2:]], 1))
