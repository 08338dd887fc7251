"""Small models, each of a kind that a tracker reports."""

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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


class PooledEncoder(nn.Module):
    """The mean over all tokens, so that what stands at padded ones counts."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens, padding):
        return self.head(self.encoder(tokens, src_key_padding_mask=padding).mean(1))


class Decoder(nn.Module):
    """Queries that look at each other through a mask, and at a memory of another length with padding."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), 1)

    def forward(self, tokens, memory, mask, padding):
        return self.decoder(tokens, memory, mask, memory_key_padding_mask=padding)


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


class DecidesBesideAttention(nn.Module):
    """One batch size of its own beside multi-head attention, whose calls are redirected."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens):
        y = self.attention(tokens, tokens, tokens)[0]
        if tokens.shape[0] == 64:
            return y * 2
        return y


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


class FreeWindow(nn.Module):
    """Takes multiples of 7 only, and no map below the traced one."""

    def forward(self, x):
        n, c, h, w = x.shape
        windows = x.view(n, c, h // 7, 7, w // 7, 7).mean((3, 5))
        return windows.softmax(-1)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

    def forward(self, tokens):
        return self.attention(tokens)


class Attention(nn.Module):
    """Attention over tokens, with a mask or without."""

    def __init__(self, masked=False):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.bias = nn.Parameter(torch.randn(1, 2, 7, 7)) if masked else None

    def forward(self, tokens):
        n, length, _ = tokens.shape
        q, k, v = (t.reshape(n, length, 2, 4).transpose(1, 2) for t in self.qkv(tokens).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias).transpose(1, 2).flatten(2)


class GroupedAttention(nn.Module):
    """Attention in groups of four tokens, over five axes with heads and over three without; with a table or a mask."""

    def __init__(self, masked=False):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.table = nn.Parameter(torch.randn(2, 4, 4)) if masked else None

    def forward(self, tokens):
        n, length, _ = tokens.shape
        groups = length // 4
        q, k, v = self.qkv(tokens).reshape(n, groups, 4, 3, 2, 4).permute(3, 0, 1, 4, 2, 5)
        mask = None if self.table is None else self.table[None, None] + torch.arange(groups).view(1, -1, 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
        flat = y.transpose(2, 3).reshape(n, length, 8)
        return F.scaled_dot_product_attention(flat, flat * 2, flat, attn_mask=None)


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
