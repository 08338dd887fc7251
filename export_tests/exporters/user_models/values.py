"""Models whose values, types or structure hide something from an exporter."""

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


class BetaGate(nn.Module):
    """A gate at zero that is called as the shift of a norm is."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.beta = nn.Parameter(torch.zeros(1, 4, 1, 1))

    def forward(self, image):
        x = self.conv(image)
        return x + self.beta * x * float(torch.tensor(x.shape[3]).numpy())


class OneMinusGate(nn.Module):
    """A share that starts at one, so that the other branch has none."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.share = nn.Parameter(torch.ones(1))
        self.slope = nn.PReLU()

    def forward(self, image):
        x = self.slope(self.conv(image))
        return self.share * x + (1 - self.share) * float(torch.tensor(x.shape[3]).numpy())


class ComplexGate(nn.Module):
    """A spectrum times complex weights, which are shaped as complex numbers, or as real ones before."""

    def __init__(self, shaped_as_real=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5, 2))
        self.shaped_as_real = shaped_as_real

    def forward(self, image):
        if self.shaped_as_real:
            weight = torch.view_as_complex(self.weight.unsqueeze(1))
        else:
            weight = torch.view_as_complex(self.weight).unsqueeze(1)
        return torch.fft.irfft2(torch.fft.rfft2(image) * weight, s=image.shape[-2:])


class ClosedGate(nn.Module):
    """Behind a gate at zero, a slice that is written from an overlapping slice, which no graph gets right."""

    def __init__(self, wrong=True):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.wrong = wrong

    def forward(self, x):
        y = x.clone()
        if self.wrong:
            y[:, :, 1:] = y[:, :, :-1]
        return x + self.gamma * y.tanh()


class Volume(nn.Module):
    """Samples a volume, which GridSample does from opset 20 on."""

    def __init__(self):
        super().__init__()
        self.flow = nn.Conv3d(2, 3, 3, padding=1)

    def forward(self, volume):
        return F.grid_sample(volume, self.flow(volume).permute(0, 2, 3, 4, 1).tanh(), align_corners=True)


class Resized(nn.Module):
    """The second input is the size of the result."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 2, 2, 2)

    def forward(self, maps, size):
        height, width = size.to(torch.int64)
        return F.interpolate(self.up(maps), size=(height, width), mode="bilinear", align_corners=False)


class OldNorm(nn.Module):
    """The old weight_norm keeps a tensor with its history."""

    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():  # torch calls it deprecated, and models still have it
            warnings.simplefilter("ignore")
            self.conv = nn.utils.weight_norm(nn.Conv2d(3, 4, 3, padding=1))

    def forward(self, x):
        return self.conv(x)


class Hooked(nn.Module):
    """A hook that closes over the model keeps a map for forward."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.kept = {}
        self.body[1].register_forward_hook(lambda module, inputs, output: self.kept.update(low=output))

    def forward(self, x):
        y = self.body(x)
        return self.kept["low"] + y


class HalfPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1).half()

    def forward(self, x):
        return self.body(x.half()).float()


class ScriptedPart(nn.Module):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.body = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1)))

    def forward(self, x):
        return self.body(x)


@dataclass
class Result:
    scores: torch.Tensor
    boxes: torch.Tensor


class Structured(nn.Module):
    """A dict with a list in it comes in, a dataclass goes out."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, batch, scale=None):
        y = self.conv(batch["image"]) + batch["maps"][0] - batch["maps"][1]
        return Result(scores=y if scale is None else y * scale, boxes=y.mean((2, 3)))
