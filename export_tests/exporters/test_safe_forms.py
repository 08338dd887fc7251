"""The forms that stand in for what exporters get wrong: equal to PyTorch's, used only where they are needed."""

from __future__ import annotations

import copy

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy import ops
from attn_deploy.errors import ExportError
from attn_deploy.exporters import safe_forms
from attn_deploy.exporters.pipeline import export
from attn_deploy.exporters.prepare import prepare
from attn_deploy.exporters.rewrite import rewrite
from attn_deploy.exporters.safe_forms import SafeForms, Scope
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.ops.fold import fold
from attn_deploy.ops.per_sample_conv import grouped_by_batch
from export_tests.exporters.user_models import broken

EVERYWHERE = Scope(batch=True, space=True)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding", "stride"),
    [(3, 1, 1, 1), (2, 1, 0, 2), ((3, 2), 1, (1, 0), (2, 3)), (3, 2, 2, 1), (3, (1, 2), (1, 2), 2), (4, 1, 1, 3)],
)
def test_fold(kernel, dilation, padding, stride):
    size = (11, 14)
    patches = F.unfold(torch.randn(2, 3, *size), kernel, dilation, padding, stride)
    patches = torch.randn_like(patches)
    expected = F.fold(patches, size, kernel, dilation, padding, stride)
    assert_same(fold(patches, size, kernel, dilation, padding, stride), expected)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "each"), [(1, (1, 1), 1, 1), (2, (0, 1), 1, 4), (1, (2, 2), 2, 2)]
)
def test_grouped_by_batch(stride, padding, dilation, each):
    groups = 3 * each
    x, weight, bias = torch.randn(1, groups * 2, 9, 11), torch.randn(groups * 4, 2, 3, 3), torch.randn(groups * 4)
    expected = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    found = grouped_by_batch(x, weight, bias, groups, 3, stride=stride, padding=padding, dilation=dilation)
    assert_same(found, expected)


@pytest.mark.parametrize("size", [2, (2, 3), (None, 3), (1, None), (4, 1), (None, 1), 1])
@pytest.mark.parametrize("pool", [F.adaptive_avg_pool2d, F.adaptive_max_pool2d])
@pytest.mark.parametrize("shape", [(2, 3, 7, 10), (3, 7, 10)])
def test_adaptive_pooling(pool, size, shape):
    x = torch.randn(shape)
    with SafeForms(EVERYWHERE):
        found = pool(x, size)
    assert_same(found, pool(x, size))


@pytest.mark.parametrize("pool", [F.adaptive_avg_pool1d, F.adaptive_max_pool1d])
def test_adaptive_pooling_of_lines(pool):
    x = torch.randn(2, 3, 10)
    with SafeForms(EVERYWHERE):
        found = pool(x, 4)
    assert_same(found, pool(x, 4))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("mask", [None, "boolean", "float", "per head"])
@pytest.mark.parametrize("padded", [False, True])
def test_multi_head_attention(batch_first, mask, padded):
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first, kdim=6, vdim=5).eval()
    n, queries, keys = 3, 4, 7
    shapes = [(n, queries, 8), (n, keys, 6), (n, keys, 5)]
    given = [torch.randn(s) if batch_first else torch.randn(s).transpose(0, 1) for s in shapes]
    options = {"need_weights": True, "average_attn_weights": False}
    if mask == "boolean":
        options["attn_mask"] = torch.ones(queries, keys).triu(2).bool()
    elif mask is not None:
        options["attn_mask"] = torch.randn((n * 2, queries, keys) if mask == "per head" else (queries, keys))
    if padded:
        options["key_padding_mask"] = torch.arange(keys).expand(n, -1) > 4
        if mask not in (None, "boolean"):
            options["key_padding_mask"] = torch.where(options["key_padding_mask"], -5.0, 0.0)
    with torch.no_grad():
        expected = layer(*given, **options)
        with SafeForms(EVERYWHERE):
            found = layer(*given, **options)
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("kind", ["boolean", "float"])
def test_attention_of_a_query_that_may_look_nowhere(kind):
    """Zeros before the last projection, as scaled_dot_product_attention gives; with weights NaN, as the softmax gives."""
    layer = nn.MultiheadAttention(8, 2).eval()
    query, key = torch.randn(4, 3, 8), torch.randn(7, 3, 8)
    padding = torch.arange(7).expand(3, -1) >= torch.tensor([[7], [0], [4]])
    mask = torch.zeros(4, 7, dtype=torch.bool)
    mask[2], mask[3, :4] = True, True
    if kind == "float":
        padding, mask = (torch.zeros(m.shape).masked_fill(m, -torch.inf) for m in (padding, mask))
    for weights in (False, True):
        options = {"key_padding_mask": padding, "attn_mask": mask, "need_weights": weights}
        with torch.no_grad():
            expected = layer(query, key, key, **options)[0]
            with SafeForms(EVERYWHERE):
                result = layer(query, key, key, **options)[0]
        assert bool(expected.isnan().any()) is weights
        assert torch.allclose(result, expected, atol=1e-6, equal_nan=True)


def test_a_rewritten_copy_keeps_what_the_model_is():
    model = broken.PyramidPooling().eval()
    made = rewrite(model, [(torch.randn(2, 3, 9, 8),)], batch=True, space=True, label="m")
    assert made.changes == (("pool", "adaptive average pooling to 3x3 by matrices or gathers"),)
    assert type(model) is broken.PyramidPooling
    assert isinstance(made.model, broken.PyramidPooling)
    assert list(made.model.state_dict()) == list(model.state_dict())
    assert [n for n, _ in made.model.named_modules()] == [n for n, _ in model.named_modules()]


def test_what_needs_no_rewriting_is_left_alone():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Conv2d(3, 3, 1)).eval()
    even, uneven = torch.randn(2, 3, 9, 6), torch.randn(2, 3, 9, 8)
    assert rewrite(model, [(even,)], batch=True, space=False, label="m").model is model
    assert rewrite(model, [(uneven,)], batch=True, space=False, label="m").changes
    assert rewrite(model, [(even,)], batch=True, space=True, label="m").changes
    grouped = nn.Conv2d(4, 4, 3, groups=4).eval()
    assert rewrite(grouped, [(torch.randn(1, 4, 9, 8),)], batch=True, space=True, label="m").model is grouped


def test_a_form_with_other_numbers_is_refused(monkeypatch):
    wrong = {
        **safe_forms._FORMS,
        F.adaptive_avg_pool2d: lambda scope, x, size: (ops.adaptive_avg_pool2d(x, size) * 1.01, "wrong"),
    }
    monkeypatch.setattr(safe_forms, "_FORMS", wrong)
    with pytest.raises(ExportError, match=r"differs from the model in output 0 .* Use --no-rewrite"):
        rewrite(broken.PyramidPooling().eval(), [(torch.randn(2, 3, 9, 8),)], batch=True, space=True, label="m")


class Difference(nn.Module):
    """What large and nearly equal values differ by: float32 keeps three of its seven digits."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(self.stem(x) + 1e4, (2, 3))
        return pooled - pooled.mean((2, 3), keepdim=True)


def test_what_a_model_rounds_itself_is_no_other_number(monkeypatch):
    torch.manual_seed(0)
    rounded = {
        **safe_forms._FORMS,
        F.adaptive_avg_pool2d: lambda scope, x, size: (ops.adaptive_avg_pool2d(x, size) * (1 + 1.2e-7), "rounded"),
    }
    monkeypatch.setattr(safe_forms, "_FORMS", rounded)
    model, x = Difference().eval(), torch.randn(2, 3, 9, 8)
    made = rewrite(model, [(x,)], batch=True, space=True, label="m")
    assert made.changes
    with torch.no_grad():
        right, ours, exact = model(x), made.model(x), copy.deepcopy(model).double()(x.double())
    assert not torch.allclose(ours, right, rtol=1e-4, atol=1e-5)
    assert (ours - exact).abs().max() <= 4 * (right - exact).abs().max()


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_rewritten_models_hold_at_other_sizes(exporter, tmp_path):
    class All(broken.DynamicKernels):
        def __init__(self):
            super().__init__()
            self.pool = nn.AdaptiveMaxPool2d((2, 3))

        def forward(self, x):
            y = super().forward(x)
            return y + F.adaptive_avg_pool2d(y, (None, 1)), self.pool(y)

    inputs = parse_inputs(["1x3x16x12"])
    made = export(All(), tmp_path / "m.onnx", inputs=inputs, exporter=exporter, opset=18, simplify=False)
    assert len(made.record["verified_shapes"]) >= 3
    assert len(made.record["rewritten"]) == 3
    assert "rewritten" in made.metadata["record"]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_permute_may_count_its_axes_from_the_end(exporter, tmp_path):
    """TorchScript's exporter writes such axes as they are, and ONNX has no negative ones in a Transpose."""

    class FromTheEnd(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 5)

        def forward(self, x):
            last = self.linear(x.permute(0, -2, -1, -3))
            return torch.permute(last, (0, -1, -3, -2)), last.permute(dims=[0, 3, 1, -2])

    made = export(FromTheEnd(), tmp_path / "m.onnx", inputs=parse_inputs(["1x3x16x12"]), exporter=exporter, opset=17)
    assert made.inputs[0].shape == ("N", 3, "H", "W")
    written = onnx.load(tmp_path / "m.onnx").graph.node
    assert all(a >= 0 for n in written if n.op_type == "Transpose" for a in n.attribute[0].ints)


def test_rewriting_can_be_switched_off():
    assert prepare(broken.PyramidPooling(), inputs=parse_inputs(["1x3x16x12"]), rewrite=False).rewritten == ()
