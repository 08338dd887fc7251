"""Decisions on sizes where symbols cannot follow forward: those that the batch has no part in are right for any batch."""

from __future__ import annotations

import contextlib

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy.errors import ExportError
from attn_deploy.exporters import translate
from attn_deploy.exporters.pipeline import export
from attn_deploy.exporters.prepare import prepare
from attn_deploy.exporters.size_decisions import decisions_at
from attn_deploy.inputs.grammar import parse_inputs


class OnWidth(nn.Module):
    """Pads a width that is no multiple of 4, through names and functions of sizes."""

    def forward(self, x):
        height, width = x.shape[-2:]
        if width % 4 != 0 or height * x.size(1) > 10_000:
            x = F.pad(x, (0, 4 - width % 4))
        return x.relu() if (height + 1) // 2 > 1 else x


class OrRaises(nn.Module):
    """Checks shapes that move with the batch, as transformers' attention does."""

    def forward(self, x):
        merged = x.reshape(x.shape[0] * 3, 8, 8)
        if merged.size() != (
            x.shape[0] * 3,
            8,
            8,
        ):
            raise ValueError("another shape than expected")
        assert merged.shape[0] == 3 * x.shape[0]
        return merged.relu()


class OrRaisesAndCatches(nn.Module):
    """The same where the error decides."""

    def forward(self, x):
        try:
            if x.shape[0] > 64:
                raise ValueError("a large batch")
        except ValueError:
            return x
        return x.relu()


class OrRaisesToACaller(nn.Module):
    """The same where a caller catches it."""

    def __init__(self):
        super().__init__()
        self.checked = Checked()

    def forward(self, x):
        with contextlib.suppress(ValueError):
            x = self.checked(x)
        return x


class Checked(nn.Module):
    def forward(self, x):
        if x.shape[0] > 64:
            raise ValueError("a large batch")
        return x.relu()


class OnEqualSizes(nn.Module):
    """Finds two numbers equal that are so up to a batch of 64."""

    def forward(self, x):
        return x.relu() if x[:64].shape[0] == x.shape[0] else x


class OnBatch(nn.Module):
    """Decides by the batch, which nobody's small example shows."""

    def forward(self, x):
        return x.relu() if x.shape[0] < 64 else x


class OnBatchInDisguise(nn.Module):
    """As `OnBatch`, by a number that was computed from the batch and the width."""

    def forward(self, x):
        size = x.shape[0] * x.shape[3] // x.shape[3]
        return x if (size - 64) * 2 > 0 else x.relu()


class OnElements(nn.Module):
    """Decides by elements of a tensor."""

    def forward(self, x):
        return x.relu() if (x > -1e9).all() else x


def prepared(model):
    return prepare(model, inputs=parse_inputs(["2x3x8x8"]), dynamic=("N",))


@pytest.mark.parametrize(
    ("model", "held"),
    [
        (OnWidth(), True),
        (OrRaises(), True),
        (Checked(), True),
        (OrRaisesAndCatches(), False),
        (OrRaisesToACaller(), False),
        (OnEqualSizes(), False),
        (OnBatch(), False),
        (OnBatchInDisguise(), False),
        (OnElements(), False),
    ],
    ids=lambda v: type(v).__name__,
)
def test_numbers_that_do_not_move_are_told_from_those_that_do(model, held):
    assert decisions_at(prepared(model), [{"N": 1}, {"N": 3}, {"N": 5}]) == (None, held)


def test_two_other_sizes_are_not_enough():
    assert decisions_at(prepared(OnWidth()), [{"N": 3}, {"N": 5}]) == (None, False)


@pytest.fixture
def _without_symbols(monkeypatch):
    monkeypatch.setattr(translate, "decisions_on_sizes", lambda *_: None)


@pytest.mark.usefixtures("_without_symbols")
def test_a_decision_on_the_width_lets_the_batch_move(tmp_path):
    made = export(
        OnWidth(), tmp_path / "m.onnx", inputs=parse_inputs(["2x3x8x8"]), dynamic=("N",), exporter="torchscript"
    )
    assert made.inputs[0].shape == ("N", 3, 8, 8)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((100, 3, 8, 8)).astype(np.float32)
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_array_equal(y, OnWidth()(torch.from_numpy(x)).numpy())


@pytest.mark.usefixtures("_without_symbols")
@pytest.mark.parametrize(
    "model",
    [OnEqualSizes(), OrRaisesAndCatches(), OrRaisesToACaller(), OnBatch(), OnBatchInDisguise(), OnElements()],
    ids=lambda v: type(v).__name__,
)
def test_other_decisions_are_refused(model, tmp_path):
    with pytest.raises(ExportError, match="test_decisions_of_the_batch"):
        export(model, tmp_path / "m.onnx", inputs=parse_inputs(["2x3x8x8"]), dynamic=("N",), exporter="torchscript")


@pytest.mark.usefixtures("_without_symbols")
def test_height_and_width_are_not_let_go_by_what_small_sizes_show(tmp_path):
    class AtLeast64(nn.Module):
        def forward(self, x):
            wide = F.pad(x, (0, torch.clamp(torch.tensor(64) - x.shape[3], min=0)))
            return wide.relu() if wide.shape[3] == 64 else wide

    with pytest.raises(ExportError, match="test_decisions_of_the_batch"):
        export(
            AtLeast64(), tmp_path / "m.onnx", inputs=parse_inputs(["2x3x8x8"]), exporter="torchscript", dynamic=("W",)
        )
