"""A user's file of models that go wrong in every way that a matrix has to tell apart."""

from __future__ import annotations

import os
import signal

import torch
from torch import nn
from torch.nn import functional

from attn_deploy.isolate import run_isolated


class Good(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu()


class BakedBatch(Good):
    """Splits the batch into single images, as code written for one batch size does."""

    def forward(self, x):
        return torch.cat([self.conv(image.unsqueeze(0)) for image in x])


class BakedSize(Good):
    def forward(self, x):
        return self.conv(x) * torch.arange(int(x.shape[3]), dtype=x.dtype)


class TrainModeDropout(Good):
    def forward(self, x):
        return functional.dropout(self.conv(x), 0.5, training=True)


class NanWeights(Good):
    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.conv.weight[0, 0, 0, 0] = float("nan")


class Crashes(Good):
    def forward(self, x):
        os.kill(os.getpid(), signal.SIGSEGV)
        return self.conv(x)


class Hangs(Good):
    """Waits for a child process that hangs, as a native library in one may."""

    def forward(self, x):
        run_isolated("export_tests.sleeper:sleep_for_ever", {}, what="sleeping", timeout=3600)
        return self.conv(x)
