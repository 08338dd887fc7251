"""What the backbones share: folding of named conv+BN pairs, initial weights, the stem names, the registry settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from attn_deploy.ops import fold_bn_into_conv
from attn_deploy.registry import Input

STEMS = ("cifar", "imagenet")
CIFAR: dict[str, Any] = {"num_classes": 10, "stem": "cifar"}

# How every backbone registers: images in, logits out; traced at sizes that are odd somewhere on the way down.
BACKBONE: dict[str, Any] = {
    "inputs": (Input("image", ("N", 3, "H", "W")),),
    "outputs": ("logits",),
    "sizes": {"H": 35, "W": 26},
}


def fold_pairs(module: nn.Module, pairs: Sequence[tuple[str, str]]) -> str | None:
    """Fold attribute pairs (convolution, BatchNorm) in place; what takes a convolution's place keeps its BatchNorm."""
    folds = 0
    for conv, bn in pairs:
        if isinstance(getattr(module, conv), nn.Conv2d) and isinstance(getattr(module, bn), nn.BatchNorm2d):
            setattr(module, conv, fold_bn_into_conv(getattr(module, conv), getattr(module, bn)))
            setattr(module, bn, nn.Identity())
            folds += 1
    return f"folded {folds} BatchNorm" if folds else None


def init_convs(network: nn.Module, foreign: Sequence[nn.Module] = ()) -> None:
    """He initialisation of the backbone's own convolutions; modules in slots keep the weights that they came with."""
    kept = {id(m) for module in foreign for m in module.modules()}
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and id(module) not in kept:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def classify(features: Tensor, classifier: nn.Module) -> Tensor:
    """Global average pooling, which every height and width allows, and the classifier."""
    logits: Tensor = classifier(features.mean((2, 3)))
    return logits


def large_stem(channels: int, cifar: bool) -> tuple[nn.Conv2d, nn.Module]:
    """The first convolution and pool: 3x3 without a pool for small images, 7x7 with stride 2 and a max pool for large."""
    if cifar:
        return nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.Identity()
    return nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False), nn.MaxPool2d(3, stride=2, padding=1)


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """A convolution that keeps the size (but for its stride), BatchNorm and, where given, an activation."""
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), *([activation] if activation is not None else []))


def ignore_keys(module: nn.Module, *prefixes: str) -> None:
    """Let state dicts hold tensors of these prefixes, which the module has no place for."""

    def drop(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
        for key in [k for k in state if k.startswith(prefixes)]:
            del state[key]

    module.register_load_state_dict_pre_hook(drop)  # type: ignore[no-untyped-call]
