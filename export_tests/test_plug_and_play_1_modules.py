"""Behaviour of single modules of the first half of the plug-and-play page: refusals, equal re-statements, fusions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from attn_deploy import create, fuse
from attn_deploy.ops import cheaper_form, pad_same

from .helpers import randomize


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
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_bad_arguments_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create(name, **arguments)


# Ghost module


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


# PSP


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


# CondConv and what it shares with dynamic convolution

CONVOLUTIONS = [
    {},
    {"bias": True, "out_channels": 8},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2, "padding": 0, "groups": 2},
    {"kernel_size": 5, "stride": 2, "dilation": 2, "groups": 4, "bias": True},
    {"stride": 3, "groups": 16, "num_experts": 8},
    {"kernel_size": 2, "padding": 1},
    {"padding": "same", "stride": 2},
    {"padding": "same", "kernel_size": 4, "stride": 3, "bias": True},
]


@pytest.mark.parametrize("form", ["mix_outputs", "mix_kernels"])
@pytest.mark.parametrize("arguments", CONVOLUTIONS, ids=str)
def test_both_export_forms_are_the_convolution_of_each_sample(arguments, form):
    module = randomize(create("condconv", **{"in_channels": 16, "out_channels": 16, **arguments}, export_form=form))
    experts = module.experts
    x = torch.randn(3, 16, 11, 14)
    with torch.no_grad():
        routing = (x.mean((2, 3)) @ module.routing.weight.T + module.routing.bias).sigmoid()
        y = []
        for sample, weights in zip(x, routing, strict=True):
            kernel = (weights.reshape(-1, 1, 1, 1, 1) * experts.weight).sum(0)
            bias = None if experts.bias is None else weights @ experts.bias
            given, padding = sample[None], experts.padding
            if padding == "same":
                given, padding = pad_same(given, experts.kernel_size, stride=experts.stride), 0
            y.append(F.conv2d(given, kernel, bias, experts.stride, padding, experts.dilation, experts.groups))
        close(module(x), torch.cat(y))
        close(fuse(module)(x), torch.cat(y))


def test_one_routing_vector_can_serve_several_convolutions():
    owner = randomize(create("condconv"))
    served = randomize(create("condconv", routing=False))
    x = torch.randn(2, 64, 5, 6)
    weights = owner.route(x)
    assert torch.equal(owner(x, weights), owner(x))
    assert served(x, weights).shape == x.shape
    with pytest.raises(ValueError, match=r"routing_weights of shape \(N, num_experts\)"):
        served(x)


def test_automatic_export_form_follows_the_stated_rule():
    assert cheaper_form(4, 64, 64, 1, 1) == "mix_kernels"  # nothing to unroll
    assert cheaper_form(4, 64, 64, 3, 64) == "mix_outputs"  # depthwise: hardly any work to save
    assert cheaper_form(8, 512, 512, 3, 1) == "mix_kernels"  # eight times the work is too much
    assert create("condconv", kernel_size=1).experts.export_form == "mix_kernels"
    assert create("condconv", export_form="mix_outputs", kernel_size=1).experts.export_form == "mix_outputs"


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (3, 1), (4, 1), (3, 2), (7, 1)])
def test_same_padding_is_that_of_tensorflow(kernel_size, dilation, stride):
    reach = dilation * (kernel_size - 1)
    kernel = torch.randn(1, 1, kernel_size, kernel_size)
    for height in range(1, 12):
        x = torch.randn(1, 1, height, height + 3)
        around = []
        for extent in (height + 3, height):
            total = max((-(-extent // stride) - 1) * stride + reach + 1 - extent, 0)
            around += [total // 2, total - total // 2]
        expected = F.conv2d(F.pad(x, around), kernel, stride=stride, dilation=dilation)
        got = F.conv2d(pad_same(x, kernel_size, stride=stride, dilation=dilation), kernel, None, stride, 0, dilation)
        torch.testing.assert_close(got, expected)


def test_same_padding_refuses_a_kernel_shorter_than_its_stride():
    with pytest.raises(ValueError, match="stride=3"):
        pad_same(torch.zeros(1, 1, 6, 6), 2, stride=3)
