"""Attention and convolution that mix positions: shared forms, variants, refusals, exports."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy import create, export, ops
from attn_deploy.errors import InvalidRequestError
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import randomize

# The shared forms.


def test_group_and_layer_norm():
    x = torch.randn(2, 12, 5, 7) * 3 + 2
    for groups in (1, 3, 12):
        ours, theirs = randomize(ops.GroupNorm2d(groups, 12)), nn.GroupNorm(groups, 12)
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    ours, theirs = randomize(ops.LayerNormOverChannels(12, eps=1e-5)), nn.LayerNorm(12)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(8, 12), (9, 13), (10, 11), (2, 5)])
def test_pooling_over_the_end(side, size):
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(ops.ceil_avg_pool2d(x, side), F.avg_pool2d(x, side, side, ceil_mode=True))


@pytest.mark.parametrize(("block", "halo"), [(4, 1), (2, 3), (3, 0)])
def test_windows_with_a_halo(block, halo):
    x, window = torch.randn(2, 6, 12, 24), block + 2 * halo
    expected = F.pad(x, (halo,) * 4).unfold(2, window, block).unfold(3, window, block)  # (N, C, rows, columns, y, x)
    expected = expected.reshape(2, 3, 2, -1, window * window).permute(0, 1, 3, 4, 2)
    assert torch.equal(ops.halo_tokens(x, 3, block, halo), expected)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_patches(side):
    x = torch.randn(2, 5, 6 * side, 4 * side)
    expected = F.unfold(x, side, stride=side).reshape(2, 5, side * side, -1)
    assert torch.equal(ops.split_patches(x, side, channels_first=True), expected)
    assert torch.equal(ops.split_patches(x, side), expected.permute(0, 2, 3, 1))
    assert torch.equal(ops.merge_patches(expected, side, x.shape[2:], channels_first=True), x)
    assert torch.equal(ops.merge_patches(expected.permute(0, 2, 3, 1), side, x.shape[2:]), x)


def test_regions():
    regions, index = torch.randn(2, 6, 3, 4), torch.randint(0, 6, (2, 5, 2))
    expected = torch.stack([regions[n][index[n]].flatten(1, 2) for n in range(2)])
    assert torch.equal(ops.gather_regions(regions, index), expected)


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (6, 7), (7, 4), (1, 1), (1, 2)])
def test_filtering_frequencies(size):
    x, weight = torch.randn(2, 3, *size).double(), torch.randn(2, 3, size[0], size[1] // 2 + 1).double()
    spectrum = torch.fft.rfft2(x, norm="ortho") * torch.complex(weight[0], weight[1])
    expected = torch.fft.irfft2(spectrum, s=size, norm="ortho")
    torch.testing.assert_close(ops.filter_frequencies(x, weight, ops.dft_tables(*size)), expected)


def test_bilinear_taps():
    maps, points = torch.randn(2, 3, 5, 7).double(), torch.randn(2, 40, 2).double() * 5 + 2
    index, weights = ops.bilinear_taps(points[..., 0], points[..., 1], 5, 7)
    rows = ops.pixel_rows(maps).index_select(0, (index + torch.arange(2).reshape(2, 1, 1) * 35).flatten())
    found = (rows.reshape(2, 40, 4, 3) * weights.unsqueeze(3)).sum(2).transpose(1, 2)
    grid = (points + 0.5) * 2 / torch.tensor([7, 5]) - 1
    expected = F.grid_sample(maps, grid.unsqueeze(2), align_corners=False).squeeze(3)
    torch.testing.assert_close(found, expected)


# Variants.


def test_deformable_sampling_by_either_operator():
    arguments = {"channels": 16, "num_levels": 3, "num_heads": 4, "num_points": 3}
    gather = randomize(create("deformable_attention", **arguments))
    grid = create("deformable_attention", **arguments, sampling="grid_sample")
    grid.load_state_dict(gather.state_dict())
    values = [torch.randn(2, 16, *s) for s in ((9, 7), (5, 4), (1, 2))]
    for coordinates in (2, 4):
        inputs = [torch.randn(2, 6, 16), torch.rand(2, 6, 3, coordinates), *values]
        with torch.no_grad():
            torch.testing.assert_close(gather(*inputs), grid(*inputs), rtol=1e-4, atol=1e-5)


def test_positions_of_aifi():
    x = torch.zeros(1, 16, 3, 5)
    published, fixed = create("aifi", channels=16), create("aifi", channels=16, fixed_positions=True)
    column_0_row_1 = fixed.positions(x)[0, 5]
    assert torch.equal(published.positions(x)[0, 1], column_0_row_1)
    square = torch.zeros(1, 16, 4, 4)
    swapped = torch.cat([fixed.positions(square)[..., 8:], fixed.positions(square)[..., :8]], 2)
    assert torch.equal(published.positions(square), swapped)


def test_areas_may_end_inside_a_row():
    module = randomize(create("area_attention", channels=8, num_heads=2, area=4))
    x = torch.randn(2, 8, 6, 10)
    with torch.no_grad():
        query, key = module.qk(x).flatten(2).split(8, 1)
        value = module.v(x)
        runs = [t.reshape(2, 2, 4, 4, 15).transpose(2, 3) for t in (query, key, value.flatten(2))]
        weights = (runs[0].transpose(3, 4) @ runs[1] * 4**-0.5).softmax(4)
        mixed = (runs[2] @ weights.transpose(3, 4)).transpose(2, 3).reshape(x.shape)
        torch.testing.assert_close(module(x), module.proj(mixed + module.pe(value)))


@pytest.mark.parametrize("name", ["mobilevit", "mobilevit_v2"])
def test_without_resizing(name):
    plain, fixed = randomize(create(name)), create(name, resize=False)
    fixed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 64, 6, 8)
    with torch.no_grad():
        assert torch.equal(plain(x), fixed(x))
    with pytest.raises(ValueError, match="multiples of 2, got 7x8"):
        fixed(torch.randn(2, 64, 7, 8))
    assert plain(torch.randn(1, 64, 7, 9)).shape[2:] == ((7, 9) if name == "mobilevit" else (8, 10))


def test_a_global_filter_at_another_size():
    module = randomize(create("gnconv_gf", channels=16, order=4, height=10, width=12))
    layer, x = module.dwconv, torch.randn(2, module.dwconv.channels, 8, 15)
    with torch.no_grad():
        local, whole = layer.pre_norm(x).chunk(2, 1)
        resized = F.interpolate(layer.complex_weight.permute(3, 0, 1, 2), (8, 8), mode="bilinear", align_corners=True)
        spectrum = torch.fft.rfft2(whole, norm="ortho") * torch.complex(resized[0], resized[1])
        filtered = torch.fft.irfft2(spectrum, s=(8, 15), norm="ortho")
        expected = layer.post_norm(torch.stack([layer.dw(local), filtered], 2).flatten(1, 2))
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


COUNTS = [
    ("area_attention", {"layout": "ultralytics"}, 20_160),
    ("aifi", {"ffn_dim": 128}, 33_472),
    ("deformable_attention", {"num_levels": 3, "num_heads": 4}, 17_680),
    ("agent_attention", {"qkv_bias": True}, 77_648),
    ("halo_attention", {"num_heads": 4, "block_size": 4, "halo_size": 1}, 12_640),
    ("acmix", {"out_channels": 32}, 8_966),
    ("gnconv_gf", {"channels": 32, "order": 4, "height": 10, "width": 12}, 8_606),
    ("outlook_attention", {"channels": 48}, 20_532),
    ("global_filter", {"channels": 32, "height": 14, "width": 14}, 7_168),
]


@pytest.mark.parametrize(("name", "arguments", "count"), COUNTS)
def test_parameter_counts_of_variants(name, arguments, count):
    assert sum(p.numel() for p in create(name, **arguments).parameters()) == count


def test_deformable_attention_starts_as_published():
    module = create("deformable_attention", channels=32, num_levels=2, num_heads=4, num_points=3)
    assert not module.sampling_offsets.weight.any()
    assert not module.attention_weights.weight.any()
    steps = module.sampling_offsets.bias.detach().reshape(4, 2, 3, 2)
    right = torch.stack([torch.arange(1.0, 4.0), torch.zeros(3)], 1)
    torch.testing.assert_close(steps[0], right.expand(2, 3, 2))
    assert float(steps[:, :, 2].abs().amax(-1).min()) == pytest.approx(3)


# Refusals.

REFUSED = [
    ("cot", {"channels": 20}, "multiple of 8, got 20"),
    ("coxt", {"channels": 24}, "multiple of 16, got 24"),
    ("cot", {"kernel_size": 4}, "kernel_size must be odd"),
    ("polarized_self_attention", {"channels": 7}, "multiple of 2, got 7"),
    ("polarized_self_attention", {"variant": "parallel"}, "'official', 'paper'"),
    ("polarized_self_attention_sequential", {"channels": 6}, "at least 8, got channels=6"),
    ("psa", {"out_channels": 62}, "multiple of 4, got 62"),
    ("psa", {"out_channels": 32}, "at least 64, got out_channels=32"),
    ("psa", {"groups": (1, 4, 8)}, "groups must hold 4"),
    ("psa", {"in_channels": 24}, r"groups\[3\]=16"),
    ("area_attention", {"num_heads": 3}, "num_heads=3"),
    ("area_attention", {"layout": "yolo"}, "'yolov12', 'ultralytics'"),
    ("aifi", {"channels": 6, "num_heads": 2}, "multiple of 4, got 6"),
    ("aifi", {"num_heads": 5}, "num_heads=5"),
    ("deformable_attention", {"num_heads": 5}, "num_heads=5"),
    ("deformable_attention", {"sampling": "bilinear"}, "'gather', 'grid_sample'"),
    ("involution", {"channels": 24}, "channels=24"),
    ("involution", {"kernel_size": 6}, "kernel_size must be odd"),
    ("mobilevit", {"head_dim": 32, "dim": 48}, "dim=48 and head_dim=32"),
    ("mobilevit_v2", {"dim": 4}, "at least 16"),
    ("focal_modulation", {"focal_window": 4}, "must be odd"),
    ("focal_modulation", {"focal_level": 0}, "focal_level must be"),
    ("focal_modulation", {"focal_factor": 1}, r"must be odd, got 4"),
    ("gnconv", {"channels": 40}, "channels=40"),
    ("gnconv", {"gflayer": "global_local"}, "height and width must be given"),
    ("gnconv_gf", {"channels": 16}, "multiple of 32, got 16"),
    ("agent_attention", {"agent_num": 48}, "use 36 or 49"),
    ("agent_attention", {"sr_ratio": 4}, "size=14 and sr_ratio=4"),
    ("bi_level_routing_attention", {"topk": 50}, "topk=50 and n_win=7"),
    ("halo_attention", {"stride": 3}, "stride must be one of 1, 2"),
    ("halo_attention", {"num_heads": 6}, "num_heads=6"),
    ("outlook_attention", {"kernel_size": 5}, "use padding=2"),
    ("axial_attention", {"num_heads": 6}, "num_heads=6"),
    ("axial_attention_deeplab", {"groups": 64}, "must be a multiple of 2"),
    ("acmix", {"kernel_conv": 5}, "kernel_conv must be one of 3"),
    ("acmix", {"dilation": 2}, "dilation must be one of 1"),
    ("acmix", {"num_heads": 5}, "num_heads=5"),
]
SIZES = [
    ("area_attention", (1, 64, 5, 5), "area=4"),
    ("involution:stride=2,kernel_size=3", (1, 64, 5, 6), "multiples of 2, got 5x6"),
    ("global_filter", (1, 64, 32, 30), "32x32, got 32x30"),
    ("agent_attention", (1, 64, 14, 15), "14x14, got 14x15"),
    ("bi_level_routing_attention", (1, 64, 14, 15), "multiples of 7, got 14x15"),
    ("halo_attention", (1, 64, 8, 12), "multiples of 8, got 8x12"),
    ("axial_attention_deeplab", (1, 64, 15, 9), "H must be kernel_size=16"),
    ("axial_attention_deeplab_width", (1, 64, 16, 9), "W must be kernel_size=16"),
    ("acmix", (1, 64, 3, 9), "at least 4, got 3x9"),
    ("acmix:stride=2", (1, 64, 8, 9), "multiples of 2, got 8x9"),
]


@pytest.mark.parametrize(("name", "arguments", "words"), REFUSED)
def test_arguments_that_are_refused(name, arguments, words):
    with pytest.raises(InvalidRequestError, match=words) as caught:
        create(name, **arguments)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(("name", "shape", "words"), SIZES)
def test_sizes_that_are_refused(name, shape, words):
    with pytest.raises(ValueError, match=words):
        create(name)(torch.zeros(shape))


def test_inputs_of_deformable_attention_that_are_refused():
    module = create("deformable_attention", channels=8, num_levels=2, num_heads=2)
    query, points, value = torch.zeros(2, 3, 8), torch.zeros(2, 3, 2, 2), torch.zeros(2, 8, 4, 4)
    for inputs, words in (
        ((query, points, value), "expected 2 value maps, got 1"),
        ((query[..., :6], points, value, value), r"\(N, Q, 8\)"),
        ((query, points[..., :1], value, value), "reference points"),
        ((query, points, value, value[:, :6]), r"\(N, 8, H, W\)"),
        ((query, points, value, value[:1]), "batch of 2"),
    ):
        with pytest.raises(ValueError, match=words):
            module(*inputs)


# Exported files of what the registry's reference configurations leave out.

VARIANTS = [
    "area_attention:area=1",
    "area_attention:layout=ultralytics",
    "outlook_attention:stride=2",
    "involution:stride=2,kernel_size=3",
    "mobilevit:resize=False",
    "mobilevit_v2:resize=False",
    "focal_modulation:use_postln_in_modulation=True,normalize_modulator=True",
    "halo_attention:stride=2,scale_pos_embed=True",
    "halo_attention:stride=2,avg_down=True,block_size=4",
    "axial_attention:sum_axial_out=False",
    "axial_attention_deeplab:stride=2",
    "acmix:stride=2,kernel_att=5",
    "agent_attention:sr_ratio=2,qkv_bias=True",
    "deformable_attention:num_levels=2",
    "gnconv:scale=0.5",
]
QUICK = ("outlook_attention:stride=2",)


@pytest.mark.parametrize(
    ("exporter", "opset", "fused"),
    [("torchscript", 13, True), ("dynamo", 18, False), pytest.param("dynamo", 20, True, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in VARIANTS])
def test_variants_are_exported(name, exporter, opset, fused, tmp_path):
    artifact = export(name, tmp_path / "model.onnx", exporter=exporter, opset=opset, fuse=fused)
    assert artifact.opset == opset
    moving = {s for i in resolve(name).inputs for s in i.symbols}
    assert set(artifact.dynamic_axes) == moving
    assert np.prod([len(s) for s in artifact.record["verified_shapes"]]) > 0
