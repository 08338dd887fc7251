"""Coordinate attention to ParNet: against their official maths restated, in evaluation and in training."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from attn_deploy import create, export, fuse, load_official_state_dict
from attn_deploy.ops import strip_means, unbiased_variance
from attn_deploy.ops.bounded import double_normalised, half_range
from export_tests.helpers import assert_same_function, randomize

# Registry name: constructor arguments and the input's shape at a size at which every number can be looked at.
SMALL = {
    "coord_attention": ({"in_channels": 6, "reduction": 2}, (3, 6, 5, 4)),
    "simam": ({}, (2, 3, 4, 5)),
    "triplet_attention": ({}, (3, 4, 5, 6)),
    "ema": ({"channels": 6, "factor": 2}, (2, 6, 5, 4)),
    "lka": ({"channels": 3}, (2, 3, 6, 5)),
    "lka_attention": ({"channels": 3}, (2, 3, 6, 5)),
    "lska": ({"channels": 3, "kernel_size": 11}, (2, 3, 6, 5)),
    "lska_attention": ({"channels": 3, "kernel_size": 7}, (2, 3, 6, 5)),
    "effective_se": ({"channels": 4}, (2, 4, 3, 5)),
    "gam": ({"channels": 4, "reduction": 2}, (3, 4, 5, 4)),
    "mlca": ({"channels": 6, "local_size": 3}, (2, 6, 5, 4)),
    "ela": ({"channels": 4, "num_groups": 2, "kernel_size": 3}, (2, 4, 5, 6)),
    "caa": ({"channels": 3, "h_kernel_size": 5, "v_kernel_size": 3}, (3, 3, 5, 6)),
    "lsk": ({"channels": 4}, (2, 4, 6, 5)),
    "lsk_attention": ({"channels": 4}, (2, 4, 6, 5)),
    "srm": ({"channels": 4}, (4, 4, 3, 5)),
    "gct": ({"channels": 4}, (2, 4, 3, 5)),
    "nam": ({"channels": 4}, (3, 4, 3, 5)),
    "external_attention": ({"channels": 4, "memory": 5}, (3, 4, 3, 5)),
    "multihead_external_attention": ({"channels": 4, "num_heads": 2, "memory": 5}, (2, 6, 4)),
    "csra": ({"in_channels": 4, "num_classes": 3, "T": 2}, (2, 4, 3, 5)),
    "csra_multihead": ({"in_channels": 4, "num_classes": 3}, (2, 4, 3, 5)),
    "parnet_attention": ({"channels": 4}, (3, 4, 3, 5)),
    "parnet_block": ({"channels": 4}, (3, 4, 3, 5)),
}
# A softmax over positions cancels what is added to all of them.
CANCELLED = {
    "external_attention": {"conv1.bias"},
    "multihead_external_attention": {"trans_dims.bias", "linear_0.bias"},
}
# BatchNorm by the batch takes off a constant that was added before it.
CANCELLED_IN_TRAINING = {
    "caa": {"v_conv.bias"},
    "coord_attention": {"squeeze.0.bias"},
    "gam": {"spatial.0.bias", "spatial.3.bias"},
    "parnet_attention": {"conv1x1.0.bias", "conv3x3.0.bias"},
}
DETACHED = {"nam": {"bn.weight"}}


def small(name, **settings):
    arguments, shape = SMALL[name]
    torch.manual_seed(0)
    module = randomize(create(name, **{**arguments, **settings}))
    return module.double(), features(*shape).double()


def features(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) + torch.linspace(-1, 1, shape[-1])


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.detach().abs().max())))


# Training.


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", SMALL)
def test_gradients_a(name, training):
    module, x = small(name)
    module.train(training)
    names = [n for n, _ in module.named_parameters() if n not in DETACHED.get(name, ())]
    values = [module.get_parameter(n).detach().clone().requires_grad_() for n in names]

    def run(x, *values):
        return functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *values), fast_mode=True)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", [n for n in SMALL if n != "simam"])
def test_every_parameter_moves_the_output(name, training):
    module, x = small(name)
    output = module.train(training)(x)
    (output * features(*output.shape, seed=1).double()).sum().backward()
    cancelled = CANCELLED.get(name, set()) | (CANCELLED_IN_TRAINING.get(name, set()) if training else set())
    for key, parameter in module.named_parameters():
        largest = float(parameter.grad.abs().max())
        assert (largest < 1e-11) if key in cancelled else (largest > 1e-7), f"{key}: {largest:.3g}"


@pytest.mark.parametrize("name", SMALL)
def test_fused_equals_in_double_precision(name):
    module, x = small(name)
    with torch.no_grad():
        expected = module.eval()(x)
        torch.testing.assert_close(fuse(module)(x), expected, rtol=1e-10, atol=1e-10)


def test_coordinate_attention_trains_on_rows_and_columns_as_one_batch():
    module, x = small("coord_attention")
    conv, bn = copy.deepcopy(module.squeeze).train()
    module.train()
    actual = module(x)
    rows, columns = F.adaptive_avg_pool2d(x, (None, 1)), F.adaptive_avg_pool2d(x, (1, None)).transpose(2, 3)
    hidden = bn(conv(torch.cat([rows, columns], 2)))
    hidden = hidden * F.relu6(hidden + 3) / 6
    by_row, by_column = hidden.split([x.shape[2], x.shape[3]], 2)
    gate = module.conv_w(by_column.transpose(2, 3)).sigmoid() * module.conv_h(by_row).sigmoid()
    close(actual, x * gate)
    for key in ("running_mean", "running_var"):
        close(getattr(module.squeeze[1], key), getattr(bn, key))


def test_no_gradient_goes_through_the_shares_of_nam():
    module, x = small("nam")
    module.train()
    module(x).square().sum().backward()
    bn = copy.deepcopy(module.bn)
    bn.weight.grad = None
    shares = bn.weight.data.abs() / bn.weight.data.abs().sum()
    (x * (bn(x).permute(0, 2, 3, 1) * shares).permute(0, 3, 1, 2).sigmoid()).square().sum().backward()
    close(module.bn.weight.grad, bn.weight.grad)


def test_statistics_follow_the_official_momenta():
    assert [create("triplet_attention").get_submodule(f"{g}.1").momentum for g in ("cw", "hc", "hw")] == [0.01] * 3
    norms = [create("caa").conv1[1], create("caa").conv2[1]]
    assert [(n.eps, n.momentum) for n in norms] == [(1e-3, 0.03)] * 2


# The official maths restated.


def triplet(module, x):
    def gate(t, plane, kernel):
        summary = torch.cat([t.max(1)[0].unsqueeze(1), t.mean(1).unsqueeze(1)], 1)
        return t * plane[1](F.conv2d(summary, kernel, padding=3)).sigmoid()

    by_height = gate(x.permute(0, 2, 1, 3), module.cw, module.cw[0].weight).permute(0, 2, 1, 3)
    by_width = gate(x.permute(0, 3, 2, 1), module.hc, module.hc[0].weight.transpose(2, 3)).permute(0, 3, 2, 1)
    if module.hw is None:
        return 0.5 * (by_height + by_width)
    return (by_height + by_width + gate(x, module.hw, module.hw[0].weight)) / 3


def ema(module, x):
    batch, width = x.shape[0], module.width
    groups = x.reshape(batch * module.factor, width, *x.shape[2:])
    rows, columns = F.adaptive_avg_pool2d(groups, (None, 1)), F.adaptive_avg_pool2d(groups, (1, None))
    both = module.conv1x1(torch.cat([rows, columns.transpose(2, 3)], 2))
    rows, columns = both.split([x.shape[2], x.shape[3]], 2)
    gated = groups * rows.sigmoid() * columns.transpose(2, 3).sigmoid()
    first = F.group_norm(gated, width, module.norm_weight.flatten(), module.norm_bias.flatten())
    second = module.conv3x3(groups)
    logits = 0
    for weighing, weighed in ((first, second), (second, first)):
        weights = F.adaptive_avg_pool2d(weighing, 1).flatten(1).softmax(-1).unsqueeze(1)
        logits = logits + torch.matmul(weights, weighed.flatten(2))
    return (groups * logits.reshape(-1, 1, *x.shape[2:]).sigmoid()).reshape(x.shape)


def mlca(module, x):
    bins, channels = module.local_size, module.channels
    local = F.adaptive_avg_pool2d(x, bins)
    whole = F.adaptive_avg_pool2d(local, 1)
    padding = module.conv.kernel_size[0] // 2
    sequence = local.flatten(2).transpose(1, 2).reshape(x.shape[0], 1, -1)
    sequence = F.conv1d(sequence, module.conv_local.weight.squeeze(3), padding=padding)
    local = sequence.reshape(x.shape[0], bins * bins, channels).transpose(1, 2)
    whole = F.conv1d(whole.flatten(1).unsqueeze(1), module.conv.weight.squeeze(3), padding=padding)
    whole = whole.transpose(1, 2).unsqueeze(3).sigmoid()
    gate = (1 - module.local_weight) * whole + module.local_weight * local.reshape(
        *local.shape[:2], bins, bins
    ).sigmoid()
    return x * F.adaptive_avg_pool2d(gate, x.shape[2:])


def simam(module, x):
    squares = (x - x.mean((2, 3), keepdim=True)).pow(2)
    count = x.shape[2] * x.shape[3] - 1
    return x * (squares / (4 * (squares.sum((2, 3), keepdim=True) / count + module.e_lambda)) + 0.5).sigmoid()


def gct(module, x):
    if module.mode == "l2":
        embedding = (x.pow(2).sum((2, 3), keepdim=True) + module.epsilon).pow(0.5) * module.alpha
        norm = module.gamma / (embedding.pow(2).mean(1, keepdim=True) + module.epsilon).pow(0.5)
    else:
        embedding = (x if module.after_relu else x.abs()).sum((2, 3), keepdim=True) * module.alpha
        norm = module.gamma / (embedding.abs().mean(1, keepdim=True) + module.epsilon)
    return x * (1 + (embedding * norm + module.beta).tanh())


def srm(module, x):
    values = x.flatten(2)
    style = torch.stack([values.mean(2), (values.var(2) + 1e-5).sqrt()], 2)
    return x * module.bn((style * module.cfc).sum(2)[:, :, None, None]).sigmoid()


def csra_multihead(module, x):
    total = 0
    for head in module.multi_head:
        weight = head.head.weight
        scores = (F.conv2d(x, weight) / weight.flatten(1).norm(dim=1)[None, :, None, None]).flatten(2)
        attended = scores.amax(2) if head.T == 99 else (scores * (scores * head.T).softmax(2)).sum(2)
        total = total + scores.mean(2) + module.lam * attended
    return total


def multihead_external_attention(module, x):
    batch, length, _ = x.shape
    tokens = module.trans_dims(x).view(batch, length, module.num_heads, -1).permute(0, 2, 1, 3)
    weights = module.linear_0(tokens).softmax(-2)
    weights = weights / (1e-9 + weights.sum(-1, keepdim=True))
    return module.proj(module.linear_1(weights).permute(0, 2, 1, 3).reshape(batch, length, -1))


RESTATED = [
    (triplet, "triplet_attention", {}),
    (triplet, "triplet_attention", {"no_spatial": True}),
    (ema, "ema", {}),
    (ema, "ema", {"factor": 1}),
    (ema, "ema", {"factor": 6}),
    (mlca, "mlca", {}),
    (mlca, "mlca", {"local_size": 7, "local_weight": 0.2}),
    (mlca, "mlca", {"local_size": 1, "gamma": 1, "b": 3}),
    (simam, "simam", {"e_lambda": 0.3}),
    (gct, "gct", {}),
    (gct, "gct", {"mode": "l1"}),
    (gct, "gct", {"mode": "l1", "after_relu": True, "epsilon": 0.1}),
    (srm, "srm", {}),
    *((csra_multihead, "csra_multihead", {"num_heads": n, "lam": 0.3}) for n in (1, 2, 4, 6, 8)),
    (multihead_external_attention, "multihead_external_attention", {"num_heads": 1}),
]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("restated", "name", "settings"), RESTATED)
def test_official_maths_with_its_gradient(restated, name, settings, training):
    module, x = small(name, **settings)
    module.train(training)
    x.requires_grad_()
    output, expected = module(x), restated(copy.deepcopy(module), x)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    weights = features(*output.shape, seed=1).double()
    ours, theirs = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (output, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (2, 6, 1, 4), (1, 6, 7, 1), (2, 6, 2, 3)])
@pytest.mark.parametrize(("restated", "name"), [(ema, "ema"), (mlca, "mlca")])
def test_narrow_maps(restated, name, shape):
    module, _ = small(name)
    x = features(*shape).double()
    torch.testing.assert_close(module.eval()(x), restated(module, x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fuse(module)(x), restated(module, x), rtol=1e-9, atol=1e-9)


def test_strips_and_variance():
    x = features(2, 3, 5, 4)
    rows, columns = strip_means(x)
    close(rows, F.adaptive_avg_pool2d(x, (None, 1)))
    close(columns, F.adaptive_avg_pool2d(x, (1, None)))
    close(unbiased_variance(x - x.mean((2, 3), keepdim=True)), x.flatten(2).var(2)[:, :, None, None])


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_two_normalisations_on_logarithms(scale):
    logits = features(2, 5, 40) * scale
    plain = double_normalised(logits, positions=2, items=1)
    with half_range():
        torch.testing.assert_close(double_normalised(logits, positions=2, items=1), plain, rtol=1e-4, atol=1e-6)
    weights = double_normalised(logits.half(), positions=2, items=1)
    assert torch.isfinite(weights).all()
    assert float((weights.float() - plain).abs().max()) < 2e-2 * scale


def test_a_map_of_zeros_in_half_precision():
    for mode in ("l2", "l1"):
        module = randomize(create("gct", channels=8, mode=mode)).half()
        assert torch.equal(module(torch.zeros(1, 8, 32, 32).half()), torch.zeros(1, 8, 32, 32).half())


# Variants.

COUNTS = [
    *(
        ("lska", {"kernel_size": k}, n)
        for k, n in zip((7, 11, 35, 41, 53), (5184, 5440, 6464, 6720, 7232), strict=True)
    ),
    ("ema", {"factor": 32}, 48),
    ("triplet_attention", {"no_spatial": True}, 200),
    ("mlca", {"channels": 256}, 10),
    ("gam", {"padding_mode": "replicate"}, 102_720),
    ("caa", {"norm": False}, 9_856),
    ("csra_multihead", {"num_heads": 8}, 10_240),
]


@pytest.mark.parametrize(("name", "settings", "count"), COUNTS)
def test_parameter_counts_of_variants(name, settings, count):
    assert sum(p.numel() for p in create(name, **settings).parameters()) == count


def test_the_factor_or_the_product_of_context_anchor_attention():
    settings = {"channels": 4, "act": None}
    x = features(2, 4, 9, 8)
    gate, product = (randomize(create("caa", multiply=m, **settings)).eval() for m in (False, True))
    product.load_state_dict(gate.state_dict())
    close(product(x), x * gate(x))


def test_keys_of_other_copies():
    names = {"reduce": "channel_attention.0", "expand": "channel_attention.2", "spatial": "spatial_attention"}
    renamed = {"cw": "ChannelGateH.spatial", "hc": "ChannelGateW.spatial", "hw": "SpatialGate.spatial"}
    gam_state = {k: v.squeeze() if k.startswith("reduce.w") else v for k, v in create("gam").state_dict().items()}
    older = {
        "gam": {k.replace(k.split(".")[0], names[k.split(".")[0]]): v for k, v in gam_state.items()},
        "triplet_attention": {
            f"{renamed[k[:2]]}.{'conv' if k[3] == '0' else 'bn'}{k[4:]}": v.transpose(2, 3) if k == "hc.0.weight" else v
            for k, v in create("triplet_attention").state_dict().items()
        },
    }
    for name, state in older.items():
        module = create(name)
        load_official_state_dict(module, state)
        expected = create(name)
        expected.load_state_dict(module.state_dict())
        assert_same_function(module.eval(), expected.eval(), [features(2, 64, 9, 8)])
    torch.testing.assert_close(
        module.hc[0].weight.transpose(2, 3), older["triplet_attention"]["ChannelGateW.spatial.conv.weight"]
    )


def test_both_memories_start_equal_and_stay_apart():
    module = create("external_attention")
    first, second = module.linear_0.weight, module.linear_1.weight
    assert torch.equal(first[:, :, 0, 0], second[:, :, 0, 0].t())
    assert first.data_ptr() != second.data_ptr()


EXPORTED = [
    "gam:channels=8,padding_mode=replicate",
    "gct:mode=l1",
    "ema:factor=1,channels=4",
    "mlca:local_size=3",
    "caa:norm=False,act=None,multiply=True",
    "csra:T=99",
    "csra_multihead:num_heads=1",
    "csra_multihead:num_heads=6",
    "ela:groups=8,kernel_size=5",
    "triplet_attention:no_spatial=True",
    "lska:kernel_size=53,channels=4",
]


@pytest.mark.parametrize(("exporter", "opset"), [("torchscript", 13), ("dynamo", 18)])
@pytest.mark.parametrize("name", [EXPORTED[0], *(pytest.param(n, marks=pytest.mark.slow) for n in EXPORTED[1:])])
def test_variants_are_exported(name, exporter, opset, tmp_path):
    artifact = export(name, tmp_path / "m.onnx", exporter=exporter, opset=opset)
    assert artifact.opset == opset
    assert set(artifact.dynamic_axes) == {"N", "H", "W"}
