"""A detector's neck: backbone stub, SPP, and a path that comes up again."""

from __future__ import annotations

import torch
from torch import nn


class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class C2f(nn.Module):
    def __init__(self, c1, c2, n=1):
        super().__init__()
        self.c = c2 // 2
        self.cv1 = Conv(c1, c2)
        self.cv2 = Conv((2 + n) * self.c, c2)
        self.m = nn.ModuleList(nn.Sequential(Conv(self.c, self.c, 3), Conv(self.c, self.c, 3)) for _ in range(n))

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPP(nn.Module):
    def __init__(self, c1, c2, k=(5, 9, 13)):
        super().__init__()
        self.cv1 = Conv(c1, c1 // 2)
        self.cv2 = Conv(c1 // 2 * (len(k) + 1), c2)
        self.m = nn.ModuleList([nn.MaxPool2d(x, 1, x // 2) for x in k])

    def forward(self, x):
        x = self.cv1(x)
        return self.cv2(torch.cat([x] + [m(x) for m in self.m], 1))


class YoloNeck(nn.Module):
    def __init__(self, nc=4, c=8):
        super().__init__()
        self.p3 = nn.Sequential(Conv(3, c, 3, 2), Conv(c, c * 2, 3, 2))
        self.p4 = Conv(c * 2, c * 4, 3, 2)
        self.spp = SPP(c * 4, c * 4)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = C2f(c * 6, c * 2)
        self.heads = nn.ModuleList([nn.Conv2d(c * 2, nc + 5, 1), nn.Conv2d(c * 4, nc + 5, 1)])

    def forward(self, x):
        p3 = self.p3(x)
        p4 = self.spp(self.p4(p3))
        top = self.merge(torch.cat([self.up(p4), p3], 1))
        z = []
        for head, feature in zip(self.heads, (top, p4)):
            bs, no = feature.shape[0], head.out_channels
            z.append(head(feature).view(bs, no, -1).permute(0, 2, 1))
        return torch.cat(z, 1), top
