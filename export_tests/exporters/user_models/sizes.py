"""Models that decide by the size of their input."""

import torch
import torch.nn.functional as F
from torch import nn


class WholeWindows(nn.Module):
    """A map that is padded to whole windows where it has to be, and cut again; the window is at most the map."""

    def __init__(self, window=4):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.mix = nn.Linear(8, 8)
        self.window = window

    def forward(self, image):
        x = self.patches(image)
        n, c, height, width = x.shape
        side = min(height, width) if min(height, width) <= self.window else self.window
        below, right = (side - height % side) % side, (side - width % side) % side
        y = nn.functional.pad(x, (0, right, 0, below)) if below or right else x
        rows, columns = y.shape[2] // side, y.shape[3] // side
        y = y.view(n, c, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, c)
        y = (y @ y.transpose(1, 2) / 8).softmax(-1) @ self.mix(y)
        y = y.view(n, rows, columns, side, side, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, rows * side, columns * side)
        return x + (y[:, :, :height, :width] if below or right else y)


class TwoWays(nn.Module):
    """One function of maps that divide into windows, another of those that are small or do not."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)

    def forward(self, image):
        x = self.patches(image)
        if min(x.shape[2:]) < 8 or x.shape[2] % 4 or x.shape[3] % 4:
            return x * 2 + x.mean((2, 3), keepdim=True)
        return x.relu()


class RoundedUp(nn.Module):
    """Padding to the size rounded up, in both spellings."""

    def __init__(self, spelling=0):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.spelling = spelling

    def forward(self, x):
        h, w = x.shape[2:]
        up_h, up_w = (-(h // -2), -(w // -2)) if self.spelling else (-(-h // 2), -(-w // 2))
        return self.conv(F.pad(x, [0, (up_w - 1) * 2 + 3 - w, 0, (up_h - 1) * 2 + 3 - h]))


class ChecksChannels(nn.Module):
    """Checks that hold at every size, and an LSTM, which leaves the TorchScript exporter only."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, bidirectional=True, batch_first=True)
        self.register_buffer("keep", torch.tensor([5.0]))

    def forward(self, x):
        if x.dim() != 4 or x.shape[1] != 3:
            raise ValueError("an image with 3 channels")
        y = x.mean(2).transpose(1, 2)
        assert y.shape[2] == 3
        return self.rnn(y)[0][:, :, : int(self.keep[0])]


class Shifted(nn.Module):
    """A roll by half of a window whose size is computed."""

    def forward(self, x):
        h, w = x.shape[2] // 2, x.shape[3] // 2
        return torch.roll(x, shifts=(-h // 2, w // 2), dims=(2, 3)) * 2


class FreeWindow(nn.Module):
    """Takes multiples of 7 only, and no map below the traced one."""

    def forward(self, x):
        n, c, h, w = x.shape
        windows = x.view(n, c, h // 7, 7, w // 7, 7).mean((3, 5))
        return windows.softmax(-1)


class PadsToWindows(nn.Module):
    """Maps padded to whole windows before each attention, as DaViT and Twins do, and cut again behind it."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, stride=2, padding=1) for i in range(3))

    def forward(self, x):
        for conv in self.convs:
            y = conv(x)
            h, w = y.shape[2:]
            padded = F.pad(y, (0, (3 - w % 3) % 3, 0, (3 - h % 3) % 3))
            n, c, tall, wide = padded.shape
            windows = padded.view(n, c, tall // 3, 3, wide // 3, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 9, c)
            mixed = windows.softmax(1).view(n, tall // 3, wide // 3, 3, 3, c).permute(0, 5, 1, 3, 2, 4)
            x = y + mixed.reshape(n, c, tall, wide)[:, :, :h, :w]
        return x.mean((2, 3))


class SamePadding(nn.Module):
    """Padding computed from the size in a chain, as networks that came from TensorFlow have it."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, stride=2) for i in range(4))

    def forward(self, x):
        for conv in self.convs:
            pads = []
            for extent in x.shape[2:]:
                total = max((-(extent // -2) - 1) * 2 + 3 - extent, 0)
                pads = [total // 2, total - total // 2, *pads]
            x = conv(F.pad(x, pads)).relu()
        return x.mean((2, 3))
