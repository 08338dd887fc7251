"""What is particular to the modules of the second attention page: refusals, plain restatements, modes, deployed forms."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from attn_deploy import create, fuse
from attn_deploy.ops.bounded import bounded_product_softmax, gram_softmax, half_range
from attn_deploy.ops.unfold import Unfold
from export_tests.helpers import as_tuple, randomize


def lively(name, **arguments):
    """A module with every gamma and statistic at a value that shows."""
    return randomize(create(name, **arguments))


def maps(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


REFUSED = [
    ("splat_conv2d", {"in_channels": 66, "radix": 4}, "in_channels=66 and groups \\* radix=4"),
    ("splat_conv2d", {"out_channels": 63, "groups": 2}, "out_channels=63 and groups=2"),
    ("splat_conv2d", {"in_channels": 36, "out_channels": 36, "groups": 3, "radix": 2}, "attention's width"),
    ("splat_conv2d", {"radix": 0}, "radix must be an integer of at least 1, got 0"),
    ("sc_conv", {"groups": 3}, "channels=64 and groups=3"),
    ("sc_bottleneck", {"planes": 1}, "planes=1 and bottleneck_width=32: use a bottleneck_width of at least 64"),
    ("danet_pam", {"channels": 7}, "channels must be at least 8, got 7"),
    ("danet_head", {"in_channels": 31}, "in_channels must be at least 32, got 31"),
    ("ms_cam", {"reduction": 65}, "channels=64 and reduction=65"),
    ("aff", {"channels": 2}, "channels=2 and reduction=4"),
    ("iaff", {"channels": 2}, "channels=2 and reduction=4"),
    ("san_pairwise", {"out_channels": 12}, "out_channels=12 and share=8"),
    ("san_pairwise", {"kernel_size": 4}, "kernel_size must be odd, got 4"),
    ("san_patchwise", {"kernel_size": 4}, "kernel_size must be odd, got 4"),
    ("san_patchwise", {"stride": 2}, "no argument 'stride'"),
    ("san_patchwise", {"in_channels": 15, "relation_channels": None}, "relation_channels must be at least 1, got 0"),
    ("san_bottleneck", {"attention": "pair"}, "attention must be one of 'pairwise', 'patchwise', got 'pair'"),
    ("generalized_attention", {"attention_type": "0000"}, "a 1 among them, got '0000'"),
    ("generalized_attention", {"attention_type": "111"}, "four characters 0 or 1"),
    ("generalized_attention", {"attention_type": "1121"}, "four characters 0 or 1"),
    ("generalized_attention", {"channels": 8}, "channels=8 and num_heads=9"),
    ("generalized_attention", {"position_embedding_dim": 30}, "position_embedding_dim=30"),
    ("ocr_spatial_gather", {"scale": 0.5}, "scale must be at least 1, got 0.5"),
    ("ocr_object_attention", {"scale": 0}, "scale must be an integer of at least 1, got 0"),
    ("ia_block", {"alpha_y": 0}, "alpha_y must be positive, got 0"),
    ("iau", {"channels": 63}, "channels=63"),
    ("iau3d", {"channels": 63}, "channels=63"),
    ("dca_se", {"channels": 8}, "channels=8 and reduction=16"),
    ("dca_gc", {"channels": 8}, "channels=8 and reduction=16"),
    ("dca_cbam", {"channels": 8}, "channels=8 and reduction=16"),
    ("fpt_self_trans", {"num_mixtures": 3}, "key_channels=64 and num_mixtures=3"),
    ("fpt_self_trans", {"query_transform": "mlp"}, "query_transform must be one of"),
    ("fpt_ground_trans", {"mode": "euclid"}, "mode must be one of"),
    ("fpt_locality_gt", {"out_channels": 63}, "out_channels must be even, got 63"),
    ("fpt_locality_gt", {"kernel_size": 2}, "kernel_size must be odd, got 2"),
    ("ulsam", {"num_splits": 5}, "channels=64 and num_splits=5"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_arguments_that_cannot_work_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create(name, **arguments)


X = (2, 64, 8, 9)
REFUSED_INPUTS = [
    ("sc_conv", {}, [(2, 64, 3, 9)], "at least 4, got 3x9"),
    ("san_pairwise", {}, [(2, 64, 3, 9)], "at least 4, got 3x9"),
    ("san_patchwise", {}, [(2, 64, 9, 3)], "at least 4, got 9x3"),
    ("aff", {}, [X, (2, 64, 8, 8)], "x \\(2, 64, 8, 9\\), residual \\(2, 64, 8, 8\\)"),
    ("iaff", {}, [X, (2, 64, 4, 9)], "same N, H and W"),
    ("aff", {}, [X, (2, 32, 8, 9)], "\\(2, 32, 8, 9\\)"),
    ("ocr", {}, [X, (2, 19, 8, 8)], "same N, H and W"),
    ("ocr_spatial_gather", {}, [X, (2, 19, 4, 9)], "same N, H and W"),
    ("ocr_object_attention", {"scale": 10}, [X, (2, 64, 19, 1)], "scale=10, got 8x9"),
    ("iau3d", {}, [(2, 64, 3, 8, 6)], "\\(N, 64, 4, H, W\\), got \\(2, 64, 3, 8, 6\\)"),
    ("dca_se", {}, [X], "previous_channels=64, but the previous attention given is none"),
    ("dca_se", {}, [X, (2, 32)], "as \\(N, 64\\), got \\(2, 32\\)"),
    ("dca_se_first", {}, [X, (2, 64)], "previous_channels=0"),
    ("dca_gc", {}, [X, (2, 32, 1, 1)], "\\(N, 64, H, W\\), got \\(2, 32, 1, 1\\)"),
    ("dca_gc", {}, [X], "the previous term given is none"),
    ("dca_cbam", {}, [X, (2, 32, 8, 9), (2, 32, 16, 18)], "a previous map of 16x18 for ratio=2"),
    ("dca_cbam_first", {}, [X, (2, 32, 8, 9), (2, 32, 8, 9)], "previous_channels=0"),
    ("fpt_render_trans", {}, [X, (2, 64, 32, 36)], "a fine map of 32x36 fits a coarse map of 16x18, got 8x9"),
]


@pytest.mark.parametrize(("name", "arguments", "shapes", "message"), REFUSED_INPUTS)
def test_inputs_that_cannot_work_are_refused(name, arguments, shapes, message):
    with pytest.raises(ValueError, match=message):
        create(name, **arguments)(*maps(*shapes))


# The operators under them.


@pytest.mark.parametrize(("kernel_size", "stride", "dilation", "padding"), [(3, 1, 1, 1), (3, 2, 2, 0), (5, 1, 1, 2)])
def test_unfold_gathers_what_torch_does(kernel_size, stride, dilation, padding):
    (x,) = maps((2, 6, 11, 14))
    got = Unfold(6, kernel_size, stride=stride, dilation=dilation, padding=padding)(x)
    assert torch.equal(got.flatten(2), F.unfold(x, kernel_size, dilation, padding, stride))


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("context", [nullcontext, half_range])
def test_gram_softmax_is_the_plain_one_and_stays_in_range(negate, context):
    x = maps((2, 16, 9, 14))[0] * 0.3
    gram = x.flatten(2) @ x.flatten(2).transpose(1, 2)
    plain = (gram.amax(2, keepdim=True) - gram if negate else gram).softmax(2)
    with context():
        torch.testing.assert_close(gram_softmax(x, negate=negate), plain, rtol=1e-4, atol=1e-6)
    large = torch.full((1, 16, 32, 32), 100.0, dtype=torch.float16)  # its Gram matrix holds 1e7
    assert torch.equal(gram_softmax(large, negate=negate), torch.full((1, 16, 16), 1 / 16, dtype=torch.float16))


@pytest.mark.parametrize("context", [nullcontext, half_range])
def test_softmax_of_a_product_is_the_plain_one_and_stays_in_range(context):
    left, right = maps((2, 9, 40), (2, 40, 7))
    with context():
        got = bounded_product_softmax(left, right, 40)
    torch.testing.assert_close(got, (left @ right).softmax(2), rtol=1e-4, atol=1e-6)
    large = torch.full((1, 5, 40), 100.0, dtype=torch.float16)  # products of 4e5
    assert torch.equal(bounded_product_softmax(large, large.transpose(1, 2), 40), torch.full((1, 5, 5), 0.2).half())


# Plain restatements.


def generalized_attention(module, x, attention_type):
    """The four terms as the paper writes them, for every query and key by itself."""
    bits = [b == "1" for b in attention_type]
    heads, width = module.num_heads, module.head_channels
    (height, length), stride = x.shape[2:], module.kv_stride
    sparse = x[:, :, ::stride, ::stride]

    def split(t):
        return t.reshape(x.shape[0], heads, width, *t.shape[2:])

    value = split(module.value(sparse)).flatten(3)
    query = split(module.query(x)) if bits[0] or bits[1] else None
    energy = torch.zeros(x.shape[0], heads, height, length, *sparse.shape[2:])
    if bits[0]:
        energy = energy + torch.einsum("ncdhw,ncdij->nchwij", query, split(module.key(sparse)))
    if bits[2]:
        bias = module.content_bias.reshape(heads, width)
        energy = energy + torch.einsum("cd,ncdij->ncij", bias, split(module.key(sparse)))[:, :, None, None]
    if bits[1] or bits[3]:

        def embed(layer, queries, keys):
            offset = torch.arange(queries)[:, None] - torch.arange(keys)[None] * stride
            angle = offset[..., None] / 1000 ** (torch.arange(16) * 4 / 64)
            features = layer(torch.cat([angle.sin(), angle.cos()], 2)) / math.sqrt(2)
            return features.reshape(queries, keys, heads, width)

        along_x = embed(module.position_x, length, sparse.shape[3])
        along_y = embed(module.position_y, height, sparse.shape[2])
        if bits[1]:
            energy = energy + torch.einsum("ncdhw,wjcd->nchwj", query, along_x)[:, :, :, :, None]
            energy = energy + torch.einsum("ncdhw,hicd->nchwi", query, along_y)[..., None]
        if bits[3]:
            bias = module.position_bias.reshape(heads, width)
            energy = energy + torch.einsum("cd,wjcd->cwj", bias, along_x)[None, :, None, :, None]
            energy = energy + torch.einsum("cd,hicd->chi", bias, along_y)[None, :, :, None, :, None]
    attention = energy.flatten(4).softmax(4)
    mixed = torch.einsum("nchwk,ncdk->ncdhw", attention, value).reshape(x.shape[0], -1, height, length)
    return x + module.gamma * module.project(mixed)


@pytest.mark.parametrize("attention_type", ["".join(b) for b in itertools.product("01", repeat=4) if "1" in b])
def test_generalized_attention_of_every_type(attention_type):
    module, (x,) = lively("generalized_attention", attention_type=attention_type), maps((2, 64, 7, 10))
    with torch.no_grad():
        expected = generalized_attention(module, x, attention_type)
        torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fuse(module)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("reach", "stride"), [(0, 1), (2, 1), (3, 2)])
def test_spatial_range_hides_what_is_far(reach, stride):
    module = lively("generalized_attention", spatial_range=reach, kv_stride=stride)
    x, far = maps((1, 64, 12, 12))[0], 11
    changed = x.clone()
    changed[:, :, far, far] += 5.0
    with torch.no_grad():
        moved = (module(x) - module(changed)).abs().amax((0, 1)) > 1e-6
    moved[far, far] = False
    assert not moved[: far - reach - stride].any()
    assert not moved[:, : far - reach - stride].any()


def test_attention_type_may_read_as_a_number():
    with pytest.raises(ValueError, match="got '111'"):
        create("generalized_attention:attention_type=111")
    assert create("generalized_attention:attention_type=1111").key is not None


def test_ia_nearness_is_one_softmax_over_the_grid():
    module, (x,) = create("ia_block", alpha_x=1.5, alpha_y=0.7), maps((1, 64, 5, 4))
    rows, columns = (t.flatten().float() for t in torch.meshgrid(torch.arange(5), torch.arange(4), indexing="ij"))
    across, down = (columns[:, None] - columns) / 1.5, (rows[:, None] - rows) / 0.7
    torch.testing.assert_close(module._nearness(x), (-(across**2 + down**2) / 2).softmax(1))


def test_a_clip_of_one_frame_is_an_image():
    image, clip = lively("iau", return_masks=True), create("iau3d", frames=1, return_masks=True)
    clip.load_state_dict(image.state_dict())
    (x,) = maps((2, 64, 9, 7))
    with torch.no_grad():
        (z, a), (z_clip, a_clip) = image(x), clip(x.unsqueeze(2))
    torch.testing.assert_close(z_clip.squeeze(2), z)
    torch.testing.assert_close(a_clip, a)


def test_a_frame_without_masks_is_the_same():
    module, silent = lively("iau", return_masks=True), create("iau")
    silent.load_state_dict(module.state_dict())
    (x,) = maps((1, 64, 6, 5))
    with torch.no_grad():
        assert torch.equal(silent(x), module(x)[0])


def test_ulsam_is_one_attention_for_each_chunk():
    module, (x,) = lively("ulsam"), maps((2, 64, 9, 7))
    chunks = []
    with torch.no_grad():
        conv, norm, _, pool, point, point_norm, _ = module.attend
        every = pool(norm(conv(x)).relu())
        for i, chunk in enumerate(x.chunk(4, 1)):
            weight, bias = point.weight[i : i + 1], point.bias[i : i + 1]
            logits = F.conv2d(every[:, 16 * i : 16 * (i + 1)], weight, bias)
            logits = F.batch_norm(
                logits,
                point_norm.running_mean[i : i + 1],
                point_norm.running_var[i : i + 1],
                point_norm.weight[i : i + 1],
                point_norm.bias[i : i + 1],
            )
            attention = logits.relu().flatten(2).softmax(2).reshape(2, 1, 9, 7)
            chunks.append(chunk + chunk * attention)
        torch.testing.assert_close(module(x), torch.cat(chunks, 1))


@pytest.mark.parametrize("size", [(16, 20), (17, 23), (4, 7), (114, 9)])
def test_sc_conv_gate_is_upsampled_as_torch_does(size):
    module, (x,) = lively("sc_conv", channels=8), maps((1, 8, *size))
    with torch.no_grad():
        gate = (x + F.interpolate(module.calibrate(x), size, mode="nearest")).sigmoid()
        torch.testing.assert_close(module(x), module.output(module.transform(x) * gate))


@pytest.mark.parametrize("mode", ["dot", "concatenate"])
def test_grounding_without_a_softmax(mode):
    module, (low, high) = lively("fpt_ground_trans", mode=mode), maps((2, 64, 7, 9), (2, 64, 4, 5))
    with torch.no_grad():
        query, key, value = (
            f(t).flatten(2) for f, t in ((module.query, low), (module.key, high), (module.value, high))
        )
        if mode == "dot":
            weights = query.transpose(1, 2) @ key
        else:
            pairs = torch.cat([query[..., None].expand(-1, -1, -1, 20), key[:, :, None].expand(-1, -1, 63, -1)], 1)
            weights = module.relation(pairs)[:, 0].relu()
        mixed = (value @ weights.transpose(1, 2) / 20).reshape(2, 32, 7, 9)
        torch.testing.assert_close(module(low, high), module.project(mixed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", [True, False])
def test_self_transformer_at_odd_sizes(pooling):
    module, (x,) = lively("fpt_self_trans", channels=16, pooling=pooling), maps((2, 16, 7, 9))
    with torch.no_grad():
        pooled = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) if pooling else x
        query, key, value = module.query(x).flatten(2), module.query(pooled).flatten(2), module.value(pooled).flatten(2)
        shares = (module.mixture @ query.mean(2).transpose(0, 1)).softmax(0)
        attention = 0
        for i, (q, k) in enumerate(zip(query.chunk(2, 1), key.chunk(2, 1), strict=True)):
            attention = attention + shares[i, :, None, None] * (q.transpose(1, 2) @ k / 4).softmax(2)
        mixed = (value @ attention.transpose(1, 2)).reshape(2, 16, 7, 9)
        torch.testing.assert_close(module(x), x + module.norm(module.project(mixed)), rtol=1e-4, atol=1e-5)


def test_san_with_a_window_of_one_place_is_its_values():
    module, (x,) = lively("san_pairwise", kernel_size=1), maps((2, 64, 1, 5))
    with torch.no_grad():
        torch.testing.assert_close(module(x), module.value(x))


# Modes and variants.


def test_danet_head_without_branch_classifiers():
    head, full = create("danet_head", return_aux=False), lively("danet_head")
    head.load_state_dict({k: v for k, v in full.state_dict().items() if k in head.state_dict()})
    (x,) = maps((1, 64, 6, 5))
    with torch.no_grad():
        assert torch.equal(head(x), full(x)[0])


@pytest.mark.parametrize("name", ["dca_se", "dca_gc", "dca_cbam"])
def test_connected_attentions_of_equal_width_need_no_adapter(name):
    keys = create(name, channels=64, previous_channels=64).state_dict()
    assert not [k for k in keys if k.startswith("adapt")]
    assert [k for k in create(name, channels=64, previous_channels=32).state_dict() if k.startswith("adapt")]


def test_connected_attentions_chain():
    first, second = lively("dca_se_first"), lively("dca_se")
    (x,) = maps((2, 64, 6, 5))
    with torch.no_grad():
        y, attention = second(*first(x))
    assert y.shape == x.shape
    assert attention.shape == (2, 64)


@pytest.mark.parametrize("size", [(16, 18), (15, 18), (15, 17)])
def test_rendering_takes_a_fine_map_of_twice_the_size_or_one_less(size):
    module = lively("fpt_render_trans", channels=8, low_channels=6)
    assert module(*maps((2, 8, 8, 9), (2, 6, *size))).shape == (2, 8, 8, 9)


def test_bottleneck_shapes():
    (x,) = maps((2, 64, 17, 12))
    for average_down in (False, True):
        assert create("sc_bottleneck", planes=32, stride=2, average_down=average_down)(x).shape == (2, 128, 9, 6)


# Deployed forms: what must be gone from them.


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("danet_pam", {"gamma", "key.bias"}),
        ("generalized_attention", {"gamma"}),
        ("san_pairwise", {"logits.bias", "mix_norm.weight", "feature_norm.weight", "position_norm.weight"}),
        ("san_patchwise", {"norm.weight", "weigh.2.weight"}),
        ("san_bottleneck_pairwise", {"bn2.weight"}),
        ("iau", {"edge.bias", "edge_context.weight", "edge_norm.weight", "update.1.weight", "part_update.1.weight"}),
        ("dca_se", {"mix_bias"}),
        ("dca_gc", {"mask.bias"}),
        ("dca_cbam", {"map_norm.weight", "mix_own", "mix_previous", "adapt.1.weight", "spatial.1.weight"}),
        ("fpt_self_trans", {"norm.weight", "project.weight"}),
        ("fpt_ground_trans", {"project.1.weight"}),
        ("ulsam", {"attend.1.weight", "attend.5.weight"}),
        ("splat_conv2d", {"bn0.weight", "bn1.weight"}),
    ],
)
def test_deployed_form_drops(name, gone):
    module = lively(name)
    assert gone <= set(dict(module.named_parameters()))
    assert not gone & set(fuse(module).state_dict())


def test_two_splits_need_half_of_the_last_layer():
    assert create("splat_conv2d").fc2.out_channels == 128
    assert fuse(create("splat_conv2d")).fc2.out_channels == 64


@pytest.mark.parametrize(
    ("name", "arguments", "shapes"),
    [
        ("splat_conv2d", {"groups": 2, "in_channels": 32, "out_channels": 24}, [(2, 32, 9, 7)]),
        ("splat_conv2d", {"radix": 3, "in_channels": 12, "out_channels": 8}, [(2, 12, 9, 7)]),
        ("san_pairwise", {"stride": 2, "dilation": 2, "kernel_size": 3}, [(2, 64, 9, 8)]),
        ("iau3d", {"channels": 16, "frames": 3}, [(2, 16, 3, 6, 5)]),
        ("fpt_self_trans", {"value_channels": 80}, [(2, 64, 6, 5)]),
        ("fpt_self_trans", {"value_channels": 48}, [(2, 64, 6, 5)]),
        ("fpt_self_trans", {"num_heads": 2, "query_transform": "dffn"}, [(2, 64, 6, 5)]),
        ("fpt_ground_trans", {"norm": False}, [(2, 64, 6, 5), (2, 64, 3, 4)]),
        ("fpt_ground_trans", {"mode": "gaussian"}, [(2, 64, 6, 5), (2, 64, 3, 4)]),
        ("dca_cbam", {"ratio": 1}, [(2, 64, 6, 5), (2, 32, 6, 5), (2, 32, 6, 5)]),
    ],
)
def test_deployed_form_of_other_configurations(name, arguments, shapes):
    module, given = lively(name, **arguments).double(), [t.double() for t in maps(*shapes)]
    with torch.no_grad():
        for a, b in zip(as_tuple(module(*given)), as_tuple(fuse(module)(*given)), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6 * max(1.0, float(a.abs().max())))


@pytest.mark.parametrize("name", ["danet_cam", "ia_block", "iau", "fpt_ground_trans:mode=gaussian"])
def test_large_inputs_stay_finite_in_half_precision(name):
    module = fuse(lively(name)).half()
    given = [t.clamp(-1, 1).mul(100).half() for t in maps((1, 64, 17, 22), (1, 64, 9, 11))]
    with torch.no_grad():
        assert torch.isfinite(module(*given[: 2 if "ground" in name else 1])).all()
