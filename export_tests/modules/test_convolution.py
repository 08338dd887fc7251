"""Behaviour of single modules of the first half of the plug-and-play page: refusals, equal re-statements, fusions."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from attn_deploy import create, fuse, load_official_state_dict
from attn_deploy.ops import pad_same
from export_tests.helpers import randomize, read_vectors
from export_tests.modules.reference_cases import REFERENCE_CASES


def close(actual, expected, tolerance=1e-5):
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale)


REFUSED = [
    ("ghostmodule", {"ratio": 1}, "ratio must be at least 2, got 1"),
    ("ghostmodule", {"kernel_size": 2}, "kernel_size must be odd, got 2"),
    ("ghostmodule", {"dw_size": 4}, "dw_size must be odd, got 4"),
    ("psp", {"channels": 3}, "channels=3 and 4 bins"),
    ("psp", {"bins": (1, 0)}, "bins must be an integer of at least 1, got 0"),
    ("psp", {"bins": ()}, "bins must hold at least one"),
    ("condconv", {"num_experts": 0}, "num_experts must be an integer of at least 1, got 0"),
    ("condconv", {"groups": 3}, "in_channels=64 and groups=3"),
    ("condconv", {"out_channels": 66, "groups": 4}, "out_channels=66 and groups=4"),
    ("condconv", {"padding": "valid"}, "padding must be .* 'same', got 'valid'"),
    ("condconv", {"padding": -1}, "padding must be .* got -1"),
    ("condconv", {"kernel_size": 2, "stride": 3, "padding": "same"}, "kernel_size=2, dilation=1 and stride=3"),
    ("condconv", {"export_form": "fast"}, "export_form must be one of 'auto', 'mix_outputs', 'mix_kernels'"),
    ("ghost_bottleneck", {"dw_kernel_size": 4}, "dw_kernel_size must be odd, got 4"),
    ("ghost_bottleneck", {"se_ratio": -0.1}, "se_ratio must be at least 0, got -0.1"),
    ("ghost_bottleneck", {"mid_channels": 0}, "mid_channels must be an integer of at least 1, got 0"),
    ("dynamic_conv", {"groups": 5}, "in_channels=64 and groups=5"),
    ("dynamic_conv", {"out_channels": 63, "groups": 2}, "out_channels=63 and groups=2"),
    ("dynamic_conv", {"temperature": 0.5}, "temperature must be at least 1, got 0.5"),
    ("dynamic_conv", {"num_experts": 0}, "num_experts must be an integer of at least 1, got 0"),
    ("dynamic_conv", {"ratio": -1}, "ratio must be at least 0, got -1"),
    ("dgc", {"num_heads": 3}, "in_channels=64 and num_heads=3"),
    ("dgc", {"out_channels": 66}, "out_channels=66 and num_heads=4"),
    ("dgc", {"gate_factor": 0}, "gate_factor must be above 0 and at most 1, got 0"),
    ("dgc", {"gate_factor": 1.5}, "got 1.5"),
    ("dgc", {"reduction": 256}, "in_channels=64 and reduction=256"),
    ("dgc", {"inactive_channels": 64}, "got 64 with in_channels=64"),
    ("acblock", {"kernel_size": 4}, "kernel_size must be odd, got 4"),
    ("acblock", {"groups": 3}, "in_channels=64 and groups=3"),
    ("acblock", {"reduce_gamma": True, "gamma_init": 0.5}, "reduce_gamma and gamma_init=0.5"),
    ("acblock", {"padding": 0, "padding_mode": "reflect"}, "padding_mode='reflect' needs a padding of at least 1"),
    ("acblock", {"padding_mode": "same"}, "padding_mode must be one of"),
    ("doconv", {"groups": 3}, "in_channels=64 and groups=3"),
    ("doconv", {"padding_mode": "same"}, "padding_mode must be one of .* got 'same'"),
    ("doconv", {"depth_multiplier": 8}, "depth_multiplier=8 and a kernel of 3x3: use 9"),
    ("psconv", {"parts": 3}, "parts must be even, got 3"),
    ("psconv", {"in_channels": 66}, "in_channels=66 and groups . parts=4"),
    ("psgconv", {"out_channels": 72}, "out_channels=72 and groups . parts=16"),
    ("psconv", {"kernel_size": 5}, "got kernel_size=5 and padding=1"),
    ("psconv", {"padding": 0}, "got kernel_size=3 and padding=0"),
    ("psconv", {"deploy_form": "none"}, "deploy_form must be one of 'two_convs', 'one_conv'"),
    ("spconv", {"stride": 3}, "stride must be one of 1, 2, got 3"),
    ("spconv", {"in_channels": 6}, "must be a multiple of the group count, got int.in_channels . ratio.=3"),
    ("spconv", {"out_channels": 7}, "out_channels=7"),
    ("spconv", {"ratio": 0.01}, "in_channels=64 and ratio=0.01"),
    ("spconv", {"ratio": 1}, "in_channels=64 and ratio=1"),
    ("pyconv", {"kernel_sizes": (3, 5)}, "got 2, 2 and 4"),
    ("pyconv", {"out_channels": 32}, "out_channels=8 and groups=16"),
    ("pyconv", {"out_channels": 66}, "out_channels must be a multiple of 4 for 4 levels, got 66"),
    ("pyconv", {"in_channels": 72}, "in_channels=72 and groups=16"),
    ("pyconv", {"kernel_sizes": (3, 4, 5, 7)}, "kernel_sizes must be odd, got 4"),
    ("pyconv", {"kernel_sizes": (1, 1, 1, 1, 1), "groups": (1,) * 5}, "1 to 4 levels, got 5"),
    ("slimconv", {"channels": 66}, "multiple of the fold count, got channels=66"),
    ("slimconv", {"channels": 28}, "channels=28 and reduction=32"),
    ("slimconv", {"groups": 3}, "channels // 2=32 and groups=3"),
    ("slimconv", {"groups": 32}, "channels // 4=16 and groups=32"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_bad_arguments_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create(name, **arguments)


@pytest.mark.parametrize(
    ("out_channels", "ratio", "filters_left"),
    [(64, 2, 32), (49, 2, 24), (50, 3, 34), (49, 3, 32), (6, 5, 4), (1, 2, 1)],
)
def test_unused_ghost_filters_are_dropped(out_channels, ratio, filters_left):
    module = randomize(create("ghostmodule", out_channels=out_channels, ratio=ratio))
    x = torch.randn(2, 64, 9, 7)
    with torch.no_grad():
        whole = torch.cat((module.primary(x), module.cheap(module.primary(x))), 1)[:, :out_channels]
        assert torch.equal(module(x), whole)
        deployed = fuse(module)
        close(deployed(x), whole)
    assert deployed.cheap[0].out_channels == filters_left
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in deployed.modules())


@pytest.mark.parametrize(
    ("stride", "out_channels", "ratio"), [(1, 24, 0.0), (1, 24, 0.25), (2, 24, 0.25), (1, 40, 0.3)]
)
def test_ghost_bottleneck_is_the_plain_statement(stride, out_channels, ratio):
    module = create(
        "ghost_bottleneck", in_channels=24, out_channels=out_channels, mid_channels=72, stride=stride, se_ratio=ratio
    )
    randomize(module)
    x = torch.randn(2, 24, 9, 12)

    def normed(bn, y):
        return F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    def ghost(m, y, relu):
        act = F.relu if relu else torch.nn.Identity()
        primary = act(normed(m.primary[1], F.conv2d(y, m.primary[0].weight)))
        weight = m.cheap[0].weight
        cheap = F.conv2d(primary, weight, padding=1, groups=primary.shape[1])
        return torch.cat((primary, act(normed(m.cheap[1], cheap))), 1)

    with torch.no_grad():
        y = ghost(module.expand, x, True)
        if stride > 1:
            conv, bn = module.depthwise
            y = normed(bn, F.conv2d(y, conv.weight, stride=stride, padding=1, groups=72))
        if ratio:
            first, _, second, _ = module.se
            assert first.out_channels == {0.25: 20, 0.3: 20}[ratio]  # 18 and 21.6 to a multiple of 4
            gate = F.relu(F.conv2d(F.adaptive_avg_pool2d(y, 1), first.weight, first.bias))
            y = y * F.relu6(F.conv2d(gate, second.weight, second.bias) + 3) / 6
        y = ghost(module.project, y, False)
        close(module(x), y + module.shortcut(x))
    assert isinstance(module.shortcut, torch.nn.Identity) == (stride == 1 and out_channels == 24)


def test_ghost_bottleneck_loads_the_official_keys():
    module = create("ghost_bottleneck", in_channels=24, out_channels=40, mid_channels=72, stride=2, se_ratio=0.25)
    other = randomize(
        create("ghost_bottleneck", in_channels=24, out_channels=40, mid_channels=72, stride=2, se_ratio=0.25)
    )
    names = {
        "expand.primary": "ghost1.primary_conv",
        "expand.cheap": "ghost1.cheap_operation",
        "project.primary": "ghost2.primary_conv",
        "project.cheap": "ghost2.cheap_operation",
        "depthwise.0": "conv_dw",
        "depthwise.1": "bn_dw",
        "se.0": "se.conv_reduce",
        "se.2": "se.conv_expand",
    }
    official = {}
    for key, value in other.state_dict().items():
        ours = next((n for n in names if key.startswith(f"{n}.")), None)
        official[key.replace(ours, names[ours], 1) if ours else key] = value
    assert {k.split(".")[0] for k in official} == {"ghost1", "ghost2", "conv_dw", "bn_dw", "se", "shortcut"}
    load_official_state_dict(module, official)
    x = torch.randn(1, 24, 8, 8)
    assert torch.equal(module(x), other(x))


@pytest.mark.parametrize("size", [(6, 6), (13, 17), (4, 5), (1, 3)])
def test_pyramid_pooling_is_the_plain_statement(size):
    module = randomize(create("psp", channels=12, reduced_channels=5, bins=(1, 2, 3, 6)))
    x = torch.randn(2, 12, *size)
    with torch.no_grad():
        expected = [x]
        for cells, level in zip((1, 2, 3, 6), module.levels, strict=True):
            y = level(F.adaptive_avg_pool2d(x, cells))
            expected.append(F.interpolate(y, size, mode="bilinear", align_corners=True))
        close(module(x), torch.cat(expected, 1))


def test_same_padding_refuses_a_kernel_shorter_than_its_stride():
    with pytest.raises(ValueError, match="stride=3"):
        pad_same(torch.zeros(1, 1, 6, 6), 2, stride=3)


def fuses_exactly(module, size=(11, 14)):
    x = torch.randn(2, module.in_channels, *size)
    with torch.no_grad():
        expected = randomize(module)(x)
        fused = fuse(module)
        close(fused(x), expected)
    return fused


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": 1},
        {"padding": 2, "dilation": 2},
        {"padding": 1, "dilation": 3, "kernel_size": 5},
        {"padding": 4, "stride": 3, "groups": 2},
        {"padding": 1, "use_affine": False},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "circular", "stride": 2},
        {"padding": 1, "reduce_gamma": True},
    ],
    ids=str,
)
def test_asymmetric_branches_are_one_convolution(arguments):
    module = create("acblock", in_channels=8, out_channels=12, **arguments)
    if arguments.get("reduce_gamma"):
        assert torch.equal(module.square[1].weight, torch.full((12,), 1 / 3))
    fuses_exactly(module, (13, 17))


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 2, "padding_mode": "circular", "stride": 2},
        {"kernel_size": (3, 5), "padding": 2, "depth_multiplier": 33},
        {"groups": 4, "dilation": 2, "bias": False},
        {"kernel_size": 1, "padding": 0, "depth_multiplier": 1},
    ],
    ids=str,
)
def test_over_parameterised_kernel_is_a_plain_one(arguments):
    fuses_exactly(create("doconv", in_channels=8, out_channels=12, **arguments))


def test_over_parameterised_kernel_starts_as_its_full_factor():
    module = create("doconv", in_channels=8, out_channels=12)
    assert torch.equal(module.effective_weight().flatten(2), module.kernel)


@pytest.mark.parametrize("stem", [s for s in REFERENCE_CASES if s.startswith(("psconv", "psgconv"))])
def test_masks_are_the_official_ones(stem, reference_folder):
    name, arguments = REFERENCE_CASES[stem]
    module = create(name, **arguments)
    mask = torch.from_numpy(read_vectors(reference_folder / f"{stem}.npz")["extra"]["mask"])
    assert torch.equal(module.masked, mask)
    assert not module.dense.weight[mask].any()


def test_intended_mask_is_half_of_each_group():
    for groups in (1, 2, 4, 8):
        module = create("psgconv", groups=groups)
        assert float(module.masked.float().mean()) == 0.5
    assert float(create("psgconv", groups=8, official_mask=True).masked.float().mean()) < 0.5


def test_masked_weights_get_no_gradient_even_in_a_copy():
    module = copy.deepcopy(create("psconv")).train()
    module(torch.randn(1, 64, 6, 6)).square().sum().backward()
    assert not module.dense.weight.grad[module.masked].any()
    assert module.dense.weight.grad[~module.masked].all()


@pytest.mark.parametrize(("form", "left"), [("two_convs", 2), ("one_conv", 1)])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"groups": 2, "bias": True}, {"stride": 2, "parts": 2}, {"groups": 4, "stride": 2, "bias": True}],
    ids=str,
)
def test_poly_scale_convolutions_merge(arguments, form, left):
    module = create("psconv", in_channels=16, out_channels=32, deploy_form=form, **arguments)
    with torch.no_grad():
        module.dense.weight.normal_()  # loaded weights are used as they are, masked or not
    fused = fuses_exactly(module)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in fused.modules()) == left


def test_dilated_poly_scale_convolution_merges_into_a_larger_kernel():
    assert fuses_exactly(create("psconv", dilation=2, deploy_form="one_conv"), (15, 18)).dense.kernel_size == (9, 9)
    assert fuses_exactly(create("psconv", dilation=2)).grouped is not None


@pytest.mark.parametrize(("form", "left"), [("two_convs", 3), ("one_conv", 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_split_convolution_folds(stride, form, left):
    module = create("spconv", in_channels=24, out_channels=32, stride=stride, ratio=0.75, deploy_form=form)
    fused = fuses_exactly(module, (10, 14))
    layers = [m for m in fused.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.BatchNorm2d))]
    assert len(layers) == left


def test_split_convolution_blends_by_a_softmax():
    module = randomize(create("spconv"))
    x = torch.randn(1, 64, 6, 8)
    with torch.no_grad():
        a = module.bn1(module.grouped(x[:, :32]) + module.pointwise(x[:, :32]))
        b = module.bn2(module.redundant(x[:, 32:]))
        weights = torch.stack((a.mean((2, 3)), b.mean((2, 3))), 2).softmax(2)[..., None, None]
        close(module(x), a * weights[:, :, 0] + b * weights[:, :, 1])


def test_strided_split_convolution_refuses_odd_sizes():
    with pytest.raises(ValueError, match="even H and W, got an input of 9x8: pad it to 10x8"):
        create("spconv", stride=2)(torch.zeros(1, 64, 9, 8))


def test_pyramid_levels_agree_in_size_when_dilated():
    module = create("pyconv", dilation=2, stride=2)
    x = torch.randn(1, 64, 11, 14)
    assert module(x).shape == (1, 64, 6, 7)
    assert [level.out_channels for level in module.levels] == [16, 16, 16, 16]
    assert [level.out_channels for level in create("pyconv3").levels] == [16, 16, 32]


def test_recombined_features_are_the_plain_statement():
    module = randomize(create("slimconv", stride=2, groups=2))
    x = torch.randn(2, 64, 9, 8) + torch.linspace(-1, 1, 64).reshape(1, 64, 1, 1)
    with torch.no_grad():
        gate = torch.sigmoid(module.gate(F.adaptive_avg_pool2d(x, 1)))
        folded = [sum((g * x).split(32, 1)) for g in (gate, gate.flip(1))]
        close(module(x), torch.cat((module.wide(folded[0]), module.narrow(folded[1])), 1))
