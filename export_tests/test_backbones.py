from __future__ import annotations

import pytest
import torch

import attn_deploy
from attn_deploy.models import resolve

from .helpers import randomize


@pytest.mark.parametrize(
    ("name", "parameters", "entries"),
    [
        ("resnet18", 11_173_962, 122),
        ("resnet50", 23_520_842, 320),
        ("resnet18:stem=imagenet,num_classes=1000", 11_689_512, 122),
        ("resnet50:stem=imagenet,num_classes=1000", 25_557_032, 320),
    ],
)
def test_published_sizes_and_state_dict_names(name, parameters, entries):
    """The ImageNet counts, and the names, are those of torchvision's models, whose state dicts load as they are."""
    module = attn_deploy.create(name)
    assert sum(p.numel() for p in module.parameters()) == parameters
    state = module.state_dict()
    assert len(state) == entries
    for key in ("conv1.weight", "bn1.running_var", "layer2.0.downsample.1.weight", "layer4.1.conv2.weight", "fc.bias"):
        assert key in state


def test_stems():
    image = torch.zeros(1, 3, 64, 64)
    for stem, side in (("cifar", 64), ("imagenet", 16)):
        network = attn_deploy.create("resnet18", stem=stem)
        seen = []
        network.layer1.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.shape))
        with torch.no_grad():
            network(image)
        assert seen == [(1, 64, side, side)]


def test_a_slot_stands_after_the_last_normalisation_and_before_the_sum():
    """With a slot that doubles its input, the block gives relu(2 * branch + shortcut)."""

    class Twice(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    network = randomize(attn_deploy.create("resnet18+se@layer1"))
    block = network.layer1[0]
    block.slot = Twice()
    x = torch.randn(2, 64, 8, 8)
    with torch.no_grad():
        inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
        torch.testing.assert_close(block(x), (2 * inner + x).relu())


@pytest.mark.parametrize(
    "name", ["resnet18+se", "resnet18+cbam@layer3", "resnet50+eca@layer4", "resnet18:stem=imagenet"]
)
def test_fused_backbones_hold_no_batch_norm(name):
    model = resolve(name)
    randomize(
        model.module
    ).double()  # fifty layers deep, float32 rounds at 1e-3 of these logits with or without folding
    fused = attn_deploy.fuse(model.module)
    left = [p for p, m in fused.named_modules() if isinstance(m, torch.nn.BatchNorm2d) and "slot" not in p]
    assert left == []
    x = torch.randn(2, 3, 33, 48, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model.module(x), rtol=1e-9, atol=1e-9)
