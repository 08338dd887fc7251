"""What is special about fusing a convolution with its BatchNorm, as `ops` does it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attn_deploy import fuse
from attn_deploy.ops import fold_bn_, fold_bn_before_conv, fuse_conv_bn
from export_tests.helpers import randomize
from export_tests.modules.samples import ramp

FOLDS = [
    (nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), (2, 6, 7, 5)),
    (nn.Conv2d(6, 8, 3, stride=2, dilation=2, groups=2), nn.BatchNorm2d(8, affine=False), (2, 6, 9, 8)),
    (nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect", groups=6), nn.BatchNorm2d(6), (2, 6, 7, 5)),
    (nn.ConvTranspose2d(6, 8, 3, stride=2, output_padding=1), nn.BatchNorm2d(8), (2, 6, 7, 5)),
    (nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1, groups=2, bias=False), nn.BatchNorm2d(8), (2, 6, 7, 5)),
    (nn.Conv1d(6, 8, 3, groups=2), nn.BatchNorm1d(8), (2, 6, 9)),
    (nn.Linear(6, 8), nn.BatchNorm1d(8), (4, 6)),
    (nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, affine=False), (4, 6)),
]


@pytest.mark.parametrize(("layer", "bn", "shape"), FOLDS, ids=lambda v: type(v).__name__)
def test_fuse_conv_bn_is_exact_and_keeps_the_settings(layer, bn, shape):
    pair = randomize(nn.Sequential(layer, bn).eval())
    fused = fuse_conv_bn(layer, bn)
    x = ramp(*shape)
    torch.testing.assert_close(fused(x), pair(x), rtol=1e-5, atol=5e-6)
    assert type(fused) is type(layer)
    assert fused.bias is not None
    kept = ("stride", "padding", "output_padding", "dilation", "groups", "padding_mode")
    assert [getattr(fused, k, None) for k in kept] == [getattr(layer, k, None) for k in kept]
    half = fuse_conv_bn(layer.half(), bn.half())
    assert half.weight.dtype == half.bias.dtype == torch.float16
    pair.float()


@pytest.mark.parametrize(
    ("layer", "bn", "says"),
    [
        (nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8).train(), "training mode"),
        (nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8, track_running_stats=False).eval(), "running statistics"),
        (nn.Conv2d(4, 8, 3), nn.BatchNorm2d(4).eval(), "4 channels after a convolution with 8"),
        (nn.Linear(4, 8), nn.BatchNorm1d(4).eval(), "4 channels after a linear layer with 8"),
        (nn.Embedding(4, 8), nn.BatchNorm1d(8).eval(), "got Embedding"),
        (nn.Conv2d(4, 8, 3), nn.GroupNorm(1, 8).eval(), "got GroupNorm"),
    ],
)
def test_fuse_conv_bn_refuses(layer, bn, says):
    with pytest.raises(ValueError, match=says):
        fuse_conv_bn(layer, bn)


def test_fold_bn_folds_a_whole_model_in_place():
    inner = nn.Sequential(nn.ConvTranspose2d(8, 4, 2, stride=2), nn.BatchNorm2d(4), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), inner, nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="training mode"):
        fold_bn_(model)
    randomize(model.eval())
    x = ramp(2, 3, 8, 9)
    before = model(x)
    assert fold_bn_(model) == 2
    assert isinstance(model[3], nn.BatchNorm2d), "this BatchNorm follows an activation"
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert fold_bn_(model) == 0


def test_a_layer_with_hooks_is_left_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    model[0].register_forward_hook(lambda module, given, result: result * 2)
    x = ramp(1, 3, 5, 5)
    torch.testing.assert_close(fuse(model)(x), model(x))


@pytest.mark.parametrize("groups", [1, 2])
def test_batchnorm_before_a_convolution_folds_only_without_padding(groups):
    bn, conv = nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, groups=groups)
    pair = randomize(nn.Sequential(bn, conv).eval())
    x = ramp(2, 6, 7, 8)
    torch.testing.assert_close(fold_bn_before_conv(bn, conv)(x), pair(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="border would differ"):
        fold_bn_before_conv(bn, nn.Conv2d(6, 8, 3, padding=1))
    with pytest.raises(ValueError, match="border would differ"):
        fold_bn_before_conv(bn, nn.Conv2d(6, 8, 3, padding="same"))
    with pytest.raises(ValueError, match="6 channels before a convolution with 4"):
        fold_bn_before_conv(bn, nn.Conv2d(4, 8, 3))
    with pytest.raises(ValueError, match="ConvTranspose2d"):
        fold_bn_before_conv(bn, nn.ConvTranspose2d(6, 8, 3))
