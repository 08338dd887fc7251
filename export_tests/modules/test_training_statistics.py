"""Gradients and training statistics of the modules of test_wave2_c.py."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy import create
from export_tests.helpers import randomize
from export_tests.modules.test_convolution_blocks import IO, ramp

SMALL = {
    "repvgg_block": [{**IO, "groups": 2}, {"in_channels": 16, "out_channels": 16, "use_se": "pre", "post_se": True}],
    "repconv": [{**IO, "bn": True}],
    "repc3": [{**IO, "n": 1, "e": 0.5}],
    "qarepvgg_block": [IO],
    "qarepvgg_block_v2": [IO],
    "diverse_branch_block": [{**IO, "activation": "silu"}, {**IO, "groups": 8}],
    "mobileone_block": [{**IO, "num_conv_branches": 2}],
    "pconv": [{"channels": 8}],
    "fasternet_block": [{"channels": 8, "act": "gelu", "layer_scale_init_value": 0.1}],
    "odconv": [{**IO, "kernel_num": 2, "groups": 2}, {**IO, "kernel_num": 1, "kernel_size": 1}],
    "carafe": [{"channels": 4, "up_kernel": 3, "up_group": 2, "compressed_channels": 4}],
    "dysample": [{"channels": 8, "dyscope": True}, {"channels": 8, "style": "pl", "groups": 2}],
    "spd_conv": [IO],
    "space_to_depth": [{"channels": 3}],
    "gsconv": [{**IO, "act": "mish"}],
    "gs_bottleneck": [IO],
    "vovgscsp": [{**IO, "n": 1}],
    "scconv_recon": [{"channels": 8}],
    "scconv_recon_sru": [{"channels": 8, "group_num": 2}],
    "scconv_recon_cru": [{"channels": 8}],
    "rfaconv": [{"in_channels": 4, "out_channels": 4}],
    "rfcaconv": [{"in_channels": 4, "out_channels": 4}],
    "rfcbamconv": [{"in_channels": 4, "out_channels": 4}],
    "deformable_conv_v2": [{**IO, "groups": 2, "deform_groups": 2}],
    "dcn_v3": [{"channels": 8, "center_feature_scale": True}, {"channels": 8, "norm": "batch", "remove_center": True}],
    "snake_conv": [{**IO, "kernel_size": 3}, {**IO, "kernel_size": 3, "morph": 1}],
}
CASES = [(name, arguments) for name, several in SMALL.items() for arguments in several]


def _lively(name, arguments):
    """A module in float64 whose every parameter is random: a zero may sit on a kink, or hide what it multiplies."""
    module = randomize(create(name, **arguments)).double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def _input(arguments):
    return ramp(2, arguments.get("in_channels", arguments.get("channels")), 6, 8).double()


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=lambda v: v if isinstance(v, str) else None)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradients_c(name, arguments, training):
    if training and name == "diverse_branch_block":
        pytest.skip("the border of its inner maps is detached in training: held against a restatement below")
    module = _lively(name, arguments).train(training)
    names = [n for n, _ in module.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(copy.deepcopy(module), dict(zip(names, values, strict=True)), (x,))

    values = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert torch.autograd.gradcheck(run, (_input(arguments).requires_grad_(), *values), fast_mode=True, atol=1e-4)


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=lambda v: v if isinstance(v, str) else None)
def test_every_parameter_moves_the_output_c(name, arguments):
    module = _lively(name, arguments).eval()
    x = _input(arguments)
    with torch.no_grad():
        before = module(x)
        for parameter_name, parameter in module.named_parameters():
            kept = parameter.clone()
            parameter.mul_(1.5).add_(0.05)
            assert (module(x) - before).abs().max() > 1e-9, f"{parameter_name} does nothing"
            parameter.copy_(kept)


def _bordered(conv, bn, weight, x, padding):
    """A 1x1 convolution, BatchNorm, and a border of what the BatchNorm makes of 0, which no gradient passes."""
    y = bn(F.conv2d(x, weight, groups=conv.groups))
    value = (bn.bias - bn.running_mean * bn.weight / (bn.running_var + bn.eps).sqrt()).detach()
    border = (
        value.reshape(1, -1, 1, 1).expand(y.shape[0], -1, y.shape[2] + 2 * padding, y.shape[3] + 2 * padding).clone()
    )
    border[:, :, padding:-padding, padding:-padding] = y
    return border


def _diverse_branches(module, x):
    """The block in training, written with the border as slices."""
    inner = module.inner
    weight = inner.conv.weight
    if inner.identity is not None:
        eye = torch.zeros_like(weight)
        for i in range(weight.shape[0]):
            eye[i, i % weight.shape[1]] = 1
        weight = weight + eye
    y = module.origin(x) + module.outer(_bordered(inner.conv, inner.bn, weight, x, module.padding))
    if module.average is None:
        return y + module.average_bn(F.avg_pool2d(x, module.kernel_size, module.stride, module.padding))
    average = _bordered(module.average.conv, module.average.bn, module.average.conv.weight, x, module.padding)
    return y + module.average_bn(F.avg_pool2d(average, module.kernel_size, module.stride)) + module.pointwise(x)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_diverse_branch_block_trains_as_with_a_border_of_slices(groups, stride):
    ours = _lively("diverse_branch_block", {**IO, "groups": groups, "stride": stride}).train()
    theirs = copy.deepcopy(ours)
    x = _input(IO)
    for _ in range(2):
        y, expected = ours(x), _diverse_branches(theirs, x)
        torch.testing.assert_close(y, expected)
        ours.zero_grad(), theirs.zero_grad()
        y.square().sum().backward()
        expected.square().sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        torch.testing.assert_close(a, b[1], msg=name)
    ours.eval()
    torch.testing.assert_close(ours(x), _diverse_branches(theirs.eval(), x))


def test_both_strips_of_rfcaconv_share_their_statistics():
    module = _lively("rfcaconv", {"in_channels": 4, "out_channels": 4}).train()
    twin = copy.deepcopy(module)
    x = _input({"channels": 4})
    y = module(x)
    enlarged = F.pixel_shuffle(twin.generate(x), 3)
    strips = torch.cat([enlarged.mean(3, keepdim=True), enlarged.mean(2, keepdim=True).transpose(2, 3)], 2)
    rows, columns = twin.strips(strips).split([18, 24], 2)
    gated = enlarged * twin.conv_h(rows).sigmoid() * twin.conv_w(columns.transpose(2, 3)).sigmoid()
    kernel = twin.conv[0].weight.reshape(4, 4, 3, 3)
    torch.testing.assert_close(y, F.conv2d(gated, kernel, twin.conv[0].bias, stride=3))
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(buffer, twin.get_buffer(name))


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=lambda v: v if isinstance(v, str) else None)
def test_training_updates_every_batchnorm_as_pytorch_does(name, arguments):
    module = _lively(name, arguments)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        pytest.skip("no BatchNorm")
    before = [m.running_mean.clone() for m in norms]
    module.eval()(_input(arguments))
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
    module.train()(_input(arguments))
    assert all(int(m.num_batches_tracked) == 1 and m.momentum == 0.1 for m in norms)
    assert not any(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
