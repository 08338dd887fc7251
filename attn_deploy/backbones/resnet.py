"""Residual networks with a slot after the last conv+BN of every block.

Paper: Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385.
Official: KaimingHe/deep-residual-networks (Caffe); names and the strided 3x3 of the bottleneck follow torchvision, whose
    state dicts load as they are.
Export: the classifier's pooling is x.mean((2, 3)), so the network takes any height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, fold_bn_into_conv, require_choice, require_positive
from attn_deploy.registry import Input, register

SlotFactory = Callable[[int], nn.Module]
STAGES = ("layer1", "layer2", "layer3", "layer4")


class _Block(nn.Module, Fusible):
    """What both kinds of block share: a shortcut, a slot, and folding of every conv+BN pair."""

    expansion = 1
    pairs: tuple[tuple[str, str], ...] = ()

    def __init__(self, in_channels: int, width: int, stride: int, slot: SlotFactory | None) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.slot = slot(out_channels) if slot is not None else nn.Identity()
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.relu = nn.ReLU()

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define branch")

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(self.slot(self.branch(x)) + shortcut)
        return out

    def fuse_(self) -> str | None:
        return _fold_pairs(self, self.pairs)


def _fold_pairs(module: nn.Module, pairs: Sequence[tuple[str, str]]) -> str | None:
    """Fold attribute pairs (conv, bn) in place."""
    folds = 0
    for conv, bn in pairs:
        if isinstance(getattr(module, bn), nn.BatchNorm2d):
            setattr(module, conv, fold_bn_into_conv(getattr(module, conv), getattr(module, bn)))
            setattr(module, bn, nn.Identity())
            folds += 1
    return f"folded {folds} BatchNorm" if folds else None


class BasicBlock(_Block):
    """Two 3x3 convolutions; ResNet-18 and 34."""

    pairs = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, in_channels: int, width: int, stride: int, slot: SlotFactory | None) -> None:
        super().__init__(in_channels, width, stride, slot)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.bn2(self.conv2(x))
        return out


class Bottleneck(_Block):
    """1x1, 3x3 (with the stride) and 1x1 convolutions; ResNet-50 and deeper."""

    expansion = 4
    pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, in_channels: int, width: int, stride: int, slot: SlotFactory | None) -> None:
        super().__init__(in_channels, width, stride, slot)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.bn3(self.conv3(x))
        return out


class ResNet(nn.Module, Fusible):
    """A residual network for images.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        block: the residual block.
        depths: blocks in each of the four stages.
        num_classes: width of the classifier.
        stem: ``cifar``, a 3x3 convolution, or ``imagenet``, a 7x7 convolution with stride 2 and a max pool.
        slot: makes a module for a channel count; it stands after the last conv+BN of every block.
        slot_stage: fill the slots of this stage alone: layer1 to layer4.

    Raises:
        ValueError: if the stem or the stage is unknown, num_classes < 1, or a stage is given without a slot.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        block: type[_Block],
        depths: Sequence[int],
        *,
        num_classes: int,
        stem: str,
        slot: SlotFactory | None,
        slot_stage: str | None,
    ) -> None:
        super().__init__()
        require_choice("stem", stem, ("cifar", "imagenet"))
        require_positive(num_classes=num_classes)
        if slot_stage is not None:
            require_choice("stage", slot_stage, STAGES)
        if stem == "cifar":
            self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        channels = 64
        for index, (name, depth) in enumerate(zip(STAGES, depths, strict=True)):
            filled = slot if slot_stage in (None, name) else None
            width = 64 * 2**index
            blocks = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(channels, width, stride, filled))
                channels = width * block.expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, 3, type(self).__name__)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits

    def fuse_(self) -> str | None:
        return _fold_pairs(self, (("conv1", "bn1"),))


_INPUT = (Input("image", ("N", 3, "H", "W")),)
_CIFAR = {"num_classes": 10, "stem": "cifar"}


@register(
    "resnet18",
    reference=_CIFAR,
    parameters=11_173_962,
    inputs=_INPUT,
    outputs=("logits",),
    sizes={"H": 35, "W": 26},
)
class ResNet18(ResNet):
    """Residual network of 18 layers, with slots.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        num_classes: width of the classifier.
        stem: ``cifar``, a 3x3 convolution, or ``imagenet``, a 7x7 convolution with stride 2 and a max pool.
        slot: makes a module for a channel count; it stands after the last conv+BN of every block.
        slot_stage: fill the slots of this stage alone: layer1 to layer4.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        stem: str = "cifar",
        slot: SlotFactory | None = None,
        slot_stage: str | None = None,
    ) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), num_classes=num_classes, stem=stem, slot=slot, slot_stage=slot_stage)


@register(
    "resnet50",
    reference=_CIFAR,
    parameters=23_520_842,
    inputs=_INPUT,
    outputs=("logits",),
    sizes={"H": 35, "W": 26},
)
class ResNet50(ResNet):
    """Residual network of 50 layers with bottleneck blocks, with slots.

    Shape: (N, 3, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        num_classes: width of the classifier.
        stem: ``cifar``, a 3x3 convolution, or ``imagenet``, a 7x7 convolution with stride 2 and a max pool.
        slot: makes a module for a channel count; it stands after the last conv+BN of every block.
        slot_stage: fill the slots of this stage alone: layer1 to layer4.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        stem: str = "cifar",
        slot: SlotFactory | None = None,
        slot_stage: str | None = None,
    ) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), num_classes=num_classes, stem=stem, slot=slot, slot_stage=slot_stage)
