"""A convolution whose kernel is a weighted sum of expert kernels, with other weights for each sample.

The usual form runs the batch as groups of one convolution (``groups=N*g``). ONNX's Conv has its group count as a
constant, so that form cannot be exported with a dynamic batch. Two equal forms can:

- ``mix_outputs``: one convolution with the outputs of all experts, then their weighted sum. E times the work, and
  E * C_out maps to write and read back; convolution kernels as fast as any.
- ``mix_kernels``: the kernels are summed for each sample, the map is unrolled along its rows by slices with constant
  bounds, one batched matrix product serves all columns of the kernel, and its parts are shifted and summed. The work of
  one convolution, k * C_in and k * C_out maps to write and read back; k * k * C_in where the stride is above 1.

``auto`` counts, for each output position, multiply-accumulates and elements moved, takes ``BALANCE`` of the former to
cost as much as one of the latter, and picks the cheaper form. A kernel of 1x1 needs no unrolling: always mix_kernels.
The constant is measured, by ``benchmarks/expert_conv_forms.py`` in ONNX Runtime on a CPU: any between 1.2 and 6.2 makes
the same choices over its layers. The table is in ``profiles``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops.checks import require_choice, require_convolution
from attn_deploy.ops.folding import Fusible
from attn_deploy.ops.padding import pad_same

EXPORT_FORMS = ("auto", "mix_outputs", "mix_kernels")
BALANCE = 5.0  # multiply-accumulates in the time of one element's trip to memory, as measured


def unrolled(x: Tensor, kernel_size: int, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """im2col of an already padded map: (..., C, H, W) -> (..., k * k * C, H', W'), ordered column, row, channel.

    The rows are unrolled first and the result is unrolled along the columns: 2k slices instead of k * k.
    """
    rows = _unrolled_along(-2, x, kernel_size, stride, dilation)
    return _unrolled_along(-1, rows, kernel_size, stride, dilation)


def _unrolled_along(axis: int, x: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """Shifted maps of one axis, -2 or -1, beside each other in the channels.

    ``end`` counts from the far side, so every bound is a constant.
    """
    if kernel_size == 1 and stride == 1:
        return x
    reach = dilation * (kernel_size - 1)
    pieces = []
    for start in range(0, reach + 1, dilation):
        end = None if start == reach else start - reach
        cut = slice(start, end, stride)
        pieces.append(x[..., cut, :] if axis == -2 else x[..., cut])
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -3)


def arranged_kernels(kernels: Tensor, stride: int) -> Tensor:
    """Kernels, (..., C_out, C_in, k, k), with their axes in the order in which `convolved` takes them."""
    lead = kernels.dim() - 4  # counted from the front: the TorchScript exporter writes negative axes as they are
    order = (3, 0, 2, 1) if stride == 1 else (0, 3, 2, 1)
    return kernels.permute(*range(lead), *(lead + axis for axis in order))


def convolved(x: Tensor, kernels: Tensor, kernel_size: int, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """A convolution with a kernel of each sample's own, as a batched matrix product.

    Where the window moves by one, rows alone are unrolled; one product serves all columns of the kernel, and its parts are
    shifted and summed: k * C_in and k * C_out maps are written, where a whole unrolled map has k * k * C_in.

    Args:
        x: maps, already padded, (..., C_in, H, W).
        kernels: in the order of `arranged_kernels`, with the axes before C_in of ``x`` in front.
        kernel_size: k, as a number also while traced.
        stride: of both axes.
        dilation: of both axes.

    Returns:
        (..., C_out, H', W').
    """
    if stride != 1:
        patches = unrolled(x, kernel_size, stride=stride, dilation=dilation)
        mixed = torch.matmul(kernels.flatten(-3), patches.flatten(-2))
        return mixed.reshape(*mixed.shape[:-1], patches.shape[-2], patches.shape[-1])
    rows = _unrolled_along(-2, x, kernel_size, 1, dilation)
    products = torch.matmul(kernels.flatten(-4, -3).flatten(-2), rows.flatten(-2))
    products = products.reshape(*products.shape[:-1], rows.shape[-2], rows.shape[-1])
    columns = products.chunk(kernel_size, -3) if kernel_size > 1 else (products,)
    reach = dilation * (kernel_size - 1)
    shifted = [c[..., i * dilation : (i * dilation - reach) or None] for i, c in enumerate(columns)]
    return sum(shifted[1:], start=shifted[0])


def cheaper_form(
    experts: int, in_channels: int, out_channels: int, kernel_size: int, groups: int, balance: float = BALANCE
) -> str:
    """The form that `auto` stands for; the rule is in the module's docstring."""
    if kernel_size == 1:
        return "mix_kernels"
    work = out_channels * (in_channels // groups) * kernel_size**2 / balance
    mix_outputs = experts * work + 2 * experts * out_channels
    mix_kernels = work + 2 * kernel_size * (in_channels + out_channels)
    return "mix_outputs" if mix_outputs <= mix_kernels else "mix_kernels"


class ExpertConv2d(Fusible, nn.Module):
    """Expert kernels and biases, mixed for each sample by given weights.

    Shape: (N, C_in, H, W), (N, experts) -> (N, C_out, H', W'); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, of a square kernel.
        experts: number of kernels.
        stride: step of the window.
        padding: zeros on every side, or "same" for TensorFlow's rule.
        dilation: distance of the taps.
        groups: groups of channels.
        bias: whether every expert has a bias.
        export_form: "auto", "mix_outputs" or "mix_kernels".

    Raises:
        ValueError: if a number is below its least, ``groups`` does not divide the channels, or ``padding`` or
            ``export_form`` is not one of the choices.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        experts: int,
        stride: int = 1,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        export_form: str = "auto",
    ) -> None:
        super().__init__()
        require_convolution(
            in_channels, out_channels, groups, kernel_size=kernel_size, stride=stride, dilation=dilation
        )
        require_choice("export_form", export_form, EXPORT_FORMS)
        if padding != "same" and (isinstance(padding, (bool, str)) or padding < 0):
            raise ValueError(f"padding must be an integer of at least 0 or 'same', got {padding!r}.")
        if padding == "same" and 1 < dilation * (kernel_size - 1) + 1 < stride:
            raise ValueError(
                f"padding='same' needs a dilated kernel of at least the stride, got kernel_size={kernel_size}, "
                f"dilation={dilation} and stride={stride}: give the padding as a number."
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.groups, self.experts = dilation, groups, experts
        auto = export_form == "auto"
        self.export_form = (
            cheaper_form(experts, in_channels, out_channels, kernel_size, groups) if auto else export_form
        )
        self.arranged = False
        self.weight = nn.Parameter(torch.empty(experts, out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(experts, out_channels)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise every expert as PyTorch does a convolution."""
        for kernel in self.weight:
            nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_channels // self.groups * self.kernel_size**2)
            nn.init.uniform_(self.bias, -bound, bound)

    def fuse_(self) -> str | None:
        """Store the kernels in the layout that the export form multiplies with: no Transpose of weights in the file."""
        if self.arranged:
            return None
        self.weight = nn.Parameter(self._arranged_weight().detach().contiguous())
        self.arranged = True
        return f"arranged {self.experts} kernels for {self.export_form}"

    def forward(self, x: Tensor, routing: Tensor) -> Tensor:
        """Convolve each sample with its own mixture of the experts."""
        padding = self.padding
        if isinstance(padding, str):
            x, padding = pad_same(x, self.kernel_size, stride=self.stride, dilation=self.dilation), 0
        mix = self._mix_outputs if self.export_form == "mix_outputs" else self._mix_kernels
        y = mix(x, routing, self.weight if self.arranged else self._arranged_weight(), padding)
        if self.bias is not None:
            y = y + torch.matmul(routing, self.bias).unsqueeze(2).unsqueeze(3)
        return y

    def _arranged_weight(self) -> Tensor:
        per_group = self.out_channels // self.groups
        by_group = self.weight.reshape(self.experts, self.groups, per_group, *self.weight.shape[2:])
        if self.export_form == "mix_outputs":  # outputs of a group stay together, expert by expert
            return by_group.transpose(0, 1).flatten(0, 2)
        return arranged_kernels(by_group, self.stride).flatten(1)

    def _mix_outputs(self, x: Tensor, routing: Tensor, weight: Tensor, padding: int) -> Tensor:
        y = F.conv2d(x, weight, None, self.stride, padding, self.dilation, self.groups)
        if self.groups == 1:
            mixed = torch.matmul(routing.unsqueeze(1), y.reshape(x.shape[0], self.experts, -1))
        else:
            spread = y.reshape(x.shape[0], self.groups, self.experts, -1)
            mixed = torch.matmul(routing.unsqueeze(1).unsqueeze(1), spread)
        return mixed.reshape(x.shape[0], self.out_channels, y.shape[2], y.shape[3])

    def _mix_kernels(self, x: Tensor, routing: Tensor, weight: Tensor, padding: int) -> Tensor:
        if padding:
            x = F.pad(x, (padding, padding, padding, padding))
        side, inputs, outputs = self.kernel_size, self.in_channels // self.groups, self.out_channels // self.groups
        shape = (side, outputs, side, inputs) if self.stride == 1 else (outputs, side, side, inputs)
        kernels = torch.matmul(routing, weight)
        if self.groups == 1:
            return convolved(x, kernels.reshape(-1, *shape), side, stride=self.stride, dilation=self.dilation)
        maps = x.reshape(x.shape[0], self.groups, inputs, x.shape[2], x.shape[3])
        kernels = kernels.reshape(-1, self.groups, *shape)
        return convolved(maps, kernels, side, stride=self.stride, dilation=self.dilation).flatten(1, 2)
