"""A convolution with kernels of each sample's own as a matrix product: the numbers of `F.conv2d`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from attn_deploy.ops.expert_conv import arranged_kernels, convolved


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_kernels_of_each_sample(kernel, stride, dilation):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 11, 13, generator=generator, dtype=torch.float64)  # samples, groups, C_in, H, W
    kernels = torch.randn(2, 3, 6, 4, kernel, kernel, generator=generator, dtype=torch.float64)
    right = F.conv2d(maps.reshape(1, -1, 11, 13), kernels.reshape(-1, 4, kernel, kernel), None, stride, 0, dilation, 6)
    made = convolved(maps, arranged_kernels(kernels, stride), kernel, stride=stride, dilation=dilation)
    assert made.shape == (2, 3, 6, *right.shape[2:])
    torch.testing.assert_close(made.reshape(right.shape), right)
