"""SSH context module.

Paper: SSH: Single Stage Headless Face Detector, ICCV 2017, arXiv:1708.03979.
Official: biubug6/Pytorch_Retinaface, models/net.py (SSH), by default; mahyarnajibi/SSH, SSH/models/test_ssh.prototxt,
    with norm=False.
Export: Conv, Concat and Relu; nothing had to be replaced. Fusing folds every BatchNorm.
Deviations: collections leave out the 3x3 path and put BatchNorm and ReLU after every convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_divisible, require_positive
from attn_deploy.registry import register


@register(
    "ssh",
    aliases=("ssh_context_module", "ssh_detection_module"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=34752,
)
class SSHContext(nn.Module):
    """Three paths of one, two and three 3x3 convolutions, which share their beginning, side by side.

    Shape: (N, C, H, W) -> (N, out_channels, H, W); dynamic N, H, W.

    Args:
        in_channels: C.
        out_channels: channels of the output: one half from the 3x3 path, a quarter from each of the others.
        norm: BatchNorm after every convolution, and LeakyReLU(0.1) inside where out_channels <= 64 (RetinaFace);
            False for the Caffe original with biases and ReLU.

    Raises:
        ValueError: if out_channels is not a multiple of 4.
    """

    official_keys = {
        "conv3X3": "conv3x3",
        "conv5X5_1": "reduce",
        "conv5X5_2": "conv5x5",
        "conv7X7_2": "conv7x7_1",
        "conv7x7_3": "conv7x7_2",
        "ssh_3x3": "conv3x3.0",
        "ssh_dimred": "reduce.0",
        "ssh_5x5": "conv5x5.0",
        "ssh_7x7_1": "conv7x7_1.0",
        "ssh_7x7": "conv7x7_2.0",
    }

    def __init__(self, in_channels: int, out_channels: int, *, norm: bool = True) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        require_divisible("out_channels", out_channels, "its number of quarters", 4)
        half, quarter = out_channels // 2, out_channels // 4
        self.in_channels = in_channels

        def layer(taken: int, width: int, *, activate: bool) -> nn.Sequential:
            layers: list[nn.Module] = [nn.Conv2d(taken, width, 3, padding=1, bias=not norm)]
            if norm:
                layers.append(nn.BatchNorm2d(width))
            if activate:
                layers.append(nn.LeakyReLU(0.1) if norm and out_channels <= 64 else nn.ReLU())
            return nn.Sequential(*layers)

        self.conv3x3 = layer(in_channels, half, activate=False)
        self.reduce = layer(in_channels, quarter, activate=True)
        self.conv5x5 = layer(quarter, quarter, activate=False)
        self.conv7x7_1 = layer(quarter, quarter, activate=True)
        self.conv7x7_2 = layer(quarter, quarter, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "SSHContext")
        reduced = self.reduce(x)
        paths = [self.conv3x3(x), self.conv5x5(reduced), self.conv7x7_2(self.conv7x7_1(reduced))]
        return torch.cat(paths, 1).relu()
