"""Shared forms, plain restatements and running statistics of the blocks in reference_cases_wave2_e."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy import create, fuse, ops
from attn_deploy.modules.convolution.wtconv import wavelet_filters
from attn_deploy.ops.bounded import half_range
from export_tests.helpers import as_tuple, randomize


def ramp(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * scale + torch.linspace(-1, 1, shape[-1])


def made(name, **arguments):
    return randomize(create(name, **arguments)).eval()


# Shared forms.


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_layer_norm_over_channels_in_both_ranges(scale):
    x, weight, bias = ramp(2, 7, 5, 6) * scale, ramp(7), ramp(7, seed=1)
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (7,), weight, bias, 1e-6).permute(0, 3, 1, 2)
    torch.testing.assert_close(ops.layer_norm_2d(x, 7, weight, bias), expected, rtol=1e-4, atol=1e-5)
    with half_range():
        torch.testing.assert_close(ops.layer_norm_2d(x, 7, weight, bias), expected, rtol=1e-4, atol=1e-5)
    half = ops.layer_norm_2d(x.half(), 7, weight.half(), bias.half())
    torch.testing.assert_close(half.float(), expected, rtol=1e-2, atol=2e-2)
    flat = torch.full((1, 7, 2, 2), 3.0)
    for dtype in (torch.float16, torch.float32):
        assert float(ops.layer_norm_2d(flat.to(dtype), 7, None, None).abs().max()) < 1e-2


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_relative_response_in_both_ranges(scale):
    x = ramp(2, 5, 64, 64) * scale
    x[:, 2] = 0
    norm = torch.linalg.vector_norm(x.double(), dim=(2, 3), keepdim=True)
    expected = (norm / (norm.mean(1, keepdim=True) + 1e-6)).float()
    torch.testing.assert_close(ops.relative_response(x), expected, rtol=1e-5, atol=1e-5)
    with half_range():  # the mean stands for the sum, next to the same eps
        torch.testing.assert_close(ops.relative_response(x), expected, rtol=2e-4, atol=1e-5)
    torch.testing.assert_close(ops.relative_response(x.half()).float(), expected, rtol=1e-2, atol=1e-3)
    zero = ops.relative_response(torch.zeros(1, 3, 4, 4, dtype=torch.float16))
    assert torch.equal(zero, torch.zeros_like(zero))


def test_gradient_of_an_empty_channel_is_finite():
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    made("grn", channels=3).train()(x).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("source", [1, 5, 16])
def test_linear_matrix_resizes_as_interpolate_does(source):
    line = ramp(1, 3, source)
    for length in (1, 2, 7, 15, 16, 17, 31, 64, 100):
        expected = F.interpolate(line, size=length, mode="linear", align_corners=False)
        torch.testing.assert_close(line.matmul(ops.linear_matrix(length, source, line)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("width", "divisor", "limit", "rounded"), [(12, 8, 0.9, 16), (10, 8, 0.9, 16), (10, 8, 0, 8)])
def test_make_divisible(width, divisor, limit, rounded):
    assert ops.make_divisible(width, divisor, round_limit=limit) == rounded


def test_parallel_convolutions_that_have_no_centred_place_are_refused():
    with pytest.raises(ValueError, match="no centred place"):
        ops.centred_kernel(torch.ones(1, 1, 2, 2), 5)
    with pytest.raises(ValueError, match="no centred place"):
        ops.centred_kernel(torch.ones(1, 1, 7, 7), 5)


DROPPING = ("convnext_block", "mbconv", "uib", "starnet_block", "replk_block", "replk_ffn", "unireplknet_block")


@pytest.mark.parametrize("name", [*DROPPING, "fused_mbconv", "inverted_residual", "inception_next_block"])
def test_drop_path_leaves_whole_samples_out_in_training_only(name):
    module, plain = made(name, drop_path=0.75), made(name)
    plain.load_state_dict(module.state_dict())
    x = ramp(64, 64, 3, 3)
    assert torch.equal(module(x[:2]), plain(x[:2]))
    module.train()
    kept = (module(x) - x).flatten(1).abs().amax(1) > 0
    assert 0 < int(kept.sum()) < 40


def test_drop_path_keeps_the_mean():
    layer = ops.DropPath(0.25)
    y = layer(torch.ones(4000, 2, 1))
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 4 / 3]))
    assert abs(float(y.mean()) - 1) < 0.05


# Plain restatements.


def test_hetconv_has_3x3_kernels_on_every_pth_channel():
    p, ins, outs = 4, 16, 24
    x = ramp(2, ins, 9, 8)
    for form in ("one_conv", "two_convs"):
        module = made("hetconv", in_channels=ins, out_channels=outs, p=p, deploy_form=form)
        columns = []
        for o in range(outs):
            i, j = o % p, o // p
            wide, rest = list(range(i, ins, p)), [c for c in range(ins) if c % p != i]
            y = F.conv2d(x[:, wide], module.grouped.weight[i * (outs // p) + j][None], padding=1)
            columns.append(y + F.conv2d(x[:, rest], module.pointwise[i, j][None, :, None, None]))
        for candidate in (module, fuse(module)):
            torch.testing.assert_close(candidate(x), torch.cat(columns, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("filt_size", range(1, 8))
@pytest.mark.parametrize("pad_type", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize(("stride", "pad_off"), [(2, 0), (1, 0), (3, 1)])
def test_blurpool_filters_and_pads(filt_size, pad_type, stride, pad_off):
    x = ramp(2, 3, 11, 12)
    row = torch.ones(1)
    for _ in range(filt_size - 1):
        row = F.conv1d(row[None, None], torch.ones(1, 1, 2), padding=1)[0, 0]
    kernel = torch.outer(row, row)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1, -1)
    before, after = (filt_size - 1) // 2 + pad_off, math.ceil((filt_size - 1) / 2) + pad_off
    mode = {"zero": "constant"}.get(pad_type, pad_type)
    padded = F.pad(x, (before, after, before, after), mode=mode)
    module = create("blurpool", channels=3, filt_size=filt_size, pad_type=pad_type, stride=stride, pad_off=pad_off)
    torch.testing.assert_close(module(x), F.conv2d(padded, kernel, stride=stride, groups=3), rtol=1e-5, atol=1e-5)
    assert list(module.state_dict()) == ["filt"]


@pytest.mark.parametrize(("height", "width"), [(5, 9), (2, 3), (7, 7)])
def test_coordinates_span_their_own_axes(height, width):
    x = ramp(2, 4, height, width)
    y = create("add_coords", channels=4, with_r=True)(x)
    columns = torch.linspace(-1, 1, width).expand(height, width)
    rows = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    for place, expected in enumerate((columns, rows, (columns**2 + rows**2).sqrt())):
        torch.testing.assert_close(y[:, 4 + place], expected.expand(2, -1, -1), rtol=1e-5, atol=1e-6)
    assert torch.equal(y[:, :4], x)
    module = made("coordconv", in_channels=4, out_channels=5, with_r=True, kernel_size=5, stride=2, bias=False)
    torch.testing.assert_close(module(x), module.conv(y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wt_type", ["db1", "db2"])
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(16, 24), (13, 18), (5, 7), (1, 2)])
def test_wtconv_pads_a_level_of_odd_size_by_one(wt_type, levels, height, width):
    module = made("wtconv", channels=3, kernel_size=3, wt_levels=levels, wt_type=wt_type)
    x = ramp(2, 3, height, width)
    overlap = module.wt_filter.shape[2] // 2 - 1
    low, shapes, details = x, [], []
    for conv, scale in zip(module.wavelet_convs, module.wavelet_scale, strict=True):
        shapes.append(low.shape)
        low = F.pad(low, (0, low.shape[3] % 2, 0, low.shape[2] % 2))
        bands = F.conv2d(low, module.wt_filter, stride=2, padding=overlap, groups=3)
        low = bands[:, ::4]
        details.append(scale * conv(bands))
    below = torch.zeros_like(low)
    for bands, shape in zip(reversed(details), reversed(shapes), strict=True):
        bands = bands.clone()
        bands[:, ::4] += below
        inverse = F.conv_transpose2d(bands, module.iwt_filter, stride=2, padding=overlap, groups=3)
        below = inverse[:, :, : shape[2], : shape[3]]
    expected = module.base_scale * module.base_conv(x) + below
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wt_type", ["db1", "db2"])
def test_wavelet_filters_are_orthogonal(wt_type):
    analysis, synthesis = wavelet_filters(wt_type, 2)
    gram = analysis[:4].flatten(1) @ synthesis[:4].flatten(1).T
    torch.testing.assert_close(gram, torch.eye(4), rtol=0, atol=1e-6)
    assert torch.equal(analysis[:4], analysis[4:])


def test_wtconv_gives_its_input_back_when_every_kernel_does():
    module = create("wtconv", channels=3, wt_levels=3)
    for conv in module.wavelet_convs:
        nn.init.dirac_(conv.weight, groups=conv.groups)
    with torch.no_grad():
        module.base_scale.zero_()
        for level, scale in enumerate(module.wavelet_scale):
            scale.fill_(1.0)
            if level < 2:
                scale[:, ::4] = 0  # the low band comes from the level below
    for size in ((16, 24), (13, 18), (7, 9)):
        x = ramp(2, 3, *size)
        torch.testing.assert_close(module(x), x, rtol=1e-5, atol=1e-5)


def test_pixel_shuffle_starts_without_a_checkerboard():
    torch.manual_seed(0)
    module = create("pixel_shuffle_block", in_channels=4, out_channels=3, scale=3, icnr=True)
    nn.init.zeros_(module.conv.bias)
    y = module(ramp(1, 4, 5, 6))
    assert torch.equal(y, F.interpolate(y[:, :, ::3, ::3], scale_factor=3, mode="nearest"))


@pytest.mark.parametrize("alphas", [(0.5, 0.5), (0.25, 0.5), (0.5, 0.0), (0.0, 0.5), (0.0, 0.0)])
@pytest.mark.parametrize("stride", [1, 2])
def test_octave_conv_gives_maps_of_the_widths_that_were_asked_for(alphas, stride):
    alpha_in, alpha_out = alphas
    module = made("octave_conv", in_channels=16, out_channels=24, alpha_in=alpha_in, alpha_out=alpha_out, stride=stride)
    low_in, low_out = int(16 * alpha_in), int(24 * alpha_out)
    maps = [ramp(2, 16 - low_in, 8, 12), ramp(2, low_in, 4, 6)][: 1 + bool(low_in)]
    shapes = [(2, 24 - low_out, 8 // stride, 12 // stride), (2, low_out, 4 // stride, 6 // stride)]
    assert [tuple(y.shape) for y in as_tuple(module(*maps))] == shapes[: 1 + bool(low_out)]


def test_gelu_forms():
    x = torch.linspace(-100, 100, 4001)
    exact = F.gelu(x.double())
    distances = {name: float((create(name)(x).double() - exact).abs().max()) for name in ("gelu_tanh", "gelu_quick")}
    assert distances["gelu_tanh"] == pytest.approx(4.7e-4, rel=0.02)
    assert distances["gelu_quick"] == pytest.approx(2.0e-2, rel=0.02)
    torch.testing.assert_close(create("gelu_erf", approximate="none")(x), F.gelu(x))
    with half_range():
        bounded = create("gelu_tanh")(x)
    torch.testing.assert_close(bounded, F.gelu(x, approximate="tanh"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mbconv", "fused_mbconv", "uib"])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 9), (7, 6), (1, 2)])
def test_same_padding_puts_the_odd_row_at_the_end(name, kernel, height, width):
    arguments = {"mid_kernel": kernel, "start_kernel": 0} if name == "uib" else {"kernel_size": kernel}
    module = made(name, stride=2, pad="same", **arguments)
    strided = next(m for m in module.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2))
    seen = []
    strided.register_forward_hook(lambda conv, given, result: seen.append((given[0], result)))
    x = ramp(2, 64, height, width)
    assert module(x).shape == (2, 64, -(-height // 2), -(-width // 2))
    (given, result) = seen[0]
    plain = x if name == "fused_mbconv" else module.expand(x)
    need = [max((-(-n // 2) - 1) * 2 + kernel - n, 0) for n in (height, width)]
    (rows, columns) = need
    padded = F.pad(plain, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    expected = F.conv2d(padded, strided.weight, stride=2, groups=strided.groups)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    assert given.shape[1] == strided.in_channels


def test_repvit_starts_as_its_token_mixer():
    module = create("repvit_block").eval()
    x = ramp(1, 64, 6, 5)
    torch.testing.assert_close(module(x), module.token_mixer(x), rtol=0, atol=1e-6)


# Running statistics: one step in training moves them by the momentum, towards the unbiased variance of the batch.

NORMS = {"cgnet_block": 1e-3, "cgnet_block_down": 1e-3, "mbconv:bn_eps=1e-3": 1e-3, "unireplknet_block": 1e-5}
NORMS |= dict.fromkeys(("dilated_reparam_block", "ghostv2_bottleneck", "replk_block", "repvit_block", "uib"), 1e-5)
NORMS |= dict.fromkeys(("inception_next_block", "sea_attention", "starnet_block", "fused_mbconv"), 1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_running_statistics_follow_the_batch(name):
    module = randomize(create(name)).train()
    expected = {}

    def watch(norm, given):
        x = given[0].detach()
        mean, variance = x.mean((0, 2, 3)), x.transpose(0, 1).flatten(1).var(1)
        expected[norm] = (0.9 * norm.running_mean + 0.1 * mean, 0.9 * norm.running_var + 0.1 * variance)

    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        assert norm.eps == NORMS[name]
        norm.register_forward_pre_hook(watch)
    module(ramp(4, 64, 6, 8))
    assert set(expected) == set(norms), "a BatchNorm is not called in training"
    for norm, (mean, variance) in expected.items():
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)
