"""YOLO's blocks and the feature pyramids: what they refuse, their deployed forms, variants, statistics and gradients."""

from __future__ import annotations

import copy

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from attn_deploy import create, export, registry
from attn_deploy.errors import InvalidRequestError
from attn_deploy.fusing import fuse_with_report
from attn_deploy.inputs.expressions import evaluate_expression
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import verification_sizes
from attn_deploy.inputs.tensors import inputs_for_spec
from attn_deploy.modules.attention.a2c2f import AreaAttention
from attn_deploy.modules.fusion.fpn import FPN
from attn_deploy.ops import pad_same
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from export_tests.helpers import as_tuple, assert_same_function, randomize

EIGHT, FOUR = {"in_channels": 8, "out_channels": 8}, {"in_channels": 4, "out_channels": 4}


def pyramid(*channels, height=2, width=3):
    count = len(channels)
    return [(2, c, height * 2 ** (count - 1 - i), width * 2 ** (count - 1 - i)) for i, c in enumerate(channels)]


# name, arguments, shapes of the inputs: small, and with every argument that adds or changes a branch.
SMALL = [
    ("c2f", {**EIGHT, "n": 2, "shortcut": True, "groups": 2}, [(2, 8, 4, 5)]),
    ("c3", {"in_channels": 6, "out_channels": 8, "groups": 2}, [(2, 6, 4, 5)]),
    ("c3k2", {**EIGHT, "c3k": True}, [(2, 8, 4, 5)]),
    ("c3k2", {**EIGHT, "attn": True}, [(2, 8, 4, 5)]),
    ("c2fcib", {**EIGHT, "shortcut": True, "lk": True}, [(2, 8, 4, 5)]),
    ("c2fcib", FOUR, [(2, 4, 4, 5)]),
    ("scdown", {"in_channels": 4, "out_channels": 6}, [(2, 4, 5, 6)]),
    ("adown", {"in_channels": 4, "out_channels": 6}, [(2, 4, 5, 6)]),
    ("aconv", {"in_channels": 4, "out_channels": 6}, [(2, 4, 5, 6)]),
    ("c2psa", {"channels": 8, "n": 2}, [(2, 8, 3, 4)]),
    ("psa_yolo", {"channels": 8}, [(2, 8, 3, 4)]),
    ("a2c2f", {"in_channels": 64, "out_channels": 64, "area": 2, "residual": True}, [(2, 64, 2, 3)]),
    ("a2c2f", {"in_channels": 3, "out_channels": 64, "a2": False}, [(2, 3, 2, 3)]),
    ("sppelan", {**FOUR, "hidden": 3, "kernel_size": 3}, [(2, 4, 5, 6)]),
    ("repncspelan4", {**FOUR, "c3": 4, "c4": 4, "n": 2}, [(2, 4, 4, 5)]),
    ("sppcspc", {"in_channels": 3, "out_channels": 4, "e": 0.25, "kernels": (3, 7)}, [(2, 3, 5, 6)]),
    ("simsppf", {"in_channels": 4, "out_channels": 3}, [(2, 4, 5, 6)]),
    ("simcspsppf", {**FOUR, "kernel_size": 3}, [(2, 4, 5, 6)]),
    ("bifusion", {"in_channels": (4, 3), "out_channels": 5}, [(2, 5, 2, 3), (2, 4, 4, 6), (2, 3, 8, 12)]),
    ("bifpn_layer", {"in_channels": (4, 3, 4), "out_channels": 4}, pyramid(4, 3, 4)),
    (
        "bifpn_layer",
        {"in_channels": (3, 4), "out_channels": 4, "weight_method": "softmax"},
        [(1, 3, 5, 7), (1, 4, 3, 4)],
    ),
    (
        "bifpn_layer",
        {"in_channels": (3, 4), "out_channels": 4, "weight_method": "sum", "pad": "symmetric"},
        pyramid(3, 4),
    ),
    ("fpn", {"in_channels": (3, 4), "out_channels": 4, "num_outs": 4, "extra": "conv"}, pyramid(3, 4)),
    ("fpn", {"in_channels": (3, 4), "out_channels": 4, "num_outs": 3, "norm": "batch", "act": "relu"}, pyramid(3, 4)),
    ("pan", {"in_channels": (3, 4, 5), "out_channels": 4, "num_outs": 4}, pyramid(3, 4, 5)),
    *(
        ("asff", {"in_channels": (6, 4, 4), "level": i, "out_channels": 5}, [(1, 6, 2, 3), (1, 4, 4, 6), (1, 4, 8, 12)])
        for i in (0, 1, 2)
    ),
    (
        "asff",
        {"in_channels": (6, 4, 3), "level": 2, "out_channels": 5, "act": "relu6", "rfb": True},
        [(1, 6, 2, 3), (1, 4, 4, 6), (1, 3, 8, 12)],
    ),
    ("afpn", {"in_channels": (64, 72, 80, 64), "out_channels": 6}, pyramid(64, 72, 80, 64)),
]
IDS = [f"{name}-{index}" for index, (name, *_) in enumerate(SMALL)]
every_form = pytest.mark.parametrize(("name", "arguments", "shapes"), SMALL, ids=IDS)


def made(name, arguments):
    return randomize(create(name, **arguments))


def ramps(shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(s, generator=generator, dtype=dtype) + torch.linspace(-1, 1, s[-1], dtype=dtype) for s in shapes
    ]


# Deployed forms.


@every_form
def test_deployed_forms_are_equal_and_hold_no_batch_norm(name, arguments, shapes):
    module = made(name, arguments)
    result = fuse_with_report(module)
    assert_same_function(result.model, module, ramps(shapes))
    assert result.left == ()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in result.model.modules())


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("c2fcib", {**EIGHT, "lk": True}, "merged two depthwise branches into one convolution"),
        ("repncspelan4", {}, "merged two branches into one convolution"),
        ("c2psa", {}, "folded the scale into the queries"),
        ("a2c2f", {}, "folded the scale into the queries"),
        ("bifpn_layer", {}, "made the normalised weights constants"),
    ],
)
def test_deployed_forms_are_reported(name, arguments, words):
    assert words in {told for _, told in fuse_with_report(made(name, arguments)).changes}


# Gradients and statistics.


@every_form
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_gradients_d(name, arguments, shapes, train):
    """Along one random direction through all inputs and parameters, which takes one gradient instead of hundreds."""
    module = made(name, arguments).double().train(train)
    generator = torch.Generator().manual_seed(3)
    starts = [*ramps(shapes, torch.float64), *[p.detach().clone() for p in module.parameters()]]
    # Small, so that the step of gradcheck crosses no kink of the hundred ReLUs of afpn.
    ways = [1e-3 * torch.randn(s.shape, generator=generator, dtype=s.dtype) for s in starts]
    names, count = [n for n, _ in module.named_parameters()], len(shapes)

    def run(step):
        moved = [s + step * w for s, w in zip(starts, ways, strict=True)]
        return functional_call(module, dict(zip(names, moved[count:], strict=True)), tuple(moved[:count]))

    start = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, start, fast_mode=True, atol=1e-6, rtol=1e-3)


@every_form
def test_every_parameter_moves_the_output(name, arguments, shapes):
    module = made(name, arguments).double()
    outputs = as_tuple(module(*ramps(shapes, torch.float64)))
    generator = torch.Generator().manual_seed(2)
    sum((o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum() for o in outputs).backward()
    still = [n for n, p in module.named_parameters() if not p.grad.abs().max() > 1e-12]
    assert still == []


@pytest.mark.parametrize(
    ("name", "momentum", "eps"), [("c2f", 0.1, 1e-5), ("bifpn_layer", 0.01, 1e-3), ("afpn", 0.1, 1e-5)]
)
def test_statistics_follow_the_official_update(name, momentum, eps):
    module = create(name).train()
    norm = next(m for m in module.modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    spec = registry.get(name)
    inputs = inputs_for_spec(spec, {a.name: None for a in spec.arguments} | dict(spec.reference))
    module(*ramps([i.shape() for i in inputs]))
    torch.testing.assert_close(norm.running_mean, momentum * seen[0].mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, 1 - momentum + momentum * seen[0].transpose(0, 1).flatten(1).var(1))
    assert all(m.eps == eps for m in module.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("name", sorted({name for name, *_ in SMALL} - {"bifpn_layer", "fpn", "pan", "asff", "afpn"}))
def test_bn_eps_reaches_every_batch_norm(name):
    module = create(name, bn_eps=1e-3)
    assert {m.eps for m in module.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}


# Refusals.

REFUSED = [
    ("c2f", {"e": 0.001}, r"int\(out_channels \* e\) must be at least 1, got out_channels=64 and e=0.001"),
    ("c2f", {"groups": 5}, "must be a multiple of groups, .*32.*groups=5"),
    ("c3", {"kernel_sizes": (1, 2)}, "must be odd, got 2"),
    ("c3", {"kernel_sizes": (1, 3, 5)}, "one size for each of two convolutions"),
    ("c3k2", {"n": 0}, "n must be an integer of at least 1, got 0"),
    ("adown", {"in_channels": 7}, "in_channels must be a multiple of .*in_channels=7"),
    ("adown", {"out_channels": 7}, "out_channels must be a multiple of .*out_channels=7"),
    ("scdown", {"kernel_size": 2}, "kernel_size must be odd, got 2"),
    ("c2psa", {"channels": 2}, "each head needs at least 2 channels"),
    ("c2psa", {"channels": 400}, "must be a multiple of num_heads, .*200.*num_heads=3"),
    ("psa_yolo", {"e": 0.001}, r"int\(channels \* e\) must be at least 1"),
    ("a2c2f", {"out_channels": 96}, r"must be a multiple of 32.*out_channels=96 and e=0.5"),
    ("a2c2f", {"residual": True, "out_channels": 128}, "in_channels=64 and out_channels=128: make them equal"),
    ("sppelan", {"kernel_size": 4}, "kernel_size must be odd, got 4"),
    ("repncspelan4", {"c3": 33}, "c3 must be a multiple of .*c3=33"),
    ("sppcspc", {"kernels": (9, 5)}, r"odd window sizes that grow, got \(9, 5\)"),
    ("sppcspc", {"e": 0.001}, "must be at least 1"),
    ("simsppf", {"in_channels": 1}, "in_channels must be at least 2, got 1"),
    ("bifusion", {"in_channels": (4,)}, "in_channels must hold the channels of the middle and of the fine map"),
    ("bifpn_layer", {"in_channels": (4,)}, "at least 2 levels"),
    ("bifpn_layer", {"weight_method": "mean"}, "weight_method must be one of 'fast', 'fastattn'"),
    ("fpn", {"num_outs": 2}, "num_outs=2 and 3 entries"),
    ("pan", {"extra": "none"}, "extra must be one of 'pool', 'conv', got 'none'"),
    ("asff", {"level": 3}, "level must be one of 0, 1, 2, got 3"),
    ("asff", {"level": 2, "in_channels": (8, 8, 4)}, r"use in_channels=\(8, 4, 4\)"),
    ("afpn", {"in_channels": (8, 8, 8, 7)}, "at least 8"),
]


@pytest.mark.parametrize(("name", "arguments", "words"), REFUSED)
def test_refused_arguments(name, arguments, words):
    with pytest.raises(InvalidRequestError, match=words) as caught:
        create(name, **arguments)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("name", "shapes", "words"),
    [
        ("adown", [(1, 64, 1, 4)], "H and W must be at least 2, got 1x4"),
        ("a2c2f", [(1, 64, 3, 3)], "must be a multiple of area, got 3x3 and area=4"),
        ("bifusion", [(1, 64, 2, 2), (1, 64, 4, 4), (1, 64, 9, 8)], "half as large as the fine one"),
        ("bifpn_layer", [(1, 64, 8, 8), *pyramid(64, 64, 64, 64)], "must be half as large"),
        ("bifpn_layer", pyramid(64, 64), "expected 5 maps, got 2"),
        ("pan", [(1, 64, 8, 8), (1, 64, 4, 4), (1, 64, 3, 2)], r"after \(4, 4\) comes \(3, 2\)"),
        ("fpn", [(1, 64, 8, 8), (1, 32, 4, 4), (1, 64, 2, 2)], r"\(N, 64, H, W\), got \(1, 32, 4, 4\)"),
        ("asff", [(1, 64, 2, 2), (1, 64, 4, 4), (1, 64, 7, 8)], "twice as large"),
        ("afpn", [(1, 64, 16, 24), (1, 64, 8, 12), (1, 64, 5, 6), (1, 64, 2, 3)], "must be half as large"),
    ],
)
def test_maps_that_do_not_fit_are_refused(name, shapes, words):
    with pytest.raises(ValueError, match=words):
        create(name)(*[torch.zeros(s) for s in shapes])


# Variants.

COUNTS = [
    ("c3k2", {"c3k": True}, 22_016),
    ("c2fcib", {"lk": True}, 19_456),
    ("a2c2f", {"residual": True}, 26_944),
    ("asff", {"in_channels": (512, 256, 256), "level": 0, "out_channels": 1024}, 7_106_803),
    ("asff", {"in_channels": (512, 256, 256), "level": 1, "out_channels": 512}, 1_915_123),
    ("asff", {"in_channels": (512, 256, 256), "level": 2, "out_channels": 256}, 734_451),
    ("afpn", {"in_channels": (256, 512, 1024, 2048), "out_channels": 256}, 11_392_069),
]


@pytest.mark.parametrize(("name", "arguments", "count"), COUNTS)
def test_parameter_counts_of_variants(name, arguments, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in create(name, **arguments).parameters()) == count


def test_area_attention_is_attention_within_rows_of_the_map():
    """With parts of whole rows, each part alone gives the same, but for the position term, which sees the whole map."""
    whole = randomize(AreaAttention(64, 2, area=3)).eval()
    part = copy.deepcopy(whole)
    part.area = 1
    for m in (whole, part):
        m.pe.bn.weight.data.zero_()
        m.pe.bn.bias.data.zero_()
    x = ramps([(2, 64, 6, 4)])[0]
    with torch.no_grad():
        expected = torch.cat([part(rows) for rows in x.split(2, 2)], 2)
        torch.testing.assert_close(whole(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (5, 4), (7, 9), (1, 2), (8, 3)])
def test_max_pool_with_same_padding(size):
    x = torch.randn(2, 3, *size) - 3  # below zero, where zero padding would show
    height, width = size
    low = torch.full((2, 3, height + 2, width + 2), -float("inf"))
    top, left = height % 2, width % 2  # of an odd extent one row is added on each side, of an even one at the end
    low[:, :, top : top + height, left : left + width] = x
    expected = F.max_pool2d(low, 3, 2)[:, :, : (height + 1) // 2, : (width + 1) // 2]
    assert torch.equal(F.max_pool2d(pad_same(x, 3, stride=2, mode="replicate"), 3, 2), expected)


@pytest.mark.parametrize("name", ["sppcspc", "sppelan", "simsppf"])
def test_chained_pools_are_pools_of_growing_windows(name):
    module = create(name)
    x = ramps([(2, 4, 7, 16)])[0]
    for size, pooled in zip((5, 9, 13), module.pools(x), strict=True):
        assert torch.equal(pooled, F.max_pool2d(x, size, 1, size // 2))


# Sizes of a pyramid.


def test_sizes_of_levels_follow_from_how_many_there_are():
    spec = registry.get("bifpn_layer")
    inputs = inputs_for_spec(spec, {**spec.reference, "in_channels": (8, 12, 20)})
    assert [i.dims for i in inputs] == [("N", 8, "4*H", "4*W"), ("N", 12, "2*H", "2*W"), ("N", 20, "H", "W")]
    five = inputs_for_spec(spec, spec.reference)
    assert max(i.shape(s)[2] for i in five for s in verification_sizes(five, ("N", "H", "W"))) <= 128
    assert evaluate_expression("2**(3-1)*H", {"H": 5}) == 20


@pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)])
def test_fpn_takes_sizes_that_are_no_halves(exporter, tmp_path):
    model = randomize(FPN((3, 4, 5), 4, num_outs=4)).eval()
    inputs = parse_inputs(["a:N=2x3xH=13xW=18", "b:Nx4xH1=7xW1=9", "c:Nx5xH2=4xW2=5"])
    artifact = export(model, tmp_path / "fpn.onnx", inputs=inputs, exporter=exporter, opset=18)
    given = ramps([(1, 3, 11, 8), (1, 4, 5, 5), (1, 5, 4, 3)])
    runner = OnnxRuntimeRunner(artifact.path.read_bytes())
    runner.prepare({i.name: x.numpy() for i, x in zip(onnx.load(artifact.path).graph.input, given, strict=True)})
    runner.enqueue()
    runner.synchronize()
    with torch.no_grad():
        for y, expected in zip(runner.outputs().values(), model(*given), strict=True):
            torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-4, atol=1e-4)
