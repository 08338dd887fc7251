"""What is special about the mobile, large-kernel, wavelet and octave blocks and what goes with them.

The properties that every module must have are in test_contract.py; plain restatements are in
test_wave2_e_forms.py, gradients in test_gradients_e.py.
"""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from attn_deploy import create, export, fuse
from attn_deploy.errors import InvalidRequestError
from attn_deploy.fusing import fuse_with_report
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import assert_same_function, randomize


def ramp(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * scale + torch.linspace(-1, 1, shape[-1])


def made(name, **arguments):
    return randomize(create(name, **arguments)).eval()


# Arguments that are refused: registry name, arguments, what the message says.

REFUSED = [
    ("convnext_block", {"version": 3}, "version must be one of 1, 2"),
    ("convnext_block", {"kernel_size": 6}, "kernel_size must be odd"),
    ("convnext_block", {"drop_path": 1.0}, "drop_path must be at least 0 and below 1"),
    ("convnext_block", {"expansion": 0}, "expansion"),
    ("layer_norm_2d", {"eps": 0}, "eps must be above 0"),
    ("grn", {"channels": 0}, "channels"),
    ("mbconv", {"expand_ratio": 0.001}, "in_channels=64 and expand_ratio=0.001"),
    ("mbconv", {"kernel_size": 4}, "kernel_size must be odd"),
    ("mbconv", {"act": "tanh"}, "act must be one of"),
    ("mbconv", {"gate": "tanh"}, "gate must be one of"),
    ("mbconv", {"pad": "valid"}, "pad must be one of"),
    ("mbconv", {"se_ratio": 0.001}, "se_ratio must leave at least 1 of 256"),
    ("mbconv", {"pad": "same", "stride": 4}, "kernel_size=3 and stride=4"),
    ("inverted_residual", {"se_ratio": -1}, "se_ratio"),
    ("fused_mbconv", {"stride": 0}, "stride"),
    ("uib", {"start_kernel": 0, "mid_kernel": 0, "stride": 2}, "stride=2 needs a depthwise convolution"),
    ("uib", {"end_kernel": 2}, "end_kernel must be odd"),
    ("uib", {"pad": "valid"}, "pad must be one of"),
    ("uib", {"pad": "same", "stride": 4}, "a kernel of 3 and stride=4"),
    ("ghostmodule_v2", {"ratio": 1}, "ratio must be at least 2"),
    ("ghostv2_bottleneck", {"se_ratio": -0.5}, "se_ratio must be at least 0"),
    ("ghostv2_bottleneck", {"kernel_size": 2}, "kernel_size must be odd"),
    ("starnet_block", {"mlp_ratio": 0.001}, "mlp_ratio=0.001 and channels=64"),
    ("starnet_block", {"deploy_form": "dense"}, "deploy_form must be one of"),
    ("replk_reparam_conv", {"kernel_size": 3}, "small_kernel=5 and kernel_size=3"),
    ("replk_reparam_conv", {"kernel_size": 30}, "kernel_size must be odd"),
    ("replk_reparam_conv", {"small_kernel": 4}, "small_kernel must be odd"),
    ("replk_reparam_conv", {"groups": 7}, "in_channels=64 and groups=7"),
    ("replk_block", {"dw_channels": 0}, "dw_channels"),
    ("replk_ffn", {"hidden_channels": 0}, "hidden_channels"),
    ("dilated_reparam_block", {"kernel_size": 3}, "kernel_size must be one of 5, 7, 9"),
    ("unireplknet_block", {"kernel_size": 1}, "kernel_size must be one of 0, 3, 5"),
    ("unireplknet_block", {"channels": 3}, "channels=3 and reduction=4"),
    ("unireplknet_block", {"ffn_factor": 0}, "ffn_factor=0"),
    ("inception_dwconv", {"branch_ratio": 0.01}, "channels=64 and branch_ratio=0.01"),
    ("inception_dwconv", {"branch_ratio": 0.4}, "channels=64 and branch_ratio=0.4"),
    ("inception_dwconv", {"band_kernel_size": 10}, "band_kernel_size must be odd"),
    ("inception_next_block", {"mlp_ratio": 0}, "mlp_ratio=0"),
    ("inception_next_block", {"act": "tanh"}, "act must be one of"),
    ("cgnet_block", {"out_channels": 63, "add": False}, "out_channels=63"),
    ("cgnet_block", {"out_channels": 32}, "in_channels=64 and out_channels=32"),
    ("cgnet_block", {"reduction": 65}, "out_channels=64 and reduction=65"),
    ("cgnet_block_down", {"dilation": 0}, "dilation"),
    ("hetconv", {"p": 3}, "in_channels=64 and p=3"),
    ("hetconv", {"out_channels": 18}, "out_channels=18 and p=4"),
    ("hetconv", {"p": 1}, "p must be at least 2"),
    ("hetconv", {"deploy_form": "dense"}, "deploy_form must be one of"),
    ("dualconv", {"groups": 3}, "in_channels=64 and groups=3"),
    ("dualconv", {"deploy_form": "dense"}, "deploy_form must be one of"),
    ("octave_conv", {"alpha_in": 1.0}, "alpha_in must be at least 0 and below 1"),
    ("octave_conv", {"alpha_out": -0.1}, "alpha_out"),
    ("octave_conv", {"alpha_in": 0.001}, "alpha_in=0.001 and in_channels=64"),
    ("octave_conv", {"stride": 3}, "stride must be one of 1, 2"),
    ("octave_conv", {"padding": 0}, "padding=0 for kernel_size=3"),
    ("octave_conv", {"groups": 64, "alpha_in": 0}, "keeps the frequencies apart"),
    ("octave_conv", {"groups": 5}, "groups"),
    ("blurpool", {"filt_size": 8}, "filt_size must be one of"),
    ("blurpool", {"pad_type": "circular"}, "pad_type must be one of"),
    ("blurpool", {"pad_off": -1}, "pad_off"),
    ("coordconv", {"padding": -1}, "padding"),
    ("add_coords", {"channels": 0}, "channels"),
    ("pixel_shuffle_block", {"scale": 0}, "scale"),
    ("pixel_unshuffle_block", {"kernel_size": 2}, "kernel_size must be odd"),
    ("gelu_erf", {"approximate": "sigmoid"}, "approximate must be one of"),
    ("wtconv", {"wt_type": "db40"}, "wt_type must be one of"),
    ("wtconv", {"wt_levels": 0}, "wt_levels"),
    ("wtconv", {"kernel_size": 4}, "kernel_size must be odd"),
    ("repvit_block", {"out_channels": 32}, "in_channels=64, out_channels=32"),
    ("repvit_block", {"expand_ratio": 4}, "expand_ratio must be 2"),
    ("repvit_block", {"stride": 3}, "stride must be one of 1, 2"),
    ("sea_attention", {"attn_ratio": 0.01}, "attn_ratio=0.01 and key_dim=16"),
    ("sea_attention", {"act": "tanh"}, "act must be one of"),
]


@pytest.mark.parametrize(("name", "arguments", "says"), REFUSED)
def test_arguments_are_refused(name, arguments, says):
    with pytest.raises(InvalidRequestError, match=says):
        create(name, **arguments)


REFUSED_INPUTS = [
    ("ghostmodule_v2", {}, [(1, 64, 1, 8)], "at least 2, got 1x8"),
    ("ghostv2_bottleneck", {}, [(1, 64, 8, 1)], "at least 2, got 8x1"),
    ("blurpool", {}, [(1, 64, 2, 8)], "at least 3, got 2x8"),
    ("blurpool", {"filt_size": 3}, [(1, 64, 8, 1)], "at least 2, got 8x1"),
    ("coordconv", {}, [(1, 64, 1, 8)], "at least 2, got 1x8"),
    ("add_coords", {}, [(1, 64, 8, 1)], "at least 2, got 8x1"),
    ("pixel_unshuffle_block", {"scale": 3}, [(1, 64, 9, 8)], "multiples of 3, got 9x8"),
    ("octave_conv", {}, [(1, 32, 8, 8)], "the low map given is none"),
    ("octave_conv", {"alpha_in": 0}, [(1, 64, 8, 8), (1, 32, 4, 4)], "made for 0 low channels"),
    ("octave_conv", {}, [(1, 32, 7, 8), (1, 32, 3, 4)], "multiples of 2, got 7x8"),
    ("octave_conv", {"stride": 2}, [(1, 32, 6, 8), (1, 32, 3, 4)], "multiples of 4, got 6x8"),
    ("octave_conv", {}, [(1, 32, 8, 8), (1, 32, 4, 8)], "pool it to 4x4"),
    ("octave_conv", {}, [(1, 32, 8, 8), (1, 31, 4, 4)], r"\(N, 32, H, W\)"),
]


@pytest.mark.parametrize(("name", "arguments", "shapes", "says"), REFUSED_INPUTS)
def test_inputs_that_do_not_fit_are_refused(name, arguments, shapes, says):
    module = create(name, **arguments)
    with pytest.raises(ValueError, match=says):
        module(*[ramp(*s) for s in shapes])


# Parameter counts other than those of the reference configurations.

COUNTS = [
    ("convnext_block", {"version": 2}, 36_928),
    ("convnext_block", {"layer_scale_init_value": None}, 36_416),
    ("uib", {"layer_scale": None}, 37_952),
    ("uib", {"layer_scale": True}, 38_016),
    ("starnet_block", {"mlp_ratio": 4}, 56_384),
    ("dilated_reparam_block", {"kernel_size": 13}, 18_048),
    ("unireplknet_block", {"kernel_size": 13}, 54_032),
    ("coordconv", {"with_r": True}, 38_656),
    ("octave_conv", {"norm": True}, 36_992),
    ("wtconv", {"wt_levels": 3}, 23_744),
    ("repvit_block", {"use_se": True}, 19_856),
]


@pytest.mark.parametrize(("name", "arguments", "count"), COUNTS)
def test_parameter_counts_of_variants(name, arguments, count):
    assert sum(p.numel() for p in create(name, **arguments).parameters()) == count


def test_wavelet_filters_are_not_trained():
    assert sum(p.numel() for p in create("wtconv").parameters() if p.requires_grad) == 8_384


# Deployed forms of variants: equal, without a BatchNorm, and as small as they can be.

VARIANTS = [
    ("convnext_block", {"layer_scale_init_value": 0, "kernel_size": 3, "expansion": 2}),
    ("convnextv2_block", {"kernel_size": 5}),
    ("mbconv", {"se_ratio": 0, "stride": 2, "kernel_size": 5, "pad": "same", "out_channels": 40}),
    ("inverted_residual", {"act": "relu", "se_ratio": 0.25, "se_act": "relu", "gate": "hardsigmoid"}),
    ("inverted_residual", {"act": "gelu", "expand_ratio": 1}),
    ("fused_mbconv", {"pad": "same", "stride": 2, "se_ratio": 0.25, "act": "hardswish"}),
    ("uib", {"start_kernel": 0, "mid_kernel": 0, "end_kernel": 3, "se_ratio": 0.25}),
    ("uib", {"start_kernel": 3, "mid_kernel": 0, "stride": 2}),
    ("uib", {"stride": 2, "pad": "same"}),
    ("uib", {"start_kernel": 0, "mid_kernel": 0, "end_kernel": 5, "stride": 2, "out_channels": 24}),
    ("ghostmodule_v2", {"out_channels": 41, "kernel_size": 3, "stride": 2, "relu": False}),
    ("ghostv2_bottleneck", {"mid_channels": 45, "out_channels": 33, "stride": 2, "se_ratio": 0.25}),
    ("ghostv2_bottleneck", {"attention": False}),
    ("starnet_block", {"kernel_size": 3, "mlp_ratio": 1.5}),
    ("starnet_block", {"deploy_form": "one_conv"}),
    ("replk_block", {"kernel_size": 7, "small_kernel": None}),
    ("replk_block", {"kernel_size": 9, "small_kernel": 9, "dw_channels": 24}),
    ("replk_reparam_conv", {"kernel_size": 7, "groups": 4, "stride": 2, "out_channels": 32}),
    *(("dilated_reparam_block", {"kernel_size": k}) for k in (5, 9, 11, 15, 17)),
    *(("unireplknet_block", {"kernel_size": k}) for k in (0, 5, 17)),
    ("unireplknet_block", {"layer_scale_init_value": None, "ffn_factor": 2}),
    ("inception_next_block", {"layer_scale_init_value": 0, "act": "relu", "branch_ratio": 1 / 3}),
    ("cgnet_block", {"out_channels": 32, "add": False, "dilation": 3}),
    ("cgnet_block_down", {"out_channels": 48, "dilation": 4, "reduction": 8}),
    ("hetconv", {"deploy_form": "one_conv", "out_channels": 40, "p": 8, "stride": 2}),
    ("hetconv", {"p": 2, "stride": 2}),
    ("dualconv", {"deploy_form": "one_conv"}),
    ("dualconv", {"deploy_form": "one_conv", "groups": 8, "out_channels": 40, "stride": 2}),
    ("octave_conv", {"norm": True, "act": "silu", "bias": True, "stride": 2, "alpha_in": 0.25, "alpha_out": 0.75}),
    ("octave_conv", {"norm": True, "groups": 64, "kernel_size": 5, "act": "relu"}),
    ("octave_conv_first", {"norm": True, "alpha_out": 0.3}),
    ("octave_conv_last", {"norm": True, "dilation": 2}),
    ("pixel_unshuffle_block", {"scale": 3, "kernel_size": 5, "out_channels": 8}),
    ("wtconv", {"wt_levels": 4, "kernel_size": 3, "stride": 3, "bias": False}),
    ("wtconv", {"wt_type": "db2", "wt_levels": 2}),
    ("repvit_block", {"use_se": True}),
    ("repvit_block", {"use_se": True, "stride": 2, "kernel_size": 5, "out_channels": 80}),
    ("sea_attention", {"key_dim": 8, "num_heads": 2, "attn_ratio": 1.5, "act": "silu", "pos_len": 5}),
]


def inputs_of(name, arguments, height=12, width=24):
    if not name.startswith("octave"):
        return [ramp(2, 64, height, width)]
    alpha = arguments.get("alpha_in", 0 if name == "octave_conv_first" else 0.5)
    low = int(alpha * 64)
    maps = [ramp(2, 64 - low, height, width), ramp(2, low, height // 2, width // 2)]
    return maps if low else maps[:1]


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_deployed_forms_of_variants(name, arguments):
    module = made(name, **arguments)
    result = fuse_with_report(module)
    assert_same_function(result.model, module, inputs_of(name, arguments))
    assert_same_function(fuse(result.model), module, inputs_of(name, arguments, 24, 12))
    assert result.left == ()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in result.model.modules())


ONE_CONV = {
    "hetconv:deploy_form=one_conv": 64 * 64 * 9,
    "dualconv:deploy_form=one_conv": 64 * 64 * 9,
    "dilated_reparam_block": 64 * 50,
    "replk_reparam_conv": 64 * (31 * 31 + 1),
    "pixel_unshuffle_block": 64 * (64 * 36 + 1),
}


@pytest.mark.parametrize("name", ONE_CONV)
def test_what_becomes_a_single_convolution(name, tmp_path):
    assert sum(p.numel() for p in fuse(resolve(name).module).parameters()) == ONE_CONV[name]
    artifact = export(name, tmp_path / "m.onnx", opset=17, exporter="torchscript")
    assert [n.op_type for n in onnx.load(artifact.path).graph.node] == ["Conv"]


FUSED_CONVS = {
    "starnet_block": 5,
    "starnet_block:deploy_form=one_conv": 4,
    "repvit_block": 3,
    "convnext_block": 1,
    "convnextv2_block": 3,
    "unireplknet_block": 5,
    "cgnet_block": 5,
}


@pytest.mark.parametrize("name", FUSED_CONVS)
def test_count_of_convolutions_after_fusing(name, tmp_path):
    artifact = export(name, tmp_path / "m.onnx", opset=13, exporter="torchscript")
    nodes = [n.op_type for n in onnx.load(artifact.path).graph.node]
    assert nodes.count("Conv") == FUSED_CONVS[name]
    assert "BatchNormalization" not in nodes


# Forms at two opsets and with both exporters, at sizes of every parity.

FORMS = ["wtconv:wt_levels=2,kernel_size=3", "octave_conv:norm=True,stride=2", "coordconv:with_r=True,stride=2"]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("exporter", "opset"), [("torchscript", 13), pytest.param("dynamo", 18, marks=pytest.mark.slow)]
)
def test_variants_export_with_every_axis_moving(name, exporter, opset, tmp_path):
    artifact = export(name, tmp_path / "m.onnx", exporter=exporter, opset=opset)
    assert artifact.opset == opset
    assert {"N", "H", "W"} <= set(artifact.dynamic_axes)


@pytest.mark.parametrize("name", ["gelu_erf", "gelu_tanh"])
def test_gelu_is_one_operator_from_opset_20_on(name, tmp_path):
    artifact = export(name, tmp_path / "m.onnx", exporter="torchscript", opset=20)
    assert [n.op_type for n in onnx.load(artifact.path).graph.node] == ["Gelu"]


@pytest.mark.parametrize(("stride", "operator"), [(1, "Resize"), (2, "Resize"), (3, "Gather")])
def test_the_ghost_gate_is_gathered_where_a_resize_could_round(stride, operator, tmp_path):
    artifact = export(f"ghostmodule_v2:stride={stride}", tmp_path / "m.onnx", exporter="torchscript", opset=13)
    nodes = [n.op_type for n in onnx.load(artifact.path).graph.node]
    assert ("Resize" in nodes) == (operator == "Resize")
    assert operator in nodes
