"""Up-sampling and convolution at learned places, with GridSample on normalised coordinates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DySample(nn.Module):
    """DySample (lp): coordinates from ranges of the size, normalised, shuffled, sampled."""

    def __init__(self, channels: int, scale: int = 2, groups: int = 4) -> None:
        super().__init__()
        self.scale, self.groups = scale, groups
        self.offset = nn.Conv2d(channels, 2 * groups * scale * scale, 1)
        steps = torch.arange((1 - scale) / 2, (scale - 1) / 2 + 1) / scale
        grid = torch.stack(torch.meshgrid([steps, steps], indexing="ij")).transpose(1, 2)
        self.register_buffer("init_pos", grid.repeat(1, groups, 1).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        offset = self.offset(x) * 0.25 + self.init_pos
        batch, _, height, width = offset.shape
        offset = offset.view(batch, 2, -1, height, width)
        ranges = torch.arange(width) + 0.5, torch.arange(height) + 0.5
        places = torch.stack(torch.meshgrid(list(ranges), indexing="ij")).transpose(1, 2)
        places = places.unsqueeze(1).unsqueeze(0).to(x.dtype)
        size = torch.tensor([width, height], dtype=x.dtype).view(1, 2, 1, 1, 1)
        grid = 2 * (places + offset) / size - 1
        grid = F.pixel_shuffle(grid.view(batch, -1, height, width), self.scale)
        grid = grid.view(batch, 2, -1, self.scale * height, self.scale * width)
        grid = grid.permute(0, 2, 3, 4, 1).contiguous().flatten(0, 1)
        groups = x.reshape(batch * self.groups, -1, height, width)
        y = F.grid_sample(groups, grid, mode="bilinear", align_corners=False, padding_mode="border")
        return y.view(batch, -1, self.scale * height, self.scale * width)


class DCNv3(nn.Module):
    """DCNv3 in PyTorch: reference points and taps by linspace of the size, on a padded channels-last map."""

    def __init__(self, channels: int, group: int = 4) -> None:
        super().__init__()
        self.group, self.width = group, channels // group
        self.dw_conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.Sequential(_ToLast(), nn.LayerNorm(channels, eps=1e-6)),
            nn.GELU(),
        )
        self.offset, self.mask = nn.Linear(channels, group * 18), nn.Linear(channels, group * 9)
        self.input_proj, self.output_proj = nn.Linear(channels, channels), nn.Linear(channels, channels)

    @staticmethod
    def _reference(height: int, width: int, rows: int, columns: int, x: Tensor) -> Tensor:
        y, xs = torch.meshgrid(
            torch.linspace(1.5, 1.5 + rows - 1, rows, dtype=x.dtype),
            torch.linspace(1.5, 1.5 + columns - 1, columns, dtype=x.dtype),
            indexing="ij",
        )
        y, xs = y.reshape(-1)[None] / height, xs.reshape(-1)[None] / width
        return torch.stack((xs, y), -1).reshape(1, rows, columns, 1, 2)

    @staticmethod
    def _taps(height: int, width: int, group: int, x: Tensor) -> Tensor:
        steps = torch.linspace(-1, 1, 3, dtype=x.dtype)
        xs, y = torch.meshgrid(steps, steps, indexing="ij")
        grid = torch.stack([xs / width, y / height], -1).reshape(-1, 1, 2).repeat(1, group, 1).permute(1, 0, 2)
        return grid.reshape(1, 1, 1, group * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.permute(0, 2, 3, 1)
        batch, rows, columns, channels = channels_last.shape
        values = F.pad(self.input_proj(channels_last), [0, 0, 1, 1, 1, 1])
        height, width = values.shape[1:3]
        features = self.dw_conv(x)
        offset = self.offset(features)
        mask = self.mask(features).reshape(batch, rows, columns, self.group, -1).softmax(-1)
        reference = self._reference(height, width, rows, columns, x)
        taps = self._taps(height, width, self.group, x)
        size = torch.tensor([width, height], dtype=x.dtype).reshape(1, 1, 1, 2).repeat(1, 1, 1, self.group * 9)
        places = (reference + taps).repeat(batch, 1, 1, 1, 1).flatten(3, 4) + offset / size
        grids = (2 * places - 1).view(batch, rows * columns, self.group, 9, 2).transpose(1, 2).flatten(0, 1)
        flat = values.view(batch, height * width, channels).transpose(1, 2)
        flat = flat.reshape(batch * self.group, self.width, height, width)
        sampled = F.grid_sample(flat, grids, mode="bilinear", padding_mode="zeros", align_corners=False)
        mask = mask.view(batch, rows * columns, self.group, 9).transpose(1, 2)
        mask = mask.reshape(batch * self.group, 1, rows * columns, 9)
        y = (sampled * mask).sum(-1).view(batch, channels, rows * columns)
        y = y.transpose(1, 2).reshape(batch, rows, columns, -1)
        return self.output_proj(y).permute(0, 3, 1, 2)


class _ToLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class CARAFE(nn.Module):
    """CARAFE without its operator: the map is enlarged first, unfolded with dilated windows, and summed by an einsum."""

    def __init__(self, channels: int, compressed: int = 64, scale: int = 2, kernel_size: int = 5) -> None:
        super().__init__()
        self.scale, self.kernel = scale, kernel_size
        self.channel_compressor = nn.Conv2d(channels, compressed, 1)
        self.content_encoder = nn.Conv2d(compressed, (kernel_size * scale) ** 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        weight = F.pixel_shuffle(self.content_encoder(self.channel_compressor(x)), self.scale).softmax(1)
        enlarged = F.interpolate(x, scale_factor=self.scale, mode="nearest")
        padding = self.kernel // 2 * self.scale
        windows = F.unfold(enlarged, self.kernel, dilation=self.scale, padding=padding)
        windows = windows.view(batch, channels, -1, height * self.scale, width * self.scale)
        return torch.einsum("bkhw,bckhw->bchw", weight, windows)


class DCNv2(nn.Module):
    """Modulated deformable convolution by gathers: nine samples of each place as a map three times as high and wide."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 3, 3) / (3 * fan_in**0.5))
        self.bias = nn.Parameter(torch.randn(fan_out))
        self.conv_offset = nn.Conv2d(fan_in, 27, 3, padding=1)

    @staticmethod
    def _corner(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        index = rows.clamp(0, height - 1).long() * width + columns.clamp(0, width - 1).long()
        index = index.view(batch, 1, -1).expand(-1, channels, -1)
        return x.flatten(2).gather(2, index).view(batch, channels, *rows.shape[1:]) * inside.unsqueeze(1).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        offset, mask = torch.split(self.conv_offset(x), [18, 9], 1)
        padded = F.pad(x, (1, 1, 1, 1))
        taps = torch.arange(3, dtype=x.dtype)
        down, across = (t.reshape(1, 9, 1, 1) for t in torch.meshgrid(taps, taps, indexing="ij"))
        rows = offset[:, 0::2] + down + torch.arange(height, dtype=x.dtype).view(1, 1, -1, 1)
        columns = offset[:, 1::2] + across + torch.arange(width, dtype=x.dtype).view(1, 1, 1, -1)
        top, left = rows.floor(), columns.floor()
        low, right = rows - top, columns - left
        sampled = (
            self._corner(padded, top, left) * ((1 - low) * (1 - right)).unsqueeze(1)
            + self._corner(padded, top, left + 1) * ((1 - low) * right).unsqueeze(1)
            + self._corner(padded, top + 1, left) * (low * (1 - right)).unsqueeze(1)
            + self._corner(padded, top + 1, left + 1) * (low * right).unsqueeze(1)
        )
        sampled = sampled * mask.sigmoid().unsqueeze(1)
        enlarged = sampled.view(batch, channels, 3, 3, height, width).permute(0, 1, 4, 2, 5, 3)
        return F.conv2d(enlarged.reshape(batch, channels, 3 * height, 3 * width), self.weight, self.bias, stride=3)


class SnakeConv(nn.Module):
    """Dynamic snake convolution: sums of offsets tap by tap, samples as rows of a map k times higher, strided over."""

    def __init__(self, fan_in: int, fan_out: int, kernel_size: int = 9) -> None:
        super().__init__()
        self.kernel = kernel_size
        self.gn_offset = nn.GroupNorm(kernel_size, 2 * kernel_size)
        self.gn = nn.GroupNorm(fan_out // 4, fan_out)
        self.offset_conv = nn.Conv2d(fan_in, 2 * kernel_size, 3, padding=1)
        self.dsc_conv_x = nn.Conv2d(fan_in, fan_out, (kernel_size, 1), (kernel_size, 1))
        self.dsc_conv_y = nn.Conv2d(fan_in, fan_out, (1, kernel_size), (1, kernel_size))

    def _places(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        batch, _, height, width = offset.shape
        down, _ = torch.split(offset, self.kernel, dim=1)
        middle = self.kernel // 2
        rows = torch.arange(height, dtype=offset.dtype).view(1, -1, 1).repeat(self.kernel, 1, width)
        columns = torch.arange(width, dtype=offset.dtype).view(1, 1, -1).repeat(self.kernel, height, 1)
        columns = columns + torch.linspace(-middle, middle, self.kernel, dtype=offset.dtype).view(-1, 1, 1)
        down = down.permute(1, 0, 2, 3)
        summed = down.detach().clone()
        summed[middle] = 0
        for step in range(1, middle + 1):
            summed[middle + step] = summed[middle + step - 1] + down[middle + step]
            summed[middle - step] = summed[middle - step + 1] + down[middle - step]
        rows = rows.unsqueeze(0).repeat(batch, 1, 1, 1) + summed.permute(1, 0, 2, 3)
        columns = columns.unsqueeze(0).repeat(batch, 1, 1, 1)
        flat = (batch, height * self.kernel, width)
        return rows.permute(0, 2, 1, 3).reshape(flat), columns.permute(0, 2, 1, 3).reshape(flat)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self._places(torch.tanh(self.gn_offset(self.offset_conv(x))))
        last_row, last_column = x.shape[-2] - 1, x.shape[-1] - 1
        rows = -1 + 2 / last_row * torch.clamp(rows, 0, last_row)
        columns = -1 + 2 / last_column * torch.clamp(columns, 0, last_column)
        grid = torch.cat([columns.unsqueeze(-1), rows.unsqueeze(-1)], dim=-1)
        samples = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return F.relu(self.gn(self.dsc_conv_x(samples)))
