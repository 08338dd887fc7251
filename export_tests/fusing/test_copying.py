"""Copies of models as users write them: nothing of a copy reaches back to the original."""

from __future__ import annotations

import functools
import threading
import types
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn_deploy.fusing.copying import copy_model


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def by_default(net: Net) -> None:
    net.conv.register_forward_hook(lambda m, i, o, owner=net: o * owner.gain)


def by_keyword(net: Net) -> None:
    def hook(m, i, o, *, owner=net):
        return o * owner.gain

    net.conv.register_forward_hook(hook)


def by_partial(net: Net) -> None:
    def hook(owner, m, i, o):
        return o * owner.gain

    net.conv.register_forward_hook(functools.partial(hook, net))


def by_list(net: Net) -> None:
    box = [{"net": net}]
    net.conv.register_forward_hook(lambda m, i, o: o * box[0]["net"].gain)


def by_closure_in_partial(net: Net) -> None:
    def hook(factor, m, i, o):
        return o * net.gain * factor

    net.conv.register_forward_hook(functools.partial(hook, 1.0))


def by_reference(net: Net) -> None:
    net.conv.parent = weakref.ref(net)
    net.conv.register_forward_hook(lambda m, i, o: o * m.parent().gain)


def by_method(net: Net) -> None:
    net.conv.forward = types.MethodType(lambda self, x: torch.conv2d(x, self.weight * net.gain), net.conv)


@pytest.mark.parametrize(
    "hook", [by_default, by_keyword, by_partial, by_list, by_closure_in_partial, by_reference, by_method]
)
@pytest.mark.parametrize("share", [True, False])
def test_functions_of_a_copy_hold_the_copy(hook, share):
    net = Net()
    hook(net)
    x = torch.randn(1, 3, 2, 2)
    before = net(x)
    twin = copy_model(net, share_parameters=share)
    twin.gain = nn.Parameter(torch.tensor(20.0))
    del twin.conv.bias
    twin.conv.bias = None
    with torch.no_grad():
        net.conv.bias.zero_()
        assert torch.allclose(twin(x), net(x) * 10, rtol=1e-5)
    assert before.shape == net(x).shape


def test_what_cannot_be_copied_is_shared():
    net = Net()
    net.lock, net.library, net.made = threading.Lock(), np, (i for i in range(3))
    net.box = {"lock": [threading.RLock()], "tensor": torch.ones(2)}
    twin = copy_model(net)
    assert twin.lock is net.lock
    assert twin.library is np
    assert twin.box is not net.box
    assert twin.conv.weight is not net.conv.weight
    assert torch.equal(twin.conv.weight, net.conv.weight)


def test_wrappers_are_taken_off():
    net = nn.Sequential(nn.DataParallel(Net()), nn.ReLU())
    twin = copy_model(net)
    assert type(twin[0]) is Net
    assert type(net[0]) is nn.DataParallel
    assert type(copy_model(nn.DataParallel(Net()))) is Net


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_part_is_the_module_itself():
    net = nn.Sequential(torch.compile(Net()), nn.ReLU())
    twin = copy_model(net, share_parameters=True)
    assert type(twin[0]) is Net
    x = torch.randn(1, 3, 2, 2)
    assert torch.equal(twin(x), Net.forward(net[0]._orig_mod, x).relu())


class Keeping(nn.Module):
    """Keeps empty containers, one of them under two names."""

    def __init__(self):
        super().__init__()
        self.maps, self.sizes = [], {}
        self.same = self.maps

    def forward(self, x):
        self.maps.append(x.shape)
        return x


def test_empty_containers_of_a_copy_are_its_own():
    model = nn.Sequential(Keeping(), Keeping())
    twin = copy_model(model)
    twin(torch.zeros(1))
    twin[0].register_forward_hook(lambda *_: None)
    twin[0].sizes["a"] = 1
    assert model[0].maps == []
    assert model[0].sizes == {}
    assert not model[0]._forward_hooks
    assert twin[0].maps == [(1,)]
    assert twin[0].same is twin[0].maps
    assert twin[1].maps == [(1,)]
    assert not twin[1]._forward_hooks
