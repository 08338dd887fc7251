"""Models that no file can follow, each beside the same with the remedy that its refusal names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy import ops


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)


class ComputesWindow(Base):
    def forward(self, x):
        y = self.conv(x)
        return F.avg_pool2d(y, (y.shape[2] // 4, y.shape[3] // 4))


class PoolsToBins(Base):
    def forward(self, x):
        return ops.adaptive_avg_pool2d(self.conv(x), (4, 4))


class PicksByNumber(Base):
    def forward(self, x):
        y = self.conv(x)
        best = int(y.mean((0, 2, 3)).argmax())
        return y[:, best]


class PicksByTensor(Base):
    def forward(self, x):
        y = self.conv(x)
        best = y.mean((0, 2, 3)).argmax()
        return y.index_select(1, best.reshape(1)).squeeze(1)


class HalvesByInt(Base):
    def forward(self, x):
        return self.conv(x)[:, :, : int(x.shape[2] * 0.5)]


class HalvesBySize(Base):
    def forward(self, x):
        return self.conv(x)[:, :, : x.shape[2] // 2]


@torch.library.custom_op("attn_deploy_tests::swirl", mutates_args=())
def swirl(x: Tensor) -> Tensor:
    return x.flip(-1) * 2


@swirl.register_fake
def _(x):
    return torch.empty_like(x)


class CallsForeign(Base):
    def forward(self, x):
        return swirl(self.conv(x))


class CallsPlain(Base):
    def forward(self, x):
        return self.conv(x).flip(-1) * 2


class Medians(Base):
    """Order statistics along an axis and over everything, which exporters have no operator for."""

    def forward(self, x):
        y = self.conv(x)
        lower = y.flatten(2).median(-1, keepdim=True).values[..., None]
        third = torch.kthvalue(y, 3, dim=1).values
        return y - lower - y.median() + third[:, None]
