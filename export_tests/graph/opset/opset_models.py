"""Small vision models that between them use what the two exporters write, for the tests of opset conversion."""

from __future__ import annotations

import functools

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.exporters.prepare import prepare
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.exporters.translate import translate
from attn_deploy.resolve.resolve import parse_inputs
from export_tests.helpers import randomize


class ConvGate(nn.Module):
    """Convolution, BatchNorm, channel gate from means and maxima, Hardswish."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.gate = nn.Conv2d(8, 8, 1)
        self.act = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.conv(x)))
        pooled = self.gate(y.mean((2, 3), keepdim=True)) + self.gate(y.amax((2, 3), keepdim=True))
        spatial = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1).sum(1, keepdim=True)
        return y * pooled.sigmoid() * F.hardsigmoid(spatial)


class NonLocal(nn.Module):
    """Softmax attention over all positions, by matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(3, 4, 1) for _ in range(3))
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).flatten(2) for m in (self.query, self.key, self.value))
        attended = (q.transpose(1, 2) @ k * 0.5).softmax(-1) @ v.transpose(1, 2)
        return x + self.out(attended.transpose(1, 2).reshape(x.shape[0], 4, x.shape[2], x.shape[3]))


class MiniViT(nn.Module):
    """Patches, LayerNorm, multi-head attention, GELU of both kinds, GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.group = nn.GroupNorm(4, 16)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        t = self.group(self.patch(x)).flatten(2).transpose(1, 2)
        n = t.shape[0]
        q, k, v = (p.reshape(n, -1, 2, 8).transpose(1, 2) for p in self.qkv(self.norm1(t)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v)
        t = t + self.out(attended.transpose(1, 2).reshape(n, -1, 16))
        hidden = self.up(self.norm2(t))
        return (t + self.down(F.gelu(hidden) + F.gelu(hidden, approximate="tanh"))).mean(1)


class Pyramid(nn.Module):
    """Interpolation of several kinds, reflection and replication padding, chunk and uneven split, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        a, b, c = y.split([3, 3, 1], 1)
        d, e, f = y.chunk(3, 1)  # 3, 3 and 1
        small = F.avg_pool2d(F.pad(a + d, (1, 1, 0, 2), mode="replicate"), 2)
        large = F.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False)
        nearest = F.interpolate(F.max_pool2d(b * e, 3, stride=2, padding=1), scale_factor=2.0, mode="nearest")
        same = F.interpolate(large, size=x.shape[2:], mode="bicubic", align_corners=True)
        return torch.cat([same, F.interpolate(nearest, size=x.shape[2:], mode="nearest"), c + f], 1)


class Activations(nn.Module):
    """Everything that is an operator of its own in some opset."""

    def __init__(self) -> None:
        super().__init__()
        self.prelu = nn.PReLU(3)

    def forward(self, x: Tensor) -> Tensor:
        parts = [F.mish(x), F.silu(x), F.hardswish(x), F.softplus(x), F.elu(x), F.selu(x), F.celu(x), self.prelu(x)]
        parts += [F.leaky_relu(x, 0.1), F.relu6(x), F.softsign(x), F.hardtanh(x), torch.erf(x), x.clamp(-0.5, 0.7)]
        return torch.cat(parts, 1)


class Statistics(nn.Module):
    """Reductions of every kind."""

    def forward(self, x: Tensor) -> Tensor:
        dims = (2, 3)
        parts = [x.mean(dims), x.sum(dims), x.amax(dims), x.amin(dims), x.var(dims), x.std(dims, unbiased=False)]
        parts += [x.norm(dim=dims), x.abs().sum(dims), x.logsumexp(dims), x.square().mean(dims)]
        parts += [x.flatten(2).prod(-1).tanh(), x.flatten(2).cumsum(-1).mean(-1), x.flatten(2).topk(3).values.sum(-1)]
        return torch.stack(parts, 1)


class Warp(nn.Module):
    """A learned flow field and sampling along it, bilinear and nearest."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.flow(x).tanh().permute(0, 2, 3, 1) * 1.2
        smooth = F.grid_sample(x, grid, align_corners=False, padding_mode="border")
        return smooth + F.grid_sample(x, grid, align_corners=True, padding_mode="zeros")


class Masked(nn.Module):
    """Masks, triangles, comparisons, gathering and scattering."""

    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([2, 0, 1]))

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(2)
        scores = t.transpose(1, 2) @ t
        causal = torch.ones_like(scores[0]).tril() > 0
        weights = scores.masked_fill(~causal, -1e4).softmax(-1)
        mixed = (t @ weights.transpose(1, 2)).reshape(x.shape)
        picked = mixed.index_select(1, self.order)
        return torch.where(picked > 0, picked, picked * 0.25) + mixed.roll(1, 3)


MODELS: dict[str, type[nn.Module]] = {
    c.__name__: c for c in (ConvGate, NonLocal, MiniViT, Pyramid, Activations, Statistics, Warp, Masked)
}


@functools.cache
def prepared(name: str) -> PreparedModel:
    torch.manual_seed(0)
    model = randomize(MODELS[name]().eval())
    return prepare(model, inputs=parse_inputs(["2x3x16x20"]), fuse=False)


@functools.cache
def exported(name: str, exporter: str, opset: int) -> onnx.ModelProto:
    """The raw graph of an exporter, at one of the opsets it has operators for."""
    return translate(prepared(name), exporter, opset, native_attention=opset > 22).model
