"""What is special about the re-parameterised, dynamic and deformable convolutions, the up-samplers and the slim neck.

The properties that every module must have are in test_contract.py.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy import create, export, fuse, load_official_state_dict
from attn_deploy.errors import AttnDeployError, InvalidRequestError
from attn_deploy.fusing import fuse_with_report
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.ops import bilinear_sample
from export_tests.helpers import assert_same_function, randomize, read_vectors
from export_tests.modules.reference_cases import REFERENCE_CASES as CASES

IO = {"in_channels": 8, "out_channels": 8}


def ramp(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) + torch.linspace(-1, 1, shape[-1])


def made(name, **arguments):
    return randomize(create(name, **arguments)).eval()


REFUSED = [
    ("repvgg_block", {"kernel_size": 5}, "kernel_size must be 3, got 5"),
    ("repvgg_block", {"dilation": 2}, "dilation must be 1, got 2"),
    ("repvgg_block", {"padding_mode": "reflect"}, "padding_mode must be 'zeros', got 'reflect'"),
    ("repvgg_block", {"groups": 3}, "in_channels=64 and groups=3"),
    ("repvgg_block", {"out_channels": 66, "groups": 4}, "out_channels=66 and groups=4"),
    ("repvgg_block", {"out_channels": 8, "use_se": True}, "out_channels=8"),
    ("repvgg_block", {"use_se": "both"}, "use_se must be one of"),
    ("qarepvgg_block", {"version": 3}, "version must be one of 1, 2"),
    ("qarepvgg_block", {"dilation": 2}, "dilation must be 1, got 2"),
    ("repconv", {"bn": True, "stride": 2}, "stride=2"),
    ("repconv", {"kernel_size": 1}, "kernel_size must be 3, got 1"),
    ("repconv", {"act": "tanh"}, "act must be one of"),
    ("repc3", {"e": 0.001}, r"out_channels=64 and e=0\.001"),
    ("diverse_branch_block", {"kernel_size": 4}, "kernel_size must be odd"),
    ("diverse_branch_block", {"dilation": 2}, "dilation must be 1"),
    ("diverse_branch_block", {"in_channels": 128, "groups": 64}, "in_channels=128 and groups=out_channels=64"),
    ("diverse_branch_block", {"groups": 4, "internal_channels": 30}, "internal_channels=30 and groups=4"),
    ("mobileone_block", {"kernel_size": 2}, "kernel_size must be odd"),
    ("mobileone_block", {"dilation": 2}, "dilation must be 1"),
    ("mobileone_block", {"num_conv_branches": 0}, "num_conv_branches"),
    ("mobileone_block", {"out_channels": 8, "use_se": True}, "out_channels=8"),
    ("pconv", {"channels": 3}, "channels=3 and n_div=4"),
    ("fasternet_block", {"drop_path": 1.0}, "drop_path"),
    ("fasternet_block", {"mlp_ratio": 0.001}, r"mlp_ratio=0\.001"),
    ("odconv", {"kernel_num": 0}, "kernel_num"),
    ("odconv", {"groups": 3}, "in_channels=64 and groups=3"),
    ("odconv", {"temperature": 0}, "temperature must be above 0, got 0"),
    ("carafe", {"up_kernel": 4}, "up_kernel must be odd"),
    ("carafe", {"encoder_kernel": 2}, "encoder_kernel must be odd"),
    ("carafe", {"up_group": 3}, "channels=64 and up_group=3"),
    ("dysample", {"style": "xy"}, "style must be one of 'lp', 'pl'"),
    ("dysample", {"groups": 3}, "channels=64 and groups=3"),
    ("dysample", {"channels": 20, "style": "pl", "scale": 3}, "channels=20"),
    ("spd_conv", {"kernel_size": 2}, "kernel_size must be odd"),
    ("gsconv", {"out_channels": 63}, "out_channels=63"),
    ("gsconv", {"shuffle": "random"}, "shuffle must be one of"),
    ("gs_bottleneck", {"out_channels": 6}, "which give 3"),
    ("vovgscsp", {"variant": "yolov8"}, "variant must be one of"),
    ("vovgscsp", {"out_channels": 10}, "which give 5"),
    ("scconv_recon", {"group_num": 3}, "channels=64 and group_num=3"),
    ("scconv_recon_sru", {"channels": 15, "group_num": 3}, "channels=15"),
    ("scconv_recon_cru", {"alpha": 1.0}, r"alpha must be above 0 and below 1, got 1\.0"),
    ("scconv_recon_cru", {"group_kernel_size": 2}, "group_kernel_size must be odd"),
    ("scconv_recon_cru", {"group_size": 3}, "channels=64 and group_size=3"),
    ("scconv_recon_cru", {"squeeze_ratio": 64}, "squeeze_ratio=64"),
    ("rfaconv", {"kernel_size": 2}, "kernel_size must be odd"),
    ("deformable_conv_v2", {"deform_groups": 3}, "in_channels=64 and deform_groups=3"),
    ("deformable_conv_v2", {"padding": -1}, "padding"),
    ("deformable_conv_v2", {"sampling": "grid_sample"}, "sampling must be one of"),
    ("dcn_v3", {"group": 3}, "channels=64 and group=3"),
    ("dcn_v3", {"kernel_size": 5}, "use an odd kernel_size and pad=2"),
    (
        "dcn_v3",
        {"kernel_size": 4, "remove_center": True, "dw_kernel_size": 3},
        "remove_center needs an odd kernel_size",
    ),
    ("dcn_v3", {"norm": "group"}, "norm must be one of"),
    ("snake_conv", {"morph": 2}, "morph must be one of 0, 1"),
    ("snake_conv", {"kernel_size": 4}, "kernel_size must be odd"),
    ("snake_conv", {"out_channels": 62}, "out_channels=62"),
]


@pytest.mark.parametrize(("name", "arguments", "says"), REFUSED, ids=lambda v: v if isinstance(v, str) else None)
def test_arguments_that_cannot_work_are_refused(name, arguments, says):
    with pytest.raises(ValueError, match=says):
        create(name, **arguments)


@pytest.mark.parametrize("name", ["space_to_depth", "spd_conv"])
def test_odd_sizes_are_refused(name):
    with pytest.raises(ValueError, match=r"multiples of 2, got 6x5: pad the map to 6x6"):
        create(name)(torch.zeros(1, 64, 6, 5))


COUNTS = [
    ("repvgg_block", {"stride": 2}, 41_216),
    ("repvgg_block", {"use_se": True}, 41_924),
    ("repvgg_block", {"post_se": True}, 43_472),
    ("repvgg_block", {"use_se": "post"}, 43_472),
    ("diverse_branch_block", {"groups": 64}, 2_496),
    ("diverse_branch_block", {"kernel_size": 5, "groups": 2}, 109_312),
    ("mobileone_block", {"num_conv_branches": 4}, 152_320),
    ("mobileone_block", {"num_conv_branches": 4, "groups": 64}, 3_136),
    ("mobileone_block", {"use_se": True}, 41_924),
    ("fasternet_block", {"layer_scale_init_value": 1e-5}, 19_008),
    ("odconv", {"kernel_num": 1}, 40_249),
    ("odconv", {"kernel_num": 1, "kernel_size": 1}, 7_328),
    ("dysample", {"dyscope": True}, 4_128),
    ("dysample", {"style": "pl"}, 136),
    ("dysample", {"style": "pl", "dyscope": True}, 264),
    ("spd_conv", {"kernel_size": 1}, 16_512),
    ("gsconv", {"kernel_size": 3}, 19_360),
    ("vovgscsp", {"variant": "paper"}, 22_072 - 9_280),  # without the layer that is never used
]
DEPLOYED = [
    ("repvgg_block", {}, 36_928),
    ("repconv", {"bn": True}, 36_928),
    ("qarepvgg_block", {}, 36_928),
    ("qarepvgg_block_v2", {}, 36_928),
    ("diverse_branch_block", {}, 36_928),
    ("diverse_branch_block", {"groups": 64}, 640),
    ("mobileone_block", {"num_conv_branches": 4}, 36_928),
    ("spd_conv", {}, 147_520),
]


@pytest.mark.parametrize(("name", "arguments", "count"), COUNTS)
def test_parameter_counts_of_variants(name, arguments, count):
    assert sum(p.numel() for p in create(name, **arguments).parameters()) == count


@pytest.mark.parametrize(("name", "arguments", "count"), DEPLOYED)
def test_parameter_counts_of_deployed_forms(name, arguments, count):
    fused = fuse(create(name, **arguments))
    assert sum(p.numel() for p in fused.parameters()) == count
    assert [type(m) for m in fused.modules() if isinstance(m, nn.Conv2d)] == [nn.Conv2d]


# Deployed forms beyond the reference configurations, and what is said of them.

ONE = "merged {} branches into one convolution"
FUSED = [
    ("repvgg_block", {**IO, "stride": 2}, ONE.format(2)),
    ("repvgg_block", {**IO, "groups": 4}, ONE.format(3)),
    ("repvgg_block", {"in_channels": 32, "out_channels": 32, "use_se": "pre", "post_se": True}, ONE.format(3)),
    ("repconv", {**IO, "bn": True, "groups": 2, "act": None}, ONE.format(3)),
    ("repc3", {**IO, "e": 0.5}, ONE.format(2)),
    ("qarepvgg_block", {**IO, "stride": 2}, ONE.format(2)),
    ("qarepvgg_block", {**IO, "version": 2, "groups": 4}, ONE.format(4)),
    ("diverse_branch_block", {**IO, "kernel_size": 1}, ONE.format(4)),
    ("diverse_branch_block", {**IO, "kernel_size": 5, "groups": 2, "stride": 2}, ONE.format(4)),
    ("diverse_branch_block", {**IO, "groups": 8, "single_init": True, "activation": "silu"}, ONE.format(3)),
    ("diverse_branch_block", {**IO, "groups": 2, "internal_channels": 12}, ONE.format(4)),
    ("mobileone_block", {**IO, "num_conv_branches": 3, "groups": 8, "kernel_size": 5}, ONE.format(5)),
    ("mobileone_block", {**IO, "kernel_size": 1, "num_conv_branches": 2}, ONE.format(3)),
    ("fasternet_block", {"channels": 8, "layer_scale_init_value": 0.1}, "folded the BatchNorm and the layer scale"),
    ("odconv", {**IO, "temperature": 3.0}, "folded the BatchNorm and folded the temperature"),
    ("dysample", {"channels": 16}, "folded the range and the grid"),
    ("dysample", {"channels": 16, "dyscope": True}, "folded the range"),
    ("dysample", {"channels": 16, "style": "pl"}, "folded the range"),
    (
        "spd_conv",
        {**IO, "kernel_size": 5, "act": None},
        "merged slices, convolution and BatchNorm into one convolution",
    ),
    ("gs_bottleneck", {**IO, "shuffle": "interleave"}, "folded a channel shuffle into the next convolution"),
    ("gs_bottleneck", {**IO, "shuffle": "deinterleave"}, "folded a channel shuffle into the next convolution"),
    ("vovgscsp", {**IO, "n": 3}, "folded 6 channel shuffles into the next convolutions"),
    ("vovgscsp", {**IO, "variant": "paper"}, "folded 2 channel shuffles into the next convolutions"),
    ("scconv_recon", {"channels": 8}, "folded the channel shares of the gate into the GroupNorm"),
    ("rfaconv", {**IO, "stride": 2, "kernel_size": 5}, "merged the pooling into the convolution of the weights"),
    ("dcn_v3", {"channels": 8, "offset_scale": 2.0, "norm": "batch"}, "folded the scale into the offsets"),
    ("snake_conv", {**IO, "morph": 0}, "dropped 8 unused offsets"),
    ("snake_conv", {**IO, "morph": 1, "kernel_size": 5}, "dropped 4 unused offsets"),
]


@pytest.mark.parametrize(("name", "arguments", "says"), FUSED, ids=lambda v: v if isinstance(v, str) else None)
def test_deployed_forms_are_exact_and_reported(name, arguments, says):
    module = made(name, **arguments)
    result = fuse_with_report(module)
    assert says in {words for _, words in result.changes}
    assert result.left == ()
    channels = arguments.get("in_channels", arguments.get("channels"))
    for size in ((2, channels, 12, 18), (1, channels, 8, 6)):
        assert_same_function(result.model, module, [ramp(*size)])
        assert_same_function(fuse(result.model), module, [ramp(*size, seed=1)])


def test_shuffles_between_convolutions_are_gone():
    fused = fuse(made("vovgscsp", n=2))
    assert [m.shuffle for m in fused.modules() if hasattr(m, "shuffle")] == [None] * 4


@pytest.mark.parametrize(
    ("name", "key"), [("repvgg_block", "rbr_reparam"), ("mobileone_block", "reparam_conv"), ("repconv", "conv")]
)
def test_official_deployed_weights_load_into_the_deployed_form(name, key):
    source, target = fuse(made(name, **IO)), fuse(randomize(create(name, **IO), seed=5))
    state = {f"{key}.{k}": v for k, v in source.fused.state_dict().items()}
    load_official_state_dict(target, state)
    assert_same_function(target, source, [ramp(2, 8, 9, 7)])


def test_a_slim_neck_without_its_own_keys_is_refused():
    with pytest.raises(InvalidRequestError, match=r"gsb\.0"):
        load_official_state_dict(create("vovgscsp"), {"res.conv.weight": torch.zeros(1)})


# Variants.


@pytest.mark.parametrize(("shuffle", "order"), [("interleave", (0, 2, 1, 3)), ("deinterleave", (0, 2, 1, 3))])
def test_shuffles_of_four_channels(shuffle, order):
    module = made("gsconv", in_channels=4, out_channels=4, shuffle=shuffle)
    x = ramp(1, 4, 5, 5)
    first = module.cv1(x)
    assert torch.equal(module(x), torch.cat([first, module.cv2(first)], 1)[:, order])


def test_shuffles_differ_at_more_channels():
    order = {
        s: create("gsconv", out_channels=8, shuffle=s).without_shuffle_().tolist()
        for s in ("interleave", "deinterleave")
    }
    assert order == {"interleave": [0, 4, 1, 5, 2, 6, 3, 7], "deinterleave": [0, 2, 4, 6, 1, 3, 5, 7]}


def test_blocks_of_space_to_depth_come_in_the_official_order():
    x = ramp(2, 3, 6, 8)
    y = create("space_to_depth", channels=3)(x)
    unshuffled = F.pixel_unshuffle(x, 2).reshape(2, 3, 4, 3, 4)  # channel, then 2 * row + column
    assert torch.equal(y.reshape(2, 4, 3, 3, 4), unshuffled[:, :, [0, 2, 1, 3]].transpose(1, 2))


def test_untouched_channels_of_pconv_are_the_input():
    x = ramp(1, 18, 5, 6)
    assert torch.equal(made("pconv", channels=18)(x)[:, 4:], x[:, 4:])


def test_squeeze_and_excitation_of_repvgg_sees_the_whole_map():
    module = made("repvgg_block", in_channels=16, out_channels=16, use_se=True)
    x = ramp(1, 16, 20, 6)
    changed = x.clone()
    changed[:, :, -1] += 5.0
    with torch.no_grad():
        assert (module(changed) - module(x))[:, :, :10].abs().max() > 1e-4


def test_odconv_is_a_mixture_of_its_kernels():
    module = made(
        "odconv", in_channels=6, out_channels=4, kernel_num=3, groups=2, stride=2, dilation=2, temperature=2.0
    )
    x = ramp(2, 6, 9, 8)
    with torch.no_grad():
        channel, outputs, taps, copies = module.attention(x, 2.0)
        expected = []
        for n in range(2):
            kernel = (copies[n].reshape(3, 1, 1, 1, 1) * taps[n].reshape(1, 1, 1, 3, 3) * module.weight).sum(0)
            expected.append(F.conv2d(x[n : n + 1] * channel[n], kernel, None, 2, 2, 2, 2) * outputs[n])
        torch.testing.assert_close(module(x), torch.cat(expected))


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_stochastic_depth_keeps_whole_branches(rate):
    module = made("fasternet_block", channels=8, drop_path=rate)
    x = ramp(64, 8, 3, 3)
    assert torch.equal(module(x), module(x))
    module.train()
    module.mlp[1].eval()
    with torch.no_grad():
        branch = (module(x) - x).flatten(1)
        whole = module.mlp(module.spatial_mixing(x)).flatten(1) / (1 - rate)
    dropped = (branch == 0).all(1)
    assert (0 < int(dropped.sum()) < 64) if rate else not dropped.any()
    torch.testing.assert_close(branch[~dropped], whole[~dropped], rtol=1e-4, atol=1e-4)


# Sampling.


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_bilinear_sample_is_grid_sample(padding):
    maps = ramp(2, 6, 5, 7).double().requires_grad_()
    generator = torch.Generator().manual_seed(3)
    columns, rows = (
        (torch.rand(2, 11, 2, 3, generator=generator, dtype=torch.float64) * 3 * n - n).requires_grad_() for n in (7, 5)
    )
    given = (maps, columns, rows)
    ours = bilinear_sample(maps.permute(0, 2, 3, 1), columns, rows, channels=6, groups=2, taps=3, padding=padding)
    grid = torch.stack([columns / 6 * 2 - 1, rows / 4 * 2 - 1], 4).transpose(1, 2).reshape(4, 11, 3, 2)
    theirs = F.grid_sample(maps.reshape(4, 3, 5, 7), grid, padding_mode=padding, align_corners=True)
    theirs = theirs.reshape(2, 2, 3, 11, 3).permute(0, 3, 1, 4, 2)
    torch.testing.assert_close(ours, theirs)
    seed = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(torch.autograd.grad(ours, given, seed), torch.autograd.grad(theirs, given, seed), strict=True):
        torch.testing.assert_close(a, b)


def test_bilinear_sample_survives_positions_far_outside():
    far = torch.tensor([-1e30, 1e30, -1.0, 5.0]).reshape(1, 4, 1, 1)
    values = bilinear_sample(torch.ones(1, 5, 5, 2), far, far, channels=2)
    assert torch.equal(values, torch.zeros(1, 4, 1, 1, 2))


@pytest.mark.parametrize("name", ["dysample", "deformable_conv_v2", "dcn_v3", "snake_conv"])
def test_positions_of_half_precision_are_exact_on_wide_maps(name):
    torch.manual_seed(0)
    module = create(name, **({"channels": 8} if name in ("dysample", "dcn_v3") else IO)).eval()
    x = torch.rand(1, 8, 3, 1500).half()
    with torch.no_grad():
        whole, half = module(x.float()), module.half()(x)
    assert half.dtype == torch.float16
    assert (half.float() - whole).abs().mean() < 0.01


@pytest.mark.parametrize("groups", [1, 8])
def test_a_diverse_branch_block_in_half_precision(groups):
    module = made("diverse_branch_block", **IO, groups=groups)
    x = ramp(1, 8, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(module.half()(x.half()).float(), fuse(module.float())(x), rtol=0.05, atol=0.05)


SAMPLED = (
    "deformable_conv_v2",
    "deformable_conv_v2_s2",
    "dysample",
    "dysample_pl",
    "dcn_v3_cfs_rc",
    "dcn_v3_k5_d2",
    "snake_conv_y",
)


@pytest.mark.parametrize(
    ("stem", "exporter", "opset"),
    [
        *((stem, "torchscript", 13) for stem in SAMPLED[1::2]),
        *(pytest.param(stem, "torchscript", 13, marks=pytest.mark.slow) for stem in SAMPLED[::2]),
        *(pytest.param(stem, "dynamo", 18, marks=pytest.mark.slow) for stem in SAMPLED),
        ("deformable_conv_v2_s2", "deform_conv", 19),
        pytest.param("deformable_conv_v2_d2", "deform_conv", 20, marks=pytest.mark.slow),
    ],
)
def test_exported_files_give_the_official_numbers(stem, exporter, opset, tmp_path, reference_folder):
    runtime = pytest.importorskip("onnxruntime")
    name, arguments = CASES[stem]
    vectors = read_vectors(reference_folder / f"{stem}.npz")
    for kind in ("torchscript", "dynamo") if exporter == "deform_conv" else (exporter,):
        module = create(name, **arguments, **({"sampling": exporter} if exporter == "deform_conv" else {}))
        load_official_state_dict(module, vectors["state"])
        inputs = parse_inputs(["2x{}x{}x{}".format(vectors["inputs"][0].shape[1], 10, 14)])
        export(module, tmp_path / "m.onnx", inputs=inputs, exporter=kind, opset=opset)
        session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {session.get_inputs()[0].name: vectors["inputs"][0].numpy()})
        scale = max(1.0, float(np.abs(vectors["outputs"][0]).max()))
        np.testing.assert_allclose(y, vectors["outputs"][0], rtol=1e-4, atol=1e-5 * scale)
        kinds = {n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node}
        assert ("DeformConv" in kinds) == (exporter == "deform_conv")
        assert "GridSample" not in kinds


@pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)])
def test_the_operator_deformconv_needs_opset_19(exporter, tmp_path):
    with pytest.raises(AttnDeployError, match="DeformConv"):
        export("deformable_conv_v2:sampling=deform_conv", tmp_path / "m.onnx", exporter=exporter, opset=18)
