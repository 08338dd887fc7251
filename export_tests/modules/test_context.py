"""What is special about the activations, context modules and the convolutions that go with them.

The properties that every module must have are in test_contract.py.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy import create, fuse, load_official_state_dict
from attn_deploy.ops import fold_bn_
from export_tests.helpers import read_vectors
from export_tests.modules.reference_cases import REFERENCE_CASES
from export_tests.modules.samples import made, maps, ramp

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
    ("strip_pooling", {"channels": 3}, "channels=3 and reduction=4"),
    ("strip_pooling", {"pool_size": (20,)}, "pool_size must hold 2 sizes"),
    ("strip_pooling", {"pool_size": (20, 0)}, r"pool_size\[1\]"),
    ("context_gating", {"channels": 0}, "channels"),
    ("effnet_block", {"mid_channels": 0}, "mid_channels"),
    ("effnet_block", {"negative_slope": math.inf}, "negative_slope"),
    ("spp", {"kernel_sizes": (5, 8)}, r"kernel_sizes\[1\] must be odd"),
    ("spp", {"kernel_sizes": ()}, "kernel_sizes"),
    ("spp", {"project": False}, "out_channels=256"),
    ("spp", {"order": "yolov8"}, "order must be one of"),
    ("spp", {"in_channels": 1}, "in_channels must be at least 2"),
    ("sppf", {"kernel_size": 4}, "kernel_size must be odd"),
    ("spp_he", {"levels": ()}, "levels"),
    ("spp_he", {"levels": (1, 0)}, r"levels\[1\]"),
    ("spp_he", {"pool": "min"}, "pool must be one of"),
    ("blaze_block", {"stride": 3}, "stride must be one of 1, 2"),
    ("blaze_block", {"kernel_size": 4}, "kernel_size must be odd"),
    ("blaze_block", {"out_channels": 32}, "out_channels=32 and in_channels=64"),
    ("blaze_block", {"tflite": True, "mid_channels": 24}, "mid_channels=24"),
    ("border_align", {"channels": 66}, "channels=66"),
    ("border_align", {"pool_size": 0}, "pool_size"),
    ("border_align", {"sampling": "roi_align"}, "sampling must be one of"),
    ("border_branch", {"border_channels": 0}, "border_channels"),
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


REFUSED_INPUTS = [
    ("seb", {}, [(1, 64, 3, 3), (1, 32, 6, 6)], "64.*32"),
    ("seb", {}, [(1, 64, 3, 3), (2, 64, 6, 6)], "batch of 1 and low one of 2"),
    ("context_gating", {}, [(2, 63)], r"\(N, 64\)"),
    ("context_gating", {}, [(64,)], r"\(64,\)"),
    ("effnet_block", {}, [(1, 64, 1, 4)], "1x4"),
    ("blaze_block", {"stride": 2}, [(1, 64, 6, 5)], "6x5"),
    ("blaze_block", {"stride": 2, "tflite": True}, [(1, 64, 5, 6)], "5x6"),
    ("border_align", {}, [(1, 64, 5, 6), (1, 3, 5)], r"\(1, 3, 5\)"),
    ("border_align", {}, [(2, 64, 5, 6), (1, 3, 4)], r"\(2, K, 4\)"),
    ("border_align", {}, [(1, 64, 5, 6), (1, 4)], r"\(1, 4\)"),
    ("border_branch", {}, [(1, 64, 5, 6), (1, 29, 4)], "30 positions"),
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


def test_depthwise_separable_conv_multiplies_and_activates():
    module = made("depthwise_separable_conv", depth_multiplier=2, norm="both", activation="relu6", padding=0)
    assert module(ramp(1, 64, 9, 8)).shape == (1, 64, 7, 6)
    assert module.depthwise[0].out_channels == 128
    assert float(module(ramp(1, 64, 9, 8, scale=100)).detach().max()) <= 6


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


def test_effnet_folds_its_last_inner_batchnorm_forward():
    module = made("effnet_block", mid_channels=32)
    fused = fuse(module)
    assert len([m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]) == 3
    x = ramp(2, 64, 7, 9)
    torch.testing.assert_close(fused(x), module(x), rtol=1e-5, atol=1e-5)
    assert module(x).shape == (2, 64, 3, 4)
    assert sum(p.numel() for p in create("effnet_block", out_channels=128).parameters()) == 21504


BLAZE = [
    ({}, 6080),
    ({"tflite": True}, 4800),
    ({"tflite": True, "stride": 2, "out_channels": 96}, None),
    ({"stride": 2, "out_channels": 96, "mid_channels": 24}, None),
]


@pytest.mark.parametrize(("arguments", "parameters"), BLAZE)
def test_blaze_block_equals_its_form_with_a_padded_skip(arguments, parameters):
    module = made("blaze_block", **arguments)
    x = ramp(2, 64, 6, 8)
    body = F.pad(x, (0, 2, 0, 2)) if module.tensorflow_padding else x
    skip = F.max_pool2d(x, 2) if module.stride == 2 else x
    skip = F.pad(skip, (0, 0, 0, 0, 0, module.out_channels - 64))
    torch.testing.assert_close(module(x), (module.second(module.first(body)) + skip).relu())
    assert parameters in (None, sum(p.numel() for p in module.parameters()))


def test_the_last_block_of_mediapipe_has_no_skip():
    module = made("blaze_block", tflite=True, stride=2, residual=False, out_channels=32)
    x = ramp(1, 64, 7, 8)
    torch.testing.assert_close(module(x), module.first(F.pad(x, (0, 2, 0, 2))).relu())


@pytest.mark.parametrize("size", [(5, 7), (20, 12), (23, 41)])
def test_strip_pooling_equals_the_adaptive_form(size):
    module = made("strip_pooling")
    x = ramp(2, 64, *size)
    x1, x2 = module.conv1_1(x), module.conv1_2(x)

    def up(conv, pooled):
        return F.interpolate(conv(pooled), size, mode="bilinear", align_corners=True)

    a = module.conv2_0(x1)
    b, d = (up(c, F.adaptive_avg_pool2d(x1, n)) for c, n in ((module.conv2_1, 20), (module.conv2_2, 12)))
    e = up(module.conv2_3, F.adaptive_avg_pool2d(x2, (1, None)))
    f = up(module.conv2_4, F.adaptive_avg_pool2d(x2, (None, 1)))
    p, q = module.conv2_5(F.relu(a + b + d)), module.conv2_6(F.relu(e + f))
    expected = F.relu(x + module.conv3(torch.cat([p, q], 1)))
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"add_batch_norm": False}, {"linear_bias": True}])
def test_context_gating_acts_at_each_position(arguments):
    module = made("context_gating", **arguments)
    x = ramp(2, 64, 3, 5)
    rows = x.permute(0, 2, 3, 1).reshape(-1, 64)
    expected = rows * torch.sigmoid(module.gate(rows))
    torch.testing.assert_close(module(rows), expected)
    expected = expected.reshape(2, 3, 5, 64).permute(0, 3, 1, 2)
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module(x.flatten(2).transpose(1, 2)), expected.flatten(2).transpose(1, 2))


def test_context_gating_takes_checkpoints_with_an_unused_batchnorm():
    module = create("context_gating", add_batch_norm=False, linear_bias=True)
    unused = {f"batch_norm.{k}": v for k, v in nn.BatchNorm1d(64).state_dict().items()}
    weights = {"fc.weight": ramp(64, 64), "fc.bias": ramp(64)}
    load_official_state_dict(module, {**weights, **unused})
    assert torch.equal(module.gate[0].weight, weights["fc.weight"])


@pytest.mark.parametrize("order", ["yolov5", "darknet"])
@pytest.mark.parametrize("kernels", [(5, 9, 13), (3, 7), (13, 5)])
def test_fused_spp_pools_in_a_chain(kernels, order):
    module = made("spp", kernel_sizes=kernels, order=order)
    fused = fuse(module)
    assert fused.chained is (kernels != (13, 5)), "a smaller window cannot be made from a larger one"
    for size in ((3, 4), (17, 22)):
        x = ramp(2, 64, *size)
        torch.testing.assert_close(fused(x), module(x), rtol=1e-5, atol=1e-5)


def test_fused_spp_is_sppf_and_shares_its_weights():
    spp, sppf = made("spp"), create("sppf")
    sppf.load_state_dict(spp.state_dict())
    x = ramp(2, 64, 15, 20)
    assert torch.equal(sppf(x), spp(x))
    assert [pool.kernel_size for pool in fuse(spp).pools] == [5, 5, 5]


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("size", [(1, 1), (5, 20), (13, 17), (32, 9)])
def test_spp_he_has_the_bins_of_adaptive_pooling(pool, size):
    levels = (6, 3, 2, 1)
    x = ramp(2, 5, *size)
    official = F.adaptive_max_pool2d if pool == "max" else F.adaptive_avg_pool2d
    expected = torch.cat([official(x, n).flatten(1) for n in levels], 1)
    torch.testing.assert_close(create("spp_he", levels=levels, pool=pool)(x), expected)


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
