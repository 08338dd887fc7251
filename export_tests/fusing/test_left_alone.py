"""What `fuse` leaves alone, and why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_deploy import fuse
from attn_deploy.fusing import fuse_with_report
from export_tests.fusing.nets import Net, batchnorms, checked, conv, hooked, ramp
from export_tests.helpers import randomize


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).relu()


class WithoutEval(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


def patched(layer):
    original = layer.forward
    layer.forward = lambda x: original(x) * 2
    return layer


def parametrized(layer):
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


def plain(m, x):
    return m.bn(m.conv(x))


def twice(m, x):
    y = m.conv(x)
    return m.bn(y) + y


def in_place(m, x):
    y = m.conv(x)
    y.mul_(2)
    return m.bn(y)


def returned(m, x):
    y = m.conv(x)
    return m.bn(y), y


def other_call(m, x):
    return m.bn(m.conv(x)) + m.conv(x + 1)


def bn_elsewhere(m, x):
    return m.bn(m.conv(x)) + m.bn(x)


def bn_read(m, x):
    return m.bn(m.conv(x)) * m.bn.weight.reshape(1, -1, 1, 1)


def weight_read(m, x):
    return m.bn(m.conv(x)) + F.conv2d(x, m.conv.weight, padding=1)


def activated(m, x):
    return m.bn(m.conv(x).relu())


def functional(m, x):
    return m.bn(F.conv2d(x, m.conv.weight, padding=1))


LEFT = [
    (twice, {}, "the output of conv is used elsewhere too"),
    (in_place, {}, "the output of conv is used elsewhere too"),
    (returned, {}, "the output of conv is used elsewhere too"),
    (other_call, {}, "conv is called elsewhere too"),
    (bn_elsewhere, {}, "an input of the module"),
    (bn_read, {}, "its parameters are read elsewhere too"),
    (weight_read, {}, "the parameters of conv are read elsewhere too"),
    (activated, {}, "it follows relu"),
    (functional, {}, "it follows conv2d"),
    (plain, {"conv": Scaled(4, 4, 3)}, "it follows Scaled"),
    (plain, {"conv": parametrized(conv())}, "it follows ParametrizedConv2d"),
    (plain, {"conv": hooked(conv())}, "conv has hooks"),
    (plain, {"bn": hooked(nn.BatchNorm2d(4))}, "it has hooks"),
    (plain, {"conv": patched(conv())}, "conv has hooks"),
    (plain, {"bn": nn.BatchNorm2d(4, track_running_stats=False)}, "no running statistics"),
    (plain, {"conv": nn.Sequential(conv(), nn.LeakyReLU())}, "it follows LeakyReLU"),
    (plain, {"conv": hooked(nn.Sequential(conv()))}, "it follows Sequential"),
]


@pytest.mark.parametrize(("run", "layers", "why"), LEFT, ids=lambda v: getattr(v, "__name__", None))
def test_what_cannot_be_shown_to_be_equal_is_left(run, layers, why):
    result = checked(Net(run, **{"conv": conv(), "bn": nn.BatchNorm2d(4), **layers}), left=1)
    assert why in result.left[0][1]


def test_a_batchnorm_that_stays_in_training_mode_is_left():
    model = nn.Sequential(conv(), WithoutEval(4))
    model[1].__class__ = nn.BatchNorm2d
    result = fuse_with_report(model)
    assert batchnorms(result.model) == 0  # an ordinary one, put into eval mode like the rest of the copy
    model[1].__class__ = WithoutEval
    assert fuse_with_report(model).left == (("1", "WithoutEval is a class of its own"),)


def test_a_layer_shared_by_several_batchnorms_is_left():
    def run(m, x):
        return m.bn1(m.conv(x)) + m.bn2(m.conv(x + 1))

    result = checked(Net(run, conv=conv(), bn1=nn.BatchNorm2d(4), bn2=nn.BatchNorm2d(4)), left=2)
    assert {why for _, why in result.left} == {"conv is called elsewhere too"}


def test_features_taken_from_the_middle_of_a_sequence_stay_what_they_are():
    def run(m, x):
        found = []
        for layer in m.body:
            x = layer(x)
            found.append(x)
        return torch.cat(found, 1)

    checked(Net(run, body=nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU())), left=1)


def test_a_layer_that_is_also_called_where_nobody_can_look_is_left():
    def outside(m, x):
        return x if x.sum() > 1e9 else m.shared(x)

    shared = conv()
    inner = nn.Sequential(shared, nn.BatchNorm2d(4))
    hidden = Net(outside, shared=shared)
    model = Net(lambda m, x: m.inner(x) + m.hidden(x), inner=inner, hidden=hidden)
    checked(model, left=1)


def test_a_layer_that_has_another_place_where_nobody_can_look_is_left():
    def run(m, x):
        return m.later(x) if x.sum() < 1e9 else m.first.kept(x)

    first = Net(lambda m, x: x, kept=conv())
    later = nn.Sequential(first.kept, nn.BatchNorm2d(4))
    result = checked(Net(run, first=first, later=later), left=1)
    assert "first.kept is registered where its calls cannot be followed" in result.left[0][1]


class Collecting(nn.Module):
    """Cannot be followed, and takes one of its sequences apart."""

    def __init__(self):
        super().__init__()
        self.body, self.tail = (nn.Sequential(conv(), nn.BatchNorm2d(4)) for _ in range(2))
        self.levels = nn.ModuleList([nn.Sequential(conv(), nn.BatchNorm2d(4))])
        self.shortcut = nn.Sequential(conv(), nn.BatchNorm2d(4))

    def forward(self, x):
        y = self.tail(x) if x.sum() < 1e9 else x
        if self.shortcut is not None:
            y = self.shortcut(y)
        for level in self.levels:
            y = level(y)
        return self.collect(y)

    def collect(self, x):
        found = []
        for layer in self.body:
            x = layer(x)
            found.append(x)
        return torch.cat(found, 1)


def test_a_sequence_that_is_taken_apart_where_nobody_can_look_is_left():
    result = checked(Collecting(), left=1)
    assert result.left == (("body.1", "the code of body cannot be followed (the code of the model takes it apart)"),)


class Optional(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.conv, self.bn, self.kind = conv(), nn.BatchNorm2d(4), kind

    def forward(self, x, mask=None, raw=False):
        if self.kind == "type":
            return self.bn(self.conv(x)) if isinstance(x, torch.Tensor) else self.conv(x[0])
        y = self.conv(x)
        if self.kind == "mask" and mask is not None:
            y = y * mask
        if self.kind == "raw" and raw:
            return y
        return self.bn(y) if self.kind != "plain" or mask is None else self.bn(y) * mask


@pytest.mark.parametrize(("kind", "left"), [("plain", 0), ("type", 0), ("mask", 1), ("raw", 1)])
def test_optional_arguments_count(kind, left):
    result = checked(Optional(kind), left=left)
    x, mask = ramp(1, 4, 5, 5), ramp(1, 1, 5, 5)
    original = randomize(Optional(kind).eval())
    for given in ({}, {"mask": mask}, {"raw": True}):
        torch.testing.assert_close(fuse(original)(x, **given), original(x, **given), rtol=1e-5, atol=1e-5)
    assert all("with optional arguments" in why for _, why in result.left)


@pytest.mark.parametrize(("layer", "shape"), [(nn.Linear(4, 6), (2, 6, 4)), (nn.Conv1d(4, 6, 1), (4, 6))])
def test_another_axis_is_never_normalised_in_silence(layer, shape):
    model = randomize(nn.Sequential(layer, nn.BatchNorm1d(6)).eval())
    assert model(ramp(*shape)).shape[1] == 6  # the length, which happens to be the number of channels
    with pytest.raises(ValueError, match=r"another axis: use the model without fusing"):
        fuse(model)(ramp(*shape))
