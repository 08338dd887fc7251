"""Models that keep something of an earlier call."""

import torch
from torch import nn


class KeepsMargin(nn.Module):
    """The first size decides the padding of all."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)
        self.margin = None

    def forward(self, x):
        if self.margin is None:
            self.margin = nn.ZeroPad2d([0, x.shape[3] % 2, 0, x.shape[2] % 2])
        return self.conv(self.margin(x))


class KeepsGrid(nn.Module):
    """A grid is made again when the size changes: what is kept decides nothing."""

    size = None

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=2, padding=1)
        self.grid = torch.empty(0)

    def forward(self, x):
        y = self.conv(x)
        if self.size != y.shape:
            rows, columns = torch.arange(y.shape[2]) + 0.5, torch.arange(y.shape[3]) + 0.5
            self.grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
            self.size = y.shape
        return torch.cat((y[:, :2] * 0.1 + self.grid, y[:, 2:]), 1)


_SEEN = {}


def _of_function(width):
    if not hasattr(_of_function, "width"):
        _of_function.width = float(width)
    return _of_function.width


def _with_default(width, seen=[]):  # noqa: B006
    seen.append(float(width))
    return seen[0]


class KeepsOutside(nn.Module):
    """The first width it sees, kept where every copy of it finds it again; or the widths by themselves, which is right."""

    width = None

    def __init__(self, where):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.where = where
        box = []
        self.of_closure = lambda width: box[0] if box else box.append(float(width)) or box[0]
        self.list = []

    def forward(self, image):
        width = image.shape[3]
        if self.where == "class":
            KeepsOutside.width = KeepsOutside.width or float(width)
            kept = KeepsOutside.width
        elif self.where == "list":
            self.list = self.list or [float(width)]
            kept = self.list[0]
        elif self.where in ("global", "by width"):
            kept = _SEEN.setdefault("width" if self.where == "global" else width, float(width))
        else:
            kept = {"function": _of_function, "default": _with_default, "closure": self.of_closure}[self.where](width)
        return self.conv(image) * kept
