"""BAM, cSE/sSE/scSE, SA, SGE, FCA, GE, A2, APNB/AFNB, efficient attention and RNAN: against their maths restated."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from attn_deploy import create, fuse, load_official_state_dict
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.expressions import evaluate_expression
from attn_deploy.modules.attention.asymmetric_non_local import AFNB, APNB
from attn_deploy.modules.attention.bam import BAM
from attn_deploy.modules.attention.concurrent_squeeze_excite import (
    ChannelSELayer,
    ChannelSpatialSELayer,
    SpatialSELayer,
)
from attn_deploy.modules.attention.double_attention import DoubleAttention
from attn_deploy.modules.attention.efficient_attention import EfficientAttention
from attn_deploy.modules.attention.frequency_channel import MultiSpectralAttention, selected_frequencies
from attn_deploy.modules.attention.gather_excite import GatherExcite
from attn_deploy.modules.attention.residual_non_local import (
    NonLocalResidualAttentionBlock,
    ResidualAttentionBlock,
    RNANNonLocalBlock2d,
)
from attn_deploy.modules.attention.shuffle_attention import ShuffleAttention
from attn_deploy.modules.attention.spatial_group_enhance import SpatialGroupEnhance
from attn_deploy.ops import resize_nearest
from attn_deploy.ops.pyramid import PyramidAveragePool
from export_tests.helpers import randomize

SIZES = [(16, 20), (9, 13), (7, 30)]


def made(cls, *arguments, **settings):
    return randomize(cls(*arguments, **settings)).eval()


def features(channels, height=16, width=20, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator) + torch.linspace(-1, 1, width)


def close(got, wanted):
    got, wanted = got.detach(), wanted.detach()
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(wanted.abs().max())))


REFUSED = [
    (BAM, (8,), {}, "channels // reduction must be at least 1, got channels=8 and reduction=16"),
    (BAM, (64,), {"combine": "max"}, "combine must be one of 'mul', 'add', got 'max'"),
    (BAM, (64,), {"num_layers": 0}, "num_layers must be an integer of at least 1"),
    (BAM, (64,), {"dilation": 0}, "dilation must be"),
    (ChannelSELayer, (1,), {}, "channels=1 and reduction=2"),
    (ChannelSpatialSELayer, (1,), {}, "channels=1 and reduction=2"),
    (ChannelSpatialSELayer, (64,), {"fusion": "mean"}, "fusion must be one of 'max', 'add'"),
    (SpatialSELayer, (0,), {}, "channels must be an integer of at least 1"),
    (ShuffleAttention, (64,), {}, r"channels must be a multiple of 2 \* groups, got channels=64 and 2 \* groups=128"),
    (ShuffleAttention, (64,), {"groups": 0}, "groups must be"),
    (SpatialGroupEnhance, (96,), {}, "channels must be a multiple of groups, got channels=96 and groups=64"),
    (MultiSpectralAttention, (64,), {"dct_h": 6, "dct_w": 7}, "dct_h must be at least 7, got dct_h=6"),
    (MultiSpectralAttention, (64,), {"dct_h": 7, "dct_w": 5}, "dct_w must be at least 7, got dct_w=5"),
    (MultiSpectralAttention, (8,), {"dct_h": 7, "dct_w": 7}, "channels // reduction must be at least 1"),
    (
        MultiSpectralAttention,
        (40,),
        {"dct_h": 7, "dct_w": 7},
        "channels must be a multiple of the number of frequencies, got channels=40",
    ),
    (MultiSpectralAttention, (64,), {"dct_h": 7, "dct_w": 7, "freq_sel_method": "top3"}, "freq_sel_method must be"),
    (GatherExcite, (64,), {"variant": "theta_zero"}, "variant must be one of 'theta_minus', 'theta', 'theta_plus'"),
    (GatherExcite, (64,), {"extent": 3}, "extent must be 0 .* or a power of 2"),
    (GatherExcite, (64,), {"extent": 1}, "extent must be 0"),
    (GatherExcite, (64,), {"variant": "theta"}, "feat_size must be given for variant='theta' with extent=0"),
    (GatherExcite, (64,), {"variant": "theta", "feat_size": 7}, r"feat_size must be \(H, W\), got 7"),
    (GatherExcite, (64,), {"variant": "theta", "feat_size": (0, 7)}, r"feat_size\[0\] must be"),
    (
        GatherExcite,
        (8,),
        {"variant": "theta_plus", "feat_size": (7, 7)},
        "channels // reduction must be at least 1, got channels=8",
    ),
    (DoubleAttention, (64,), {"c_m": 0}, "c_m must be an integer of at least 1, got 0"),
    (DoubleAttention, (64,), {"c_n": -1}, "c_n must be"),
    (DoubleAttention, (64,), {"residual": True}, "residual=True needs reconstruct=True"),
    (APNB, (64, 32), {}, "out_channels must equal in_channels, got out_channels=32 and in_channels=64"),
    (APNB, (64, 64), {"sizes": (1, 2)}, r"sizes must be \(1,\), got \(1, 2\)"),
    (APNB, (64, 64), {"psp_size": ()}, "psp_size must name at least one grid"),
    (APNB, (64, 64), {"psp_size": (1, 0)}, r"psp_size\[1\] must be"),
    (APNB, (64, 64), {"key_channels": 0}, "key_channels must be"),
    (AFNB, (48, 64, 64), {"sizes": (2,)}, r"sizes must be \(1,\), got \(2,\)"),
    (AFNB, (48, 64, 64), {"value_channels": 0}, "value_channels must be"),
    (EfficientAttention, (64,), {"num_heads": 3}, "key_channels must be a multiple of num_heads, got key_channels=32"),
    (
        EfficientAttention,
        (64,),
        {"num_heads": 4, "value_channels": 30},
        "value_channels must be a multiple of num_heads, got value_channels=30 and num_heads=4",
    ),
    (RNANNonLocalBlock2d, (64,), {"softmax_dim": 1}, "softmax_dim must be one of 'query', 'key', got 1"),
    (RNANNonLocalBlock2d, (1,), {}, "inter_channels must be an integer of at least 1, got 0"),
    (ResidualAttentionBlock, (16,), {"kernel_size": 4}, "kernel_size must be odd, got 4"),
]


@pytest.mark.parametrize(("cls", "arguments", "settings", "message"), REFUSED)
def test_arguments_that_cannot_work_are_refused(cls, arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(*arguments, **settings)


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (SpatialGroupEnhance(64), [(2, 64, 1, 1)], "at least 2 positions, got 1x1"),
        (
            GatherExcite(16, variant="theta", feat_size=(7, 9)),
            [(2, 16, 9, 7)],
            "maps of 7x9, got 9x7: construct it with the size",
        ),
        (GatherExcite(16, variant="theta_plus", feat_size=(7, 9)), [(2, 16, 1, 1)], "maps of 7x9, got 1x1"),
        (ResidualAttentionBlock(4), [(1, 4, 7, 8)], "multiples of 2, got 7x8: pad the map to 8x8"),
        (NonLocalResidualAttentionBlock(4), [(1, 4, 8, 9)], "multiples of 2, got 8x9: pad the map to 8x10"),
        (AFNB(48, 64, 64), [(1, 64, 8, 8), (1, 64, 8, 8)], "AFNB, first input: expected an input of shape .N, 48"),
        (AFNB(48, 64, 64), [(1, 48, 8, 8), (1, 48, 8, 8)], "AFNB, second input: expected an input of shape .N, 64"),
    ],
)
def test_inputs_that_cannot_work_are_refused(module, inputs, message):
    with pytest.raises(ValueError, match=message):
        module(*[torch.zeros(shape) for shape in inputs])


@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize(("num_layers", "dilation_conv_num", "dilation"), [(1, 2, 4), (3, 1, 2)])
def test_bam(combine, num_layers, dilation_conv_num, dilation):
    settings = {"num_layers": num_layers, "dilation_conv_num": dilation_conv_num, "dilation": dilation}
    module = made(BAM, 32, reduction=4, combine=combine, **settings)
    x = features(32)
    channel = module.channel(F.adaptive_avg_pool2d(x, 1)).expand_as(x)
    spatial = module.spatial(x).expand_as(x)
    logits = channel * spatial if combine == "mul" else channel + spatial
    close(module(x), x + x * torch.sigmoid(logits))
    mapped = set(module.official_keys.values())
    assert mapped == {k.rpartition(".")[0] for k in module.state_dict()}, "every layer has its official key"


@pytest.mark.parametrize("fusion", ["max", "add"])
def test_scse_keeps_both_products(fusion):
    module = made(ChannelSpatialSELayer, 16, fusion=fusion)
    x = features(16)
    pooled = F.relu(module.channel.reduce(x.mean((2, 3), keepdim=True)))
    by_channel = x * torch.sigmoid(module.channel.expand(pooled))
    by_position = x * torch.sigmoid(module.spatial.conv(x))
    close(module(x), torch.maximum(by_channel, by_position) if fusion == "max" else by_channel + by_position)


@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (96, 4), (12, 6), (256, 64), (10, 1)])
@pytest.mark.parametrize("size", SIZES)
def test_shuffle_attention(channels, groups, size):
    module = made(ShuffleAttention, channels, groups=groups)
    x = features(channels, *size)
    half = channels // (2 * groups)
    grouped = x.reshape(2 * groups, 2 * half, *size)
    first, second = grouped.chunk(2, 1)
    average = first.mean((2, 3), keepdim=True)
    first = first * torch.sigmoid(module.channel_weight * average + module.channel_bias)
    normed = F.group_norm(second, half, module.norm_weight.flatten(), module.norm_bias.flatten(), 1e-5)
    second = second * torch.sigmoid(module.spatial_weight * normed + module.spatial_bias)
    joined = torch.cat([first, second], 1).reshape(2, channels, *size)
    wanted = joined.reshape(2, 2, channels // 2, *size).transpose(1, 2).reshape(2, channels, *size)
    close(module(x), wanted)
    close(fuse(module)(x), wanted)


@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (64, 64), (12, 2), (6, 1)])
@pytest.mark.parametrize("size", [*SIZES, (1, 2)])
def test_spatial_group_enhance(channels, groups, size):
    module = made(SpatialGroupEnhance, channels, groups=groups)
    for scale in (1.0, 30.0):
        x = features(channels, *size) * scale
        grouped = x.reshape(2 * groups, channels // groups, *size)
        t = (grouped * grouped.mean((2, 3), keepdim=True)).sum(1).reshape(2 * groups, -1)
        t = t - t.mean(1, keepdim=True)
        t = t / (t.std(1, keepdim=True) + 1e-5)
        t = t.reshape(2, groups, *size) * module.weight + module.bias
        close(module(x), (grouped * torch.sigmoid(t.reshape(2 * groups, 1, *size))).reshape(x.shape))


def test_spatial_group_enhance_of_a_constant_map_stays_finite_in_half_precision():
    module = made(SpatialGroupEnhance, 64, groups=1).half()
    for value in (0.0, 1.0, 100.0):
        assert torch.isfinite(module(torch.full((1, 64, 8, 8), value, dtype=torch.float16))).all()


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("kind", ["top", "bot", "low"])
@pytest.mark.parametrize("size", [(7, 7), (30, 9), (14, 21)])
def test_frequency_channel_attention(kind, count, size):
    module = made(MultiSpectralAttention, 32, dct_h=14, dct_w=21, reduction=4, freq_sel_method=f"{kind}{count}")
    x = features(32, *size)
    filters = torch.zeros(32, 14, 21, dtype=torch.float64)
    block = 32 // count
    for i, (u, v) in enumerate(selected_frequencies(f"{kind}{count}")):
        for t in range(14):
            for s in range(21):
                down = math.cos(math.pi * 2 * u * (t + 0.5) / 14) / 14**0.5 * (1 if u == 0 else 2**0.5)
                across = math.cos(math.pi * 3 * v * (s + 0.5) / 21) / 21**0.5 * (1 if v == 0 else 2**0.5)
                filters[i * block : (i + 1) * block, t, s] = down * across
    pooled = F.adaptive_avg_pool2d(x, (14, 21))
    y = (pooled * filters.float()).sum((2, 3), keepdim=True)
    close(module(x), x * torch.sigmoid(module.expand(F.relu(module.reduce(y)))))


def test_checkpoints_with_other_frequencies_are_refused():
    module = MultiSpectralAttention(64, dct_h=7, dct_w=7)
    own = {"fc.0.weight": torch.zeros(4, 64), "fc.2.weight": torch.zeros(64, 4)}
    with pytest.raises(ValueError, match=r"\(64, 14, 14\).*dct_h and dct_w"):
        load_official_state_dict(module, {**own, "dct_layer.weight": torch.zeros(64, 14, 14)})
    with pytest.raises(ValueError, match="freq_sel_method"):
        load_official_state_dict(module, {**own, "dct_layer.weight": torch.zeros(64, 7, 7)})
    load_official_state_dict(module, own)


@pytest.mark.parametrize("extent", [0, 2, 4, 8, 16])
@pytest.mark.parametrize("variant", ["theta_minus", "theta", "theta_plus"])
@pytest.mark.parametrize("size", [*SIZES, (1, 5)])
def test_gather_excite(variant, extent, size):
    module = made(GatherExcite, 16, variant=variant, extent=extent, feat_size=size, reduction=4)
    x = features(16, *size)
    if variant == "theta_minus":
        kernel = 2 * extent - 1
        gathered = (
            F.avg_pool2d(x, kernel, extent, extent - 1, count_include_pad=False)
            if extent
            else F.adaptive_avg_pool2d(x, 1)
        )
    else:
        gathered = module.gather(x)
    if variant == "theta_plus":
        gathered = module.up(F.relu(module.down(F.relu(gathered))))
    wanted = x * torch.sigmoid(F.interpolate(gathered, size=size))
    close(module(x), wanted)
    close(fuse(module)(x), wanted)


def test_gather_excite_of_any_extent_is_made_by_name():
    assert create("ge_theta:extent=8").gather is not None
    assert sum(p.numel() for p in create("ge_theta:extent=8").parameters()) == 2112
    with pytest.raises(InvalidRequestError, match="feat_size is None, which has no element 0"):
        evaluate_expression("feat_size[0]", {"feat_size": None})


@pytest.mark.parametrize(("reconstruct", "residual"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("size", SIZES)
def test_double_attention(reconstruct, residual, size):
    module = made(DoubleAttention, 24, c_m=10, c_n=6, reconstruct=reconstruct, residual=residual)
    x = features(24, *size)
    a = module.features(x).flatten(2)
    maps = module.gathering(x).flatten(2).softmax(-1)
    vectors = module.distribution(x).flatten(2).softmax(1)
    wanted = (a @ maps.mT @ vectors).reshape(2, 10, *size)
    if reconstruct:
        wanted = module.reconstruction(wanted)
    if residual:
        wanted = wanted + x
    close(module(x), wanted)
    close(fuse(module)(x), wanted)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("size", SIZES)
def test_efficient_attention(heads, size):
    module = made(EfficientAttention, 24, key_channels=8, num_heads=heads, value_channels=20)
    x = features(24, *size)
    keys, queries, values = (f(x).flatten(2).chunk(heads, 1) for f in (module.keys, module.queries, module.values))
    attended = [
        (k.softmax(2) @ v.mT).mT @ q.softmax(1) for k, q, v in zip(keys, queries, values, strict=True)
    ]  # the official loop over heads
    wanted = module.reprojection(torch.cat(attended, 1).reshape(2, 20, *size)) + x
    close(module(x), wanted)
    close(fuse(module)(x), wanted)


@pytest.mark.parametrize("psp_size", [(1, 3, 6, 8), (2, 5)])
@pytest.mark.parametrize("size", SIZES)
def test_asymmetric_non_local(psp_size, size):
    def context(module, query, low):
        def pyramid(t):
            return torch.cat([F.adaptive_avg_pool2d(t, n).flatten(2) for n in psp_size], 2)

        key, value = pyramid(module.key(low)), pyramid(module.value(low))
        similarity = (query.flatten(2).mT @ key * module.scale).softmax(-1)
        return module.context((value @ similarity.mT).reshape(2, -1, *query.shape[2:]))

    x, low = features(12, *size), features(10, 21, 11, seed=1)
    apnb = made(APNB, 12, 12, key_channels=6, value_channels=8, psp_size=psp_size)
    wanted = apnb.tail(torch.cat([context(apnb, apnb.key(x), x), x], 1))
    close(apnb(x), wanted)
    close(fuse(apnb)(x), wanted)
    afnb = made(AFNB, 10, 12, 14, key_channels=6, value_channels=8, psp_size=psp_size)
    wanted = afnb.tail(torch.cat([context(afnb, afnb.query(x), low), x], 1))
    close(afnb(low, x), wanted)
    close(fuse(afnb)(low, x), wanted)
    assert fuse(apnb).context is None
    assert bool((wanted < 0).any()), "AFNB has no ReLU at its end"


@pytest.mark.parametrize("softmax_dim", ["query", "key"])
@pytest.mark.parametrize("size", SIZES)
def test_rnan_non_local(softmax_dim, size):
    module = made(RNANNonLocalBlock2d, 16, inter_channels=6, softmax_dim=softmax_dim)
    x = features(16, *size)
    theta, phi, g = (f(x).flatten(2) for f in (module.query, module.key, module.value))
    attention = (theta.mT @ phi).softmax(1 if softmax_dim == "query" else 2)
    wanted = module.output((attention @ g.mT).mT.reshape(2, 6, *size)) + x
    close(module(x), wanted)
    close(fuse(module)(x), wanted)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_rnan_attention_blocks(kernel_size):
    for cls in (ResidualAttentionBlock, NonLocalResidualAttentionBlock):
        module = made(cls, 8, kernel_size=kernel_size)
        x = features(8, 10, 14)
        entry = module.entry(x)
        start = entry if module.non_local is None else module.non_local(entry)
        start = module.mask_entry(start)
        mask = module.mask_exit(start + module.up(module.mask_body(module.down(start))))
        close(module(x), module.tail(module.trunk(entry) * torch.sigmoid(module.gate(mask)) + entry))


def test_attention_starts_as_the_official_code_initialises_it():
    x = features(16)
    assert torch.equal(RNANNonLocalBlock2d(16)(x), x)
    assert not APNB(16, 16).context.weight.any()
    sge, shuffle = SpatialGroupEnhance(16, groups=4), ShuffleAttention(16, groups=4)
    close(sge(x), x * torch.sigmoid(torch.ones(())))
    close(shuffle(x).sum(1), (x * torch.sigmoid(torch.ones(()))).sum(1))


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 64), (57, 31), (3, 100)])
def test_pyramid_average_pool(size):
    x = features(3, *size)
    by_column = [F.adaptive_avg_pool2d(x, n).transpose(2, 3).flatten(2) for n in (1, 3, 6, 8)]
    wanted = torch.cat(by_column, 2)
    torch.testing.assert_close(PyramidAveragePool((1, 3, 6, 8))(x), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("source", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (23, 14), (64, 96)])
def test_nearest_resize_is_exact(source, size):
    x = features(2, source, source + 1)
    rows = torch.tensor([i * source // size[0] for i in range(size[0])])
    columns = torch.tensor([i * (source + 1) // size[1] for i in range(size[1])])
    assert torch.equal(resize_nearest(x, *size), x[:, :, rows][:, :, :, columns])
