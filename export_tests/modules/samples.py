"""Seeded tensors and modules with lively weights, for the tests of single modules."""

from __future__ import annotations

import torch

from attn_deploy import create
from export_tests.helpers import randomize


def ramp(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * scale + torch.linspace(-1, 1, shape[-1])


def made(name, **arguments):
    return randomize(create(name, **arguments))


def maps(*shapes):
    return [ramp(*shape, seed=i) for i, shape in enumerate(shapes)]
