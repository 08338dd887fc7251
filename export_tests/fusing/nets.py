"""Small networks to fuse, and the checks that every fusing must pass."""

from __future__ import annotations

import torch
from torch import nn

from attn_deploy.fusing import fuse_with_report
from export_tests.helpers import as_tuple, assert_same_function, randomize


def batchnorms(model):
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def ramp(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) + torch.linspace(-1, 1, shape[-1])


class Net(nn.Module):
    """A model whose layers are given, and whose forward is a function of it and its inputs."""

    def __init__(self, run, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def conv(ins=4, outs=4, **settings):
    return nn.Conv2d(ins, outs, 3, padding=1, **settings)


def checked(model, *given, left=0):
    """The report of fusing a model, once numbers, the model itself and the count of BatchNorms have been looked at."""
    randomize(model.eval())
    given = given or (ramp(2, 4, 7, 6),)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    count = batchnorms(model)
    with torch.no_grad():
        expected = as_tuple(model(*given))
    result = fuse_with_report(model)
    assert_same_function(result.model, model, list(given))
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(as_tuple(model(*given)), expected, strict=True))
    assert batchnorms(model) == count
    assert state.keys() == model.state_dict().keys()
    assert batchnorms(result.model) == left == len(result.left)
    assert not result.model.training
    return result


def hooked(layer):
    layer.register_forward_hook(lambda module, given, result: result * 2)
    return layer
