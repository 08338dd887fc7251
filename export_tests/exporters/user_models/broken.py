"""One model for each way in which an export is known to fail."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)


class DecidesOnValues(Base):
    def forward(self, x):
        x = self.conv(x)
        if x.mean() > 0.5:
            return x * 2
        return x


class DecidesOnSize(Base):
    def forward(self, x):
        x = self.conv(x)
        if x.shape[2] > 20:
            return x[:, :, ::2]
        return x


class LoopsOverBatch(Base):
    def forward(self, x):
        return torch.cat([self.one(x, i) for i in range(x.shape[0])])

    def one(self, x, i):
        return self.conv(x[i : i + 1])


class LoopsOverBatchPlainly(Base):
    def forward(self, x):
        outs = []
        for i in range(x.shape[0]):
            outs.append(self.conv(x[i : i + 1]) * (1 + i))
        return torch.cat(outs)


class HalvesWithInt(Base):
    def forward(self, x):
        return self.conv(x)[:, :, : int(x.shape[2] * 0.5)]


class ScalesByItem(Base):
    def forward(self, x):
        return self.conv(x) / x.abs().max().item()


class PoolsTheWholeMap(Base):
    def forward(self, x):
        y = self.conv(x)
        return y * torch.sigmoid(F.avg_pool2d(y, (y.size(2), y.size(3))))


class PyramidPooling(Base):
    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(3)

    def forward(self, x):
        return self.pool(self.conv(x))


class DynamicKernels(Base):
    def __init__(self):
        super().__init__()
        self.experts = nn.Parameter(torch.randn(4, 8 * 8 * 9) * 0.1)
        self.route = nn.Linear(8, 4)

    def forward(self, x):
        x = self.conv(x)
        b, c, h, w = x.shape
        attention = torch.softmax(self.route(x.mean((2, 3))), 1)
        kernels = (attention @ self.experts).view(b * 8, 8, 3, 3)
        y = F.conv2d(x.reshape(1, b * c, h, w), kernels, padding=1, groups=b)
        return y.view(b, 8, h, w)


class HeadsOverBatch(Base):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        return self.attn(tokens, tokens, tokens)[0]


class Spectrum(Base):
    def forward(self, x):
        return torch.fft.fft2(self.conv(x)).abs()


class ComplexSpectrum(Base):
    def forward(self, x):
        return torch.fft.fft2(self.conv(x))


class Folds(Base):
    def forward(self, x):
        y = self.conv(x)
        return F.fold(F.unfold(y, 3, padding=1), y.shape[2:], 3, padding=1)


class ShiftsInPlace(Base):
    def forward(self, x):
        y = self.conv(x)
        y[:, :, 1:, :] = y[:, :, :-1, :]
        return y


class Counts(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x):
        self.steps += 1
        return self.conv(x) * self.steps


class CachesGrid(Base):
    grid = None

    def forward(self, x):
        if self.grid is None or self.grid.shape[-2:] != x.shape[-2:]:
            self.grid = torch.linspace(0, 1, x.shape[-1]).expand(x.shape[-2], -1)
        return self.conv(x) * self.grid


class DropsAlways(Base):
    def forward(self, x):
        return F.dropout(self.conv(x), 0.5)


class NoStatistics(Base):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x):
        return self.bn(self.conv(x))


class FixedHead(Base):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8 * 16 * 12, 4)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


class WantsCuda(Base):
    def forward(self, x):
        return self.conv(x) * torch.ones(1).cuda()


class MasksWholeRows(Base):
    def forward(self, x):
        q = self.conv(x).flatten(2).transpose(1, 2)
        mask = torch.full((q.shape[1], q.shape[1]), float("-inf"))
        return torch.softmax(q @ q.transpose(1, 2) + mask, -1)


class ReturnsNumber(Base):
    def forward(self, x):
        self.conv(x)
        return 3.0


class PicksPositive(Base):
    def forward(self, x):
        y = self.conv(x)
        return y[y > 0]


class PoolsDilated(Base):
    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(3, 1, 2, dilation=2)

    def forward(self, x):
        return self.pool(self.conv(x))


class TakesBessel(Base):
    def forward(self, x):
        return torch.special.bessel_j0(self.conv(x))


class WarpsByAffineGrid(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("theta", torch.tensor([[[1.0, 0.1, 0.0], [0.0, 1.0, 0.0]]]))

    def forward(self, x):
        grid = F.affine_grid(self.theta.expand(x.shape[0], -1, -1), x.shape, align_corners=False)
        return F.grid_sample(self.conv(x), grid, align_corners=False)


class MismatchedLayers(Base):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 4)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


class NormalisesInPlace(Base):
    def forward(self, x):
        x -= x.mean((2, 3), keepdim=True)
        x.div_(2.0)
        return self.conv(x)


class StartsAtZero(Base):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 4)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))
