"""ECA, CBAM, non-local, criss-cross, GSoP, LightNL, SK and GC: what the contract over the registry cannot know."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy import create, fuse
from attn_deploy.modules.attention.cbam import CBAM, POOLS, ChannelGate, SpatialGate
from attn_deploy.modules.attention.criss_cross import CrissCrossAttention, RCCAModule, RecurrentCrissCrossAttention
from attn_deploy.modules.attention.eca import ECA, ECANonShared, adaptive_kernel_size
from attn_deploy.modules.attention.gc import GlobalContextBlock
from attn_deploy.modules.attention.gsop import GSoPBlock
from attn_deploy.modules.attention.light_nl import LightNonLocal
from attn_deploy.modules.attention.non_local import MODES, NonLocalBlock
from attn_deploy.modules.attention.selective_kernel import SelectiveKernelConv
from export_tests.helpers import randomize


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same(actual, expected):
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * scale)


REFUSED = [
    (ECA, {"channels": 0}, "channels"),
    (ECA, {"channels": 64, "kernel_size": 4}, "kernel_size must be odd, got 4"),
    (ECA, {"channels": 64, "kernel_size": 0}, "kernel_size"),
    (ECANonShared, {"channels": 64, "kernel_size": 2}, "kernel_size must be odd"),
    (ChannelGate, {"channels": 8}, "channels=8 and reduction=16"),
    (ChannelGate, {"channels": 64, "pool_types": ()}, "pool_types must name at least one"),
    (CBAM, {"channels": 64, "pool_types": ("avg", "median")}, "pool_types must be one of .*'median'"),
    (CBAM, {"channels": 64, "reduction": 128}, "channels // reduction"),
    (SpatialGate, {"channels": 0}, "channels"),
    (NonLocalBlock, {"channels": 64, "mode": "laplace"}, "mode must be one of .*'laplace'"),
    (NonLocalBlock, {"channels": 64, "inter_channels": 0}, "inter_channels"),
    (CrissCrossAttention, {"channels": 7}, "at least 8, got channels=7"),
    (RecurrentCrissCrossAttention, {"channels": 64, "recurrence": 0}, "recurrence"),
    (RCCAModule, {"in_channels": 31, "out_channels": 8, "num_classes": 2}, "at least 32, got in_channels=31"),
    (RCCAModule, {"in_channels": 64, "out_channels": 8, "num_classes": 2, "recurrence": 0}, "recurrence"),
    (GSoPBlock, {"channels": 64, "mode": "+"}, "mode must be one of"),
    (GSoPBlock, {"channels": 32, "mode": "concat"}, "at least 64, got channels=32"),
    (GSoPBlock, {"channels": 200, "mode": "concat"}, "channels=200 and channels // 64=3"),
    (LightNonLocal, {"channels": 4, "nl_ratio": 0.2}, "channels=4 and nl_ratio=0.2"),
    (LightNonLocal, {"channels": 64, "nl_ratio": 1.5}, "nl_ratio"),
    (LightNonLocal, {"channels": 64, "nl_ratio": 0}, "nl_ratio"),
    (LightNonLocal, {"channels": 64, "nl_stride": 0}, "nl_stride"),
    (SelectiveKernelConv, {"channels": 48}, "channels=48 and groups=32"),
    (SelectiveKernelConv, {"channels": 64, "branches": 1}, "branches must be at least 2"),
    (SelectiveKernelConv, {"channels": 64, "dilations": (1, 2, 3)}, "one value for each branch"),
    (GlobalContextBlock, {"channels": 8}, "channels=8 and ratio=0.0625"),
    (GlobalContextBlock, {"channels": 64, "fusion_types": ()}, "fusion_types must name at least one"),
    (GlobalContextBlock, {"channels": 64, "fusion_types": ("add",)}, "fusion_types must be one of"),
    (GlobalContextBlock, {"channels": 64, "pooling_type": "max"}, "pooling_type must be one of"),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), REFUSED)
def test_bad_arguments_are_refused(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_a_map_too_small_to_halve_is_refused():
    with pytest.raises(ValueError, match="H and W of at least 2, got 1x5"):
        NonLocalBlock(8)(noise(1, 8, 1, 5))
    assert NonLocalBlock(8, sub_sample=False)(noise(1, 8, 1, 5)).shape == (1, 8, 1, 5)


IDENTITIES = [
    *[(NonLocalBlock, {"channels": 16, "mode": mode, "bn_layer": bn}) for mode in MODES for bn in (True, False)],
    (LightNonLocal, {"channels": 16}),
    (CrissCrossAttention, {"channels": 16}),
    (GlobalContextBlock, {"channels": 16}),
]


@pytest.mark.parametrize(("cls", "arguments"), IDENTITIES)
def test_starts_as_an_identity(cls, arguments):
    x = noise(2, 16, 6, 7)
    assert torch.equal(cls(**arguments).eval()(x), x)


# ECA


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (16, 3), (64, 3), (256, 5), (512, 5), (2048, 7)])
def test_eca_adaptive_kernel(channels, size):
    half = int(abs(math.log2(channels) + 1) / 2)
    assert adaptive_kernel_size(channels) == size == (half if half % 2 else half + 1)
    assert ECA(channels, kernel_size=None).conv.weight.numel() == size


@pytest.mark.parametrize("size", [1, 3, 5])
def test_eca_windows_are_those_of_unfold(size):
    x = noise(2, 12, 5, 4)
    module = ECANonShared(12, kernel_size=size)
    windows = F.pad(x.mean((2, 3)), [size // 2] * 2).unfold(1, size, 1)
    assert_same(module(x), x * (windows * module.weight[:, 0]).sum(2).sigmoid()[:, :, None, None])


# CBAM


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 3, 1, 6), (1, 2, 1, 1)])
def test_cbam_poolings(shape):
    x = noise(*shape) * 3
    flat = x.flatten(2)
    expected = {"avg": flat.mean(2), "max": flat.amax(2), "lp": flat.norm(dim=2), "lse": flat.logsumexp(2)}
    for name, value in expected.items():
        assert_same(POOLS[name](x).flatten(1), value)


def test_cbam_lp_pool_of_zeros_has_a_gradient_and_large_values_stay_in_the_range_of_half():
    x = torch.zeros(1, 2, 4, 4, requires_grad=True)
    POOLS["lp"](x).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    half = torch.full((1, 1, 64, 64), 100.0, dtype=torch.half)
    assert POOLS["lp"](half).item() == pytest.approx(6400, rel=1e-2)
    assert POOLS["lse"](half).item() == pytest.approx(100 + math.log(4096), rel=1e-2)


@pytest.mark.parametrize("pool_types", [("avg",), "max", ("max", "lse", "avg")])
def test_cbam_counts_the_second_bias_once_for_each_pooling(pool_types):
    module = randomize(ChannelGate(32, pool_types=pool_types)).eval()
    x = noise(2, 32, 6, 5)
    names = (pool_types,) if isinstance(pool_types, str) else pool_types
    logits = sum(module.expand(module.reduce(POOLS[name](x)).relu()) for name in names)
    assert_same(module(x), x * logits.sigmoid())
    assert_same(fuse(module)(x), x * logits.sigmoid())


def test_cbam_official_initialisation_and_no_spatial():
    module = CBAM(64, zero_init_spatial_bn=True).eval()
    assert module.spatial.mix[1].weight.item() == 0
    assert not any(p.any() for n, p in module.named_parameters() if n.endswith("bias"))
    x = noise(2, 64, 5, 5)
    assert_same(module(x), module.channel(x) * 0.5)
    assert sum(p.numel() for p in CBAM(64, no_spatial=True).parameters()) == 580


# Non-local


def non_local_by_definition(module, x):
    """The pairwise tensor in full, one line for each of the official files."""
    pool = F.max_pool2d if module.sub_sample else (lambda t, _: t)
    g = pool(module.g(x), 2).flatten(2)
    if module.mode == "gaussian":
        pairs = (x.flatten(2).transpose(1, 2) @ pool(x, 2).flatten(2)).softmax(2)
    else:
        theta, phi = module.theta(x).flatten(2), pool(module.phi(x), 2).flatten(2)
        if module.mode == "embedded_gaussian":
            pairs = (theta.transpose(1, 2) @ phi).softmax(2)
        elif module.mode == "dot_product":
            pairs = theta.transpose(1, 2) @ phi / phi.shape[2]
        else:
            weight = torch.cat([module.theta_score.weight, module.phi_score.weight], 1)
            p, q = theta.shape[2], phi.shape[2]
            joint = torch.cat([theta[..., None].expand(-1, -1, p, q), phi[:, :, None].expand(-1, -1, p, q)], 1)
            pairs = F.conv2d(joint, weight)[:, 0].relu() / q
    y = (pairs @ g.transpose(1, 2)).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
    return x + module.project(y)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sub_sample", [True, False])
@pytest.mark.parametrize("bn_layer", [True, False])
def test_non_local_by_definition(mode, sub_sample, bn_layer):
    module = NonLocalBlock(12, mode=mode, inter_channels=5, sub_sample=sub_sample, bn_layer=bn_layer)
    randomize(module.eval())
    x = noise(2, 12, 7, 10)
    expected = non_local_by_definition(module, x)
    assert_same(module(x), expected)
    fused = fuse(module)
    assert_same(fused(x), expected)
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]


def test_non_local_gaussian_stays_finite_in_half():
    module = randomize(NonLocalBlock(64, mode="gaussian")).eval()
    x = noise(1, 64, 8, 8).clamp(-2, 2) * 50
    with torch.no_grad():
        got, expected = module.half()(x.half()).float(), module.float()(x)
    assert torch.isfinite(got).all()
    assert float((got - expected).abs().max()) < 0.02 * float(expected.abs().max())


@pytest.mark.parametrize("channels", [1, 3])
def test_non_local_at_few_channels(channels):
    assert NonLocalBlock(channels)(noise(1, channels, 4, 4)).shape == (1, channels, 4, 4)


# Criss-cross


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (4, 1), (1, 1)])
def test_criss_cross_by_definition(size):
    module = randomize(CrissCrossAttention(16)).eval()
    height, width = size
    x = noise(2, 16, height, width) * 5
    q, k, v = module.query_conv(x), module.key_conv(x), module.value_conv(x)
    expected = x.clone()
    for i in range(height):
        for j in range(width):
            path = [(h, j) for h in range(height) if h != i] + [(i, w) for w in range(width)]
            keys = torch.stack([k[:, :, h, w] for h, w in path], 2)
            values = torch.stack([v[:, :, h, w] for h, w in path], 2)
            weights = (q[:, :, i, j].unsqueeze(1) @ keys).softmax(2)
            expected[:, :, i, j] += module.gamma * (values * weights).sum(2)
    assert_same(module(x), expected)
    assert_same(fuse(module)(x), expected)


def test_rcca_shares_its_weights_over_the_passes():
    module = randomize(RecurrentCrissCrossAttention(16, recurrence=3)).eval()
    x = noise(1, 16, 5, 6)
    assert_same(module(x), module.cca(module.cca(module.cca(x))))
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in module.cca.parameters())


def test_rcca_head_scales_by_the_absolute_weight_and_folds_it():
    module = randomize(create("rcca_head")).eval()
    abn = module.conva[1]
    x = noise(2, 16, 3, 4)
    with torch.no_grad():
        abn.weight.neg_()
        normal = (x - abn.running_mean[:, None, None]) / (abn.running_var + abn.eps).sqrt()[:, None, None]
        scaled = normal * (abn.weight.abs() + abn.eps)[:, None, None] + abn.bias[:, None, None]
        assert_same(abn(x), F.leaky_relu(scaled, 0.01))
        whole = noise(1, 64, 6, 7)
        fused = fuse(module)
        assert_same(fused(whole), module(whole))
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]


def test_rcca_head_trains_on_batch_statistics():
    module = create("rcca_head").train()
    before = module.conva[1].running_mean.clone()
    module(noise(2, 64, 6, 6))
    assert not torch.equal(module.conva[1].running_mean, before)


# GSoP


def test_gsop_channel_gate_reads_the_biased_covariance():
    module = randomize(GSoPBlock(32, att_dim=8)).eval()
    x = noise(2, 32, 9, 11)
    gate = module.channel_gate
    y = gate.reduce(x.relu()).flatten(2)
    covariance = torch.stack([torch.cov(sample, correction=0) for sample in y]).unsqueeze(3)
    logits = gate.expand(gate.rows.conv(gate.rows.bn(covariance)))
    assert_same(module(x), x * logits.sigmoid())


@pytest.mark.parametrize("size", [(9, 13), (8, 8), (3, 20), (1, 1)])
def test_gsop_position_gate_with_pytorchs_adaptive_pooling(size):
    module = randomize(GSoPBlock(16, att_dim=8, mode="position")).eval()
    x = noise(2, 16, *size)
    gate = module.position_gate
    y = F.adaptive_avg_pool2d(gate.reduce(x.relu()), 8).flatten(2)
    total = y.sum(1, keepdim=True)
    second_order = (y.transpose(1, 2) @ y - total.transpose(1, 2) @ total / 64) / 64
    logits = gate.expand(gate.rows.conv(gate.rows.bn(second_order.unsqueeze(3))).relu())
    grid = logits.sigmoid().reshape(2, 1, 8, 8)
    assert_same(module(x), (x * F.adaptive_avg_pool2d(grid, size)).relu())


@pytest.mark.parametrize(("channels", "kernel"), [(64, 15), (128, 13), (256, 11), (512, 9)])
def test_gsop_concat_kernels(channels, kernel):
    join = GSoPBlock(channels, att_dim=4, mode="concat").join_channel
    assert join.kernel_size == (kernel, 1)
    assert join.padding == (kernel // 2, 0)
    assert join.groups == channels // 64


@pytest.mark.parametrize(("channels", "stride"), [(64, 2), (256, 2), (272, 1)])
def test_gsop_default_stride(channels, stride):
    assert GSoPBlock(channels, att_dim=4).channel_gate.reduce[0].stride == (stride, stride)


@pytest.mark.parametrize("mode", ["channel", "position", "avg", "concat"])
def test_gsop_leaves_no_batch_norm_when_fused(mode):
    fused = fuse(randomize(GSoPBlock(64, att_dim=8, mode=mode)))
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]


# LightNL


@pytest.mark.parametrize(
    ("ratio", "stride", "port"), [(1.0, 1, False), (0.5, 2, False), (0.25, 3, False), (0.5, 2, True)]
)
def test_light_nl_by_definition(ratio, stride, port):
    module = randomize(LightNonLocal(8, nl_ratio=ratio, nl_stride=stride, port_scaling=port)).eval()
    x = noise(2, 8, 7, 9)
    width = int(ratio * 8)
    g = x[:, :, ::stride, ::stride].flatten(2)
    affinity = x[:, :width].flatten(2).transpose(1, 2) @ g[:, :width]
    y = g @ affinity.transpose(1, 2) * (9 / 7 if port else 1 / 63)
    expected = x + module.bn(module.conv(y.reshape(x.shape)))
    assert_same(module(x), expected)
    assert_same(fuse(module)(x), expected)


# SK


@pytest.mark.parametrize("arguments", [{}, {"branches": 3, "stride": 2}, {"groups": (1, 8), "dilations": (1, 1)}])
def test_sk_by_definition(arguments):
    module = randomize(SelectiveKernelConv(16, **{"groups": 4, **arguments})).eval()
    x = noise(2, 16, 9, 8)
    maps = torch.stack([branch(x) for branch in module.branches], 1)
    logits = module.select(module.squeeze(maps.sum(1).mean((2, 3), keepdim=True)))
    weights = logits.reshape(2, len(module.branches), 16).softmax(1)
    expected = (maps * weights[..., None, None]).sum(1)
    assert_same(module(x), expected)
    assert_same(fuse(module)(x), expected)


def test_sk_widths():
    module = SelectiveKernelConv(1024)
    assert module.squeeze[0].out_channels == 64
    assert [b[0].dilation for b in module.branches] == [(1, 1), (2, 2)]
    assert fuse(module).select.out_channels == 1024


# GC


@pytest.mark.parametrize("pooling_type", ["att", "avg"])
@pytest.mark.parametrize("fusion_types", [("channel_add",), ("channel_mul",), ("channel_add", "channel_mul")])
def test_gc_by_definition(pooling_type, fusion_types):
    module = randomize(GlobalContextBlock(32, pooling_type=pooling_type, fusion_types=fusion_types)).eval()
    x = noise(2, 32, 5, 6)
    mask = module.conv_mask(x).flatten(2).softmax(2) if pooling_type == "att" else torch.full((2, 1, 30), 1 / 30)
    context = (x.flatten(2) * mask).sum(2)[:, :, None, None]

    def transformed(branch):
        hidden = branch.reduce(context).flatten(1)
        normal = F.layer_norm(hidden, hidden.shape[1:], branch.weight, branch.bias)
        return branch.expand(normal.relu()[:, :, None, None])

    expected = x * transformed(module.mul).sigmoid() if "channel_mul" in fusion_types else x
    expected = expected + transformed(module.add) if "channel_add" in fusion_types else expected
    assert_same(module(x), expected)
    assert_same(fuse(module)(x), expected)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"ratio": 1 / 4}, 2225),
        ({"fusion_types": ("channel_add", "channel_mul")}, 1241),
        ({"pooling_type": "avg"}, 588),
    ],
)
def test_gc_parameter_counts(arguments, count):
    assert sum(p.numel() for p in GlobalContextBlock(64, **arguments).parameters()) == count
