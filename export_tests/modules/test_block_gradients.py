"""Gradients of the blocks in reference_cases_wave2_e: numerically right in both modes, and none of them zero."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from attn_deploy import create
from export_tests.helpers import as_tuple, randomize

PAIR = {"in_channels": 8, "out_channels": 8}
ONE = [(2, 8, 6, 5)]
HALVES = [(2, 4, 6, 8), (2, 4, 3, 4)]
# Registry name (with the arguments that are not the defaults) -> arguments and shapes of the inputs.
CASES = {
    "convnext_block": ({"channels": 8}, ONE),
    "convnextv2_block": ({"channels": 8}, ONE),
    "grn": ({"channels": 8}, ONE),
    "layer_norm_2d": ({"channels": 8}, ONE),
    "mbconv": (PAIR, ONE),
    "mbconv:pad=same": ({**PAIR, "pad": "same", "stride": 2, "out_channels": 6}, ONE),
    "inverted_residual": (PAIR, ONE),
    "inverted_residual:act=hardswish": ({**PAIR, "act": "hardswish", "gate": "hardsigmoid", "se_ratio": 0.25}, ONE),
    "fused_mbconv": ({**PAIR, "se_ratio": 0.25}, ONE),
    "uib": ({**PAIR, "end_kernel": 3}, ONE),
    "ghostmodule_v2": (PAIR, ONE),
    "ghostv2_bottleneck": ({**PAIR, "mid_channels": 12, "se_ratio": 0.5, "stride": 2}, ONE),
    "starnet_block": ({"channels": 8}, ONE),
    "replk_block": ({"channels": 8, "kernel_size": 7}, ONE),
    "replk_reparam_conv": ({**PAIR, "groups": 4, "kernel_size": 5, "small_kernel": 3}, ONE),
    "replk_ffn": ({"channels": 8}, ONE),
    "dilated_reparam_block": ({"channels": 8}, ONE),
    "unireplknet_block": ({"channels": 8}, ONE),
    "unireplknet_block:kernel_size=0": ({"channels": 8, "kernel_size": 0}, ONE),
    "inception_dwconv": ({"channels": 8}, ONE),
    "inception_next_block": ({"channels": 8}, ONE),
    "cgnet_block": ({**PAIR, "reduction": 1}, ONE),
    "cgnet_block_down": ({**PAIR, "reduction": 1}, ONE),
    "hetconv": (PAIR, ONE),
    "hetconv:stride=2": ({**PAIR, "stride": 2}, ONE),
    "dualconv": (PAIR, ONE),
    "octave_conv": ({**PAIR, "norm": True}, HALVES),
    "octave_conv_first": (PAIR, [(2, 8, 6, 8)]),
    "octave_conv_last": (PAIR, HALVES),
    "blurpool": ({"channels": 8}, ONE),
    "coordconv": ({**PAIR, "with_r": True}, ONE),
    "add_coords": ({"channels": 8}, ONE),
    "pixel_shuffle_block": (PAIR, ONE),
    "pixel_unshuffle_block": (PAIR, [(2, 8, 6, 4)]),
    "gelu_erf": ({}, ONE),
    "gelu_tanh": ({}, ONE),
    "gelu_quick": ({}, ONE),
    "wtconv": ({"channels": 8, "wt_levels": 2}, ONE),
    "wtconv:wt_type=db2": ({"channels": 8, "wt_type": "db2", "stride": 2}, ONE),
    "repvit_block": ({**PAIR, "use_se": True}, ONE),
    "repvit_block:stride=2": ({**PAIR, "stride": 2}, ONE),
    "sea_attention": ({"channels": 8, "key_dim": 4, "num_heads": 2, "pos_len": 7}, ONE),
}


def double_precision(name):
    arguments, shapes = CASES[name]
    torch.manual_seed(0)
    module = randomize(create(name.split(":")[0], **arguments)).double()
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    return module, inputs


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_small_differences(name, mode):
    module, inputs = double_precision(name)
    module.train(mode == "train")
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}

    def function(*tensors):
        values = dict(zip(trained, tensors[len(inputs) :], strict=True))
        return as_tuple(functional_call(module, values, tensors[: len(inputs)]))

    parameters = [p.detach().clone().requires_grad_() for p in trained.values()]
    assert torch.autograd.gradcheck(function, (*inputs, *parameters), fast_mode=True, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_moves_the_output(name):
    module, inputs = double_precision(name)
    outputs = as_tuple(module.eval()(*inputs))
    sum((o * torch.randn_like(o)).sum() for o in outputs).backward()
    still = [n for n, p in module.named_parameters() if p.requires_grad and not float(p.grad.abs().max()) > 1e-9]
    assert not still, f"{still} cannot move the output"
    assert all(float(x.grad.abs().max()) > 1e-9 for x in inputs)
