"""What is special about convolutions whose kernel depends on the sample, and about those that are pruned."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from attn_deploy import create, fuse, load_official_state_dict
from attn_deploy.ops import cheaper_form, pad_same
from export_tests.helpers import randomize, read_vectors
from export_tests.modules.reference_cases import REFERENCE_CASES


def close(actual, expected, tolerance=1e-5):
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale)


CONVOLUTIONS = [
    {},
    {"bias": True, "out_channels": 8},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2, "padding": 0, "groups": 2},
    {"kernel_size": 5, "stride": 2, "dilation": 2, "groups": 4, "bias": True},
    {"stride": 3, "groups": 16, "num_experts": 8},
    {"kernel_size": 2, "padding": 1},
    {"padding": "same", "stride": 2},
    {"padding": "same", "kernel_size": 4, "stride": 3, "bias": True},
]


@pytest.mark.parametrize("form", ["mix_outputs", "mix_kernels"])
@pytest.mark.parametrize("arguments", CONVOLUTIONS, ids=str)
def test_both_export_forms_are_the_convolution_of_each_sample(arguments, form):
    module = randomize(create("condconv", **{"in_channels": 16, "out_channels": 16, **arguments}, export_form=form))
    experts = module.experts
    x = torch.randn(3, 16, 11, 14)
    with torch.no_grad():
        routing = (x.mean((2, 3)) @ module.routing.weight.T + module.routing.bias).sigmoid()
        y = []
        for sample, weights in zip(x, routing, strict=True):
            kernel = (weights.reshape(-1, 1, 1, 1, 1) * experts.weight).sum(0)
            bias = None if experts.bias is None else weights @ experts.bias
            given, padding = sample[None], experts.padding
            if padding == "same":
                given, padding = pad_same(given, experts.kernel_size, stride=experts.stride), 0
            y.append(F.conv2d(given, kernel, bias, experts.stride, padding, experts.dilation, experts.groups))
        close(module(x), torch.cat(y))
        close(fuse(module)(x), torch.cat(y))


def test_one_routing_vector_can_serve_several_convolutions():
    owner = randomize(create("condconv"))
    served = randomize(create("condconv", routing=False))
    x = torch.randn(2, 64, 5, 6)
    weights = owner.route(x)
    assert torch.equal(owner(x, weights), owner(x))
    assert served(x, weights).shape == x.shape
    with pytest.raises(ValueError, match=r"routing_weights of shape \(N, num_experts\)"):
        served(x)


def test_automatic_export_form_follows_the_stated_rule():
    assert cheaper_form(4, 64, 64, 1, 1) == "mix_kernels"  # nothing to unroll
    assert cheaper_form(2, 64, 64, 3, 64) == "mix_outputs"  # depthwise: hardly any work to save
    assert cheaper_form(8, 64, 64, 3, 64) == "mix_kernels"  # unless there are many maps to read back
    assert cheaper_form(8, 512, 512, 3, 1) == "mix_kernels"  # eight times the work is too much
    assert create("condconv", kernel_size=1).experts.export_form == "mix_kernels"
    assert create("condconv", export_form="mix_outputs", kernel_size=1).experts.export_form == "mix_outputs"


RECORDS = sorted((Path(__file__).resolve().parents[2] / "profiles").glob("*/expert-conv-forms.json"))


def test_automatic_export_form_follows_the_measurements():
    assert RECORDS, "the choice rests on a record of benchmarks/expert_conv_forms.py"
    losses = []
    for row in [row for path in RECORDS for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]:
        kind, ins, outs, experts = re.fullmatch(r"(.*), (\d+) to (\d+), (\d+) experts", row["name"]).groups()
        what, kernel = kind.rsplit(" ", 1)
        groups = {"dense": 1, "depthwise": int(ins)}.get(what) or int(what.split()[0])
        form = cheaper_form(int(experts), int(ins), int(outs), int(kernel.split("x")[0]), groups)
        slower_by = row["speedup"]["speedup"]  # mix_kernels over mix_outputs
        losses.append(max(1.0, slower_by if form == "mix_kernels" else 1 / slower_by))
    assert max(losses) < 1.4, "no layer is much slower than it would be in the other form"
    assert math.prod(losses) ** (1 / len(losses)) < 1.03


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (3, 1), (4, 1), (3, 2), (7, 1)])
def test_same_padding_is_that_of_tensorflow(kernel_size, dilation, stride):
    reach = dilation * (kernel_size - 1)
    kernel = torch.randn(1, 1, kernel_size, kernel_size)
    for height in range(1, 12):
        x = torch.randn(1, 1, height, height + 3)
        around = []
        for extent in (height + 3, height):
            total = max((-(-extent // stride) - 1) * stride + reach + 1 - extent, 0)
            around += [total // 2, total - total // 2]
        expected = F.conv2d(F.pad(x, around), kernel, stride=stride, dilation=dilation)
        got = F.conv2d(pad_same(x, kernel_size, stride=stride, dilation=dilation), kernel, None, stride, 0, dilation)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("arguments", [{}, {"groups": 4, "stride": 2, "bias": False}, {"kernel_size": 1, "padding": 0}])
@pytest.mark.parametrize("form", ["mix_outputs", "mix_kernels"])
def test_dynamic_convolution_is_the_convolution_of_each_sample(arguments, form):
    module = create("dynamic_conv", in_channels=16, out_channels=8, temperature=7, export_form=form, **arguments)
    experts = randomize(module).experts
    x = torch.randn(3, 16, 9, 11)
    with torch.no_grad():
        hidden = F.relu(x.mean((2, 3)) @ module.reduce.weight.flatten(1).T)
        logits = hidden @ module.expand.weight.flatten(1).T + module.expand.bias
        y = []
        for sample, weights in zip(x, (logits / 7).softmax(1), strict=True):
            kernel = (weights.reshape(-1, 1, 1, 1, 1) * experts.weight).sum(0)
            bias = None if experts.bias is None else weights @ experts.bias
            y.append(F.conv2d(sample[None], kernel, bias, experts.stride, experts.padding, 1, experts.groups))
        close(module(x), torch.cat(y))
        close(fuse(module)(x), torch.cat(y))


def test_temperature_is_annealed_and_travels_with_the_weights():
    module = create("dynamic_conv", temperature=34)
    for _ in range(3):
        module.update_temperature()
    assert float(module.temperature) == 25
    later = create("dynamic_conv")
    later.load_state_dict(module.state_dict())
    assert float(later.temperature) == 25
    for _ in range(20):
        module.update_temperature()
    assert float(module.temperature) == 1


@pytest.mark.parametrize("stem", [s for s in REFERENCE_CASES if s.split("_")[0] == "dgc"])
def test_lasso_loss_is_the_official_one(stem, reference_folder):
    vectors = read_vectors(reference_folder / f"{stem}.npz")
    name, arguments = REFERENCE_CASES[stem]
    module = create(name, **arguments)
    load_official_state_dict(module, vectors["state"])
    assert module.inactive == vectors["config"]["inactive_channels"]
    module.train()
    module.norm.eval()
    module(vectors["inputs"][0])
    close(module.lasso_loss, torch.tensor(float(vectors["extra"]["lasso_loss"])))


@pytest.mark.parametrize("inactive", [0, 1, 5, 8, 11, 15])
def test_least_salient_channels_are_dropped(inactive):
    module = randomize(create("dgc", in_channels=16, out_channels=8, num_heads=2, inactive_channels=inactive))
    x = torch.randn(3, 16, 6, 5)
    with torch.no_grad():
        normed = module.norm(x).relu()
        saliency = module.saliency(normed)
        heads = []
        for i, kernel in enumerate(module.conv.weight.chunk(2)):
            own = saliency[:, i].clone()
            for row in own:
                if inactive:
                    row[row <= row.sort()[0][inactive - 1]] = 0
            heads.append(F.conv2d(normed * own[:, :, None, None], kernel, padding=1))
        expected = torch.stack(heads, 2).flatten(1, 2)
        close(module(x), expected)


def test_pruning_schedule_and_state():
    module = create("dgc", gate_factor=0.25)
    assert module.inactive == 48
    for progress, count in [(0.0, 0), (1 / 12, 0), (0.25, 12), (0.5, 30), (0.75, 48), (1.0, 48)]:
        module.set_progress(progress)
        assert module.inactive == count
        assert int(module.inactive_channels) == count
    module.set_progress(0.5)
    other = create("dgc")
    other.load_state_dict(module.state_dict())
    assert other.inactive == 30


def test_module_can_be_copied_after_a_training_step():
    module = create("dgc").train()
    module(torch.randn(2, 64, 5, 5))
    assert module.lasso_loss.requires_grad
    assert copy.deepcopy(module).lasso_loss is None


@pytest.mark.parametrize("stem", [s for s in REFERENCE_CASES if s.split("_")[0] in ("acblock", "doconv")])
def test_fused_kernel_is_the_official_one(stem, reference_folder):
    vectors = read_vectors(reference_folder / f"{stem}.npz")
    name, arguments = REFERENCE_CASES[stem]
    module = create(name, **arguments)
    load_official_state_dict(module, vectors["state"])
    fused = fuse(module)
    children = [m for m in fused.modules() if m is not fused]
    assert [type(m) for m in children] == [torch.nn.Conv2d]
    for key, value in vectors["extra"].items():
        close(getattr(children[0], key.removeprefix("fused_")).detach(), torch.from_numpy(value))
