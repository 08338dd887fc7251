"""Attention and convolution that mix positions, small and in float64: gradients, statistics and deployed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from attn_deploy import create, fuse
from export_tests.helpers import assert_same_function, randomize

# Every entry, small: name, arguments, input shapes.
_DEEPLAB = {"in_channels": 4, "out_channels": 8, "groups": 2, "kernel_size": 5}
SMALL = [
    ("cot", {"channels": 8}, [(2, 8, 4, 5)]),
    ("coxt", {"channels": 16}, [(2, 16, 4, 3)]),
    ("polarized_self_attention", {"channels": 6}, [(2, 6, 3, 4)]),
    ("polarized_self_attention_paper", {"channels": 6}, [(2, 6, 3, 4)]),
    ("polarized_self_attention_sequential", {"channels": 16}, [(2, 16, 3, 4)]),
    ("polarized_self_attention_sequential_paper", {"channels": 6}, [(2, 6, 3, 4)]),
    ("psa", {"in_channels": 16, "out_channels": 64}, [(1, 16, 4, 3)]),
    ("area_attention", {"channels": 8, "num_heads": 2, "area": 2}, [(2, 8, 4, 3)]),
    ("area_attention", {"channels": 8, "num_heads": 2, "area": 1, "layout": "ultralytics"}, [(2, 8, 4, 3)]),
    ("area_attention_block", {"channels": 8, "num_heads": 2, "area": 2}, [(2, 8, 4, 3)]),
    ("aifi", {"channels": 8, "ffn_dim": 6, "num_heads": 2}, [(2, 8, 3, 4)]),
    ("aifi", {"channels": 8, "ffn_dim": 6, "num_heads": 2, "normalize_before": True}, [(2, 8, 3, 4)]),
    (
        "deformable_attention",
        {"channels": 8, "num_levels": 2, "num_heads": 2, "num_points": 2},
        [(2, 3, 8), (2, 3, 2, 2), (2, 8, 5, 4), (2, 8, 3, 4)],
    ),
    ("involution", {"channels": 8, "kernel_size": 3, "stride": 2, "group_channels": 4}, [(2, 8, 4, 6)]),
    ("mobilevit", {"channels": 4, "dim": 6, "ffn_dim": 4, "depth": 1, "head_dim": 3}, [(2, 4, 5, 4)]),
    ("mobilevit_v2", {"channels": 4, "dim": 8, "depth": 1}, [(2, 4, 5, 4)]),
    ("separable_self_attention", {"channels": 6}, [(2, 6, 3, 4)]),
    (
        "focal_modulation",
        {
            "channels": 6,
            "focal_window": 3,
            "focal_level": 2,
            "normalize_modulator": True,
            "use_postln_in_modulation": True,
        },
        [(2, 6, 4, 5)],
    ),
    ("gnconv", {"channels": 8, "order": 3, "scale": 0.5}, [(2, 8, 4, 5)]),
    ("gnconv_gf", {"channels": 8, "order": 3, "height": 4, "width": 5}, [(2, 8, 4, 5)]),
    ("global_filter", {"channels": 3, "height": 4, "width": 5}, [(2, 3, 4, 5)]),
    ("agent_attention", {"channels": 8, "size": 4, "num_heads": 2, "sr_ratio": 2, "agent_num": 4}, [(2, 8, 4, 4)]),
    ("bi_level_routing_attention", {"channels": 8, "num_heads": 2, "n_win": 2, "topk": 2}, [(2, 8, 4, 6)]),
    ("halo_attention", {"channels": 8, "num_heads": 2, "block_size": 2, "halo_size": 1}, [(2, 8, 4, 6)]),
    ("outlook_attention", {"channels": 4, "num_heads": 2, "stride": 2, "qkv_bias": True}, [(2, 4, 5, 4)]),
    ("axial_attention", {"channels": 8, "num_heads": 2}, [(2, 8, 3, 4)]),
    ("axial_attention", {"channels": 8, "num_heads": 2, "dim_head": 3, "sum_axial_out": False}, [(2, 8, 3, 4)]),
    ("axial_attention_deeplab", _DEEPLAB, [(2, 4, 5, 3)]),
    ("axial_attention_deeplab_width", {**_DEEPLAB, "width": True, "stride": 2}, [(2, 4, 4, 5)]),
    ("acmix", {"in_channels": 4, "out_channels": 8, "kernel_att": 3, "num_heads": 2}, [(2, 4, 4, 5)]),
]
every_small = pytest.mark.parametrize(("name", "arguments", "shapes"), SMALL, ids=[n for n, _, _ in SMALL])

# What softmax cancels: a constant over the positions or keys that it runs over.
CANCELLED = {
    "polarized_self_attention_paper": {"channel_query.bias"},
    "polarized_self_attention_sequential_paper": {"channel_query.bias"},
    "axial_attention_deeplab": {"bn_similarity.bias"},
    "axial_attention_deeplab_width": {"bn_similarity.bias"},
    "acmix": {"conv_p.bias"},
}


def small(name, arguments, shapes):
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    module = randomize(create(name, **arguments)).double()
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    if name == "deformable_attention":
        inputs[1] = inputs[1].sigmoid()
    return module, inputs


# Training.


@every_small
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradients(name, arguments, shapes, training):
    module, inputs = small(name, arguments, shapes)
    module.train(training)
    names = [n for n, _ in module.named_parameters()]

    def run(*tensors):
        return functional_call(module, dict(zip(names, tensors[len(inputs) :], strict=True)), tensors[: len(inputs)])

    tensors = [t.detach().clone().requires_grad_() for t in (*inputs, *module.parameters())]
    assert torch.autograd.gradcheck(run, tensors, fast_mode=True, atol=1e-6, rtol=1e-3)


@every_small
def test_every_parameter_moves_the_output(name, arguments, shapes):
    module, inputs = small(name, arguments, shapes)
    with torch.no_grad():
        plain = module(*inputs)
        for key, parameter in module.named_parameters():
            kept = parameter.clone()
            parameter += 0.1 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(2), dtype=kept.dtype)
            moved = float((module(*inputs) - plain).abs().max()) > 1e-9
            parameter.copy_(kept)
            assert moved == (key not in CANCELLED.get(name, ())), key


@every_small
def test_deployed_forms_keep_no_batchnorm(name, arguments, shapes):
    module, inputs = small(name, arguments, shapes)
    fused = fuse(module)
    assert_same_function(fused, module, inputs)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in fused.modules())


@every_small
def test_statistics_are_those_of_plain_batchnorm(name, arguments, shapes):
    for norm in create(name, **arguments).modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            assert (norm.eps, norm.momentum) == (1e-5, 0.1)
    assert create("area_attention", bn_eps=1e-3).qk[1].eps == 1e-3


def lines_of_official(module, x):
    """Axial-DeepLab's attention along H as published: columns in the batch, einsums, one-dimensional BatchNorms."""
    groups, half, length = module.groups, module.key_dim, module.length
    lines = x.permute(0, 3, 1, 2).flatten(0, 1)
    qkv = F.conv1d(lines, module.qkv[0].weight.squeeze(3))
    norm = nn.BatchNorm1d(qkv.shape[1]).to(x)
    norm.load_state_dict(module.qkv[1].state_dict())
    similarity, output = nn.BatchNorm2d(3 * groups).to(x), nn.BatchNorm1d(2 * module.out_channels).to(x)
    similarity.load_state_dict(module.bn_similarity.state_dict())
    output.load_state_dict(module.bn_output.state_dict())
    qkv = norm(qkv).reshape(-1, groups, 4 * half, length)
    q, k, v = qkv.split([half, half, 2 * half], 2)
    table = module.relative[:, module.index].reshape(-1, length, length)
    of_q, of_k, of_v = table.split([half, half, 2 * half], 0)
    terms = [
        torch.einsum("bgci,bgcj->bgij", q, k),
        torch.einsum("bgci,cij->bgij", q, of_q),
        torch.einsum("bgci,cij->bgij", k, of_k).transpose(2, 3),
    ]
    logits = similarity(torch.cat(terms, 1)).reshape(-1, 3, groups, length, length).sum(1)
    weights = logits.softmax(3)
    content = torch.einsum("bgij,bgcj->bgci", weights, v)
    place = torch.einsum("bgij,cij->bgci", weights, of_v)
    both = torch.cat([content, place], -1).reshape(-1, 2 * module.out_channels, length)
    y = output(both).reshape(x.shape[0], x.shape[3], module.out_channels, 2, length).sum(3)
    return y.permute(0, 2, 3, 1), (norm, similarity, output)


def test_position_sensitive_attention_trains_as_published():
    module, (x,) = small("axial_attention_deeplab", _DEEPLAB, [(2, 4, 5, 3)])
    module.train()
    expected, norms = lines_of_official(module, x)
    torch.testing.assert_close(module(x), expected)
    for ours, official in zip((module.qkv[1], module.bn_similarity, module.bn_output), norms, strict=True):
        torch.testing.assert_close(ours.running_mean, official.running_mean)
        torch.testing.assert_close(ours.running_var, official.running_var)


def test_folding_a_gamma_of_zero():
    module, (x,) = small("axial_attention_deeplab", _DEEPLAB, [(2, 4, 5, 3)])
    with torch.no_grad():
        module.bn_similarity.weight[:3] = 0
        module.bn_output.weight[::3] = 0
    assert_same_function(fuse(module), module, [x])
