"""`fuse` on models of the user's: what is folded, what is left alone and why. The zoo's own forms are tested with it."""

from __future__ import annotations

import warnings

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attn_deploy
from attn_deploy import create, export, fold_bn, fuse, fuse_conv_bn
from attn_deploy.fusing import fuse_with_report
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
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


# What is found.

PAIRS = [
    (conv(4, 6), nn.BatchNorm2d(6), (2, 4, 7, 6)),
    (conv(4, 6, bias=False, groups=2), nn.BatchNorm2d(6, affine=False), (2, 4, 7, 6)),
    (conv(4, 6, padding_mode="reflect", stride=2), nn.BatchNorm2d(6), (2, 4, 7, 6)),
    (conv(4, 4, groups=4, dilation=2), nn.BatchNorm2d(4, eps=1e-3), (2, 4, 7, 6)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), nn.BatchNorm2d(6), (2, 4, 7, 6)),
    (nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), (2, 4, 3, 5, 4)),
    (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (2, 4, 7)),
    (nn.ConvTranspose1d(4, 6, 3, bias=False), nn.BatchNorm1d(6), (2, 4, 7)),
    (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), (5, 4)),
    (conv(4, 6), nn.SyncBatchNorm(6), (2, 4, 7, 6)),
]


@pytest.mark.parametrize(("layer", "bn", "shape"), PAIRS, ids=lambda v: type(v).__name__)
def test_attributes_are_followed_whatever_their_order(layer, bn, shape):
    model = Net(lambda m, x: m.second(m.first(x)).relu(), second=bn, first=layer)
    result = checked(model, ramp(*shape))
    assert result.changes == (("", "folded 1 BatchNorm"),)
    assert type(result.model.first) is type(layer)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bn2, self.bn1 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1, self.conv2 = conv(width, width, bias=False), conv(width, width, bias=False)
        self.drop = nn.Dropout2d(0.3)

    def forward(self, x):
        n, c, h, w = x.shape
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.drop(self.conv2(y)))).view(n, c, h, w)


def test_blocks_with_their_own_forward_and_a_batchnorm_outside():
    def run(m, x):
        for block in m.blocks:
            x = block(x)
        return m.norm(m.head(x))

    blocks = nn.ModuleList([Residual(4), nn.Sequential(Residual(4), conv(4, 6), nn.BatchNorm2d(6))])
    head = nn.Sequential(nn.ReLU(), conv(6, 5))
    result = checked(Net(run, blocks=blocks, head=head, norm=nn.BatchNorm2d(5)))
    assert dict(result.changes) == {
        "": "folded 1 BatchNorm",
        "blocks.0": "folded 2 BatchNorms",
        "blocks.1": "folded 1 BatchNorm",
        "blocks.1.0": "folded 2 BatchNorms",
    }


def test_several_batchnorms_in_a_row_all_fold():
    checked(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.Identity(), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))


def test_a_block_that_is_called_twice_is_folded():
    def run(m, x):
        return m.block(m.block(x)) + m.again(x)

    block = nn.Sequential(conv(), nn.BatchNorm2d(4))
    result = checked(Net(run, block=block, again=block))
    assert result.model.block is result.model.again


def test_parts_that_decide_on_values_do_not_hide_the_rest():
    def run(m, x):
        y = m.bn(m.conv(x))
        return y if y.sum() > 0 else -y

    inner = Net(run, conv=conv(), bn=nn.BatchNorm2d(4))
    outer = Net(lambda m, x: m.bn(m.conv(m.inner(x))), inner=inner, conv=conv(), bn=nn.BatchNorm2d(4))
    result = checked(nn.Sequential(outer, nn.Sequential(conv(), nn.BatchNorm2d(4))), left=1)
    assert dict(result.changes) == {"0": "folded 1 BatchNorm", "1": "folded 1 BatchNorm"}
    ((path, why),) = result.left
    assert path == "0.inner.bn"
    assert "the code of 0.inner cannot be followed" in why


def test_wrappers_of_torch_are_looked_into():
    inner = nn.DataParallel(nn.Sequential(conv(), nn.BatchNorm2d(4)))
    checked(nn.Sequential(inner, conv(), nn.BatchNorm2d(4)))
    checked(nn.DataParallel(nn.Sequential(conv(), nn.BatchNorm2d(4))))


def test_scripted_parts_and_tuples_do_not_stop_the_rest():
    def run(m, x):
        y = m.scripted(m.bn(m.conv(x)))
        z, (h, c) = m.lstm(y.flatten(2).transpose(1, 2))
        return z + h.sum() + c.sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval())
    lstm = nn.LSTM(4, 5, batch_first=True)
    checked(Net(run, conv=conv(), bn=nn.BatchNorm2d(4), scripted=scripted, lstm=lstm))


def test_zoo_modules_in_a_model_take_their_deployed_form():
    model = nn.Sequential(conv(4, 64), nn.BatchNorm2d(64), create("acblock"), create("se"), create("ghostmodule"))
    result = checked(model)
    assert ("2", "merged three branches into one convolution") in result.changes
    assert fold_bn(model)[2].fused is None
    assert batchnorms(fold_bn(model)) == 0


@pytest.mark.parametrize("kind", ["new", "old"])
@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_weight_and_spectral_norm_are_computed_once(norm, kind):
    place = torch.nn.utils.parametrizations if kind == "new" else torch.nn.utils
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layer = getattr(place, norm)(conv())
    model = nn.Sequential(layer, nn.BatchNorm2d(4))
    result = checked(model)
    assert type(result.model[0]) is nn.Conv2d
    assert not result.model[0]._forward_pre_hooks
    words = norm.replace("_", " ")
    assert result.changes[0] == ("0", f"computed {words} of 'weight' once")


# What is left.


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).relu()


class WithoutEval(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


def hooked(layer):
    layer.register_forward_hook(lambda module, given, result: result * 2)
    return layer


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


def test_forward_is_not_disturbed_by_being_followed(capsys):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.calls, self.last = conv(), nn.BatchNorm2d(4), 0, None
            self.register_buffer("steps", torch.zeros(1))

        def forward(self, x):
            print("called")
            warnings.warn("careful", stacklevel=2)
            torch.rand(3)
            self.calls += 1
            self.steps += 1
            self.last = x
            return self.bn(self.conv(x))

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model = Counting().eval()
    torch.manual_seed(3)
    fused = fuse(model)
    assert torch.equal(torch.rand(1), expected)
    assert batchnorms(fused) == 0
    for m in (model, fused):
        assert (m.calls, m.last, float(m.steps)) == (0, None, 0)
    assert capsys.readouterr().out == ""


# Max pools.


class UserSPP(nn.Module):
    def __init__(self, windows):
        super().__init__()
        self.cv1, self.cv2 = conv(4, 6), nn.Conv2d(6 * (1 + len(windows)), 8, 1)
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in windows)

    def forward(self, x):
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *[pool(x) for pool in self.pools]], 1))


def test_spp_of_the_user_becomes_one_pool_three_times(tmp_path):
    model = UserSPP((13, 5, 9)).eval()
    result = fuse_with_report(model)
    assert dict(result.changes) == {
        "pools.2": "made the 9x9 max pool of 5x5, 5x5",
        "pools.0": "made the 13x13 max pool of 5x5, 5x5, 5x5",
    }
    x = ramp(2, 4, 15, 18)
    assert torch.equal(result.model(x), model(x))
    inputs = parse_inputs(["2x4x15x18"])
    windows = {}
    for fused in (True, False):
        artifact = export(model, tmp_path / f"{fused}.onnx", inputs=inputs, fuse=fused)
        nodes = onnx.load(artifact.path).graph.node
        windows[fused] = sorted(_window(n) for n in nodes if n.op_type == "MaxPool")
    assert windows == {True: [5, 5, 5], False: [5, 9, 13]}


def _window(node):
    return next(a.ints[0] for a in node.attribute if a.name == "kernel_shape")


OTHER_POOLS = [
    nn.MaxPool2d(9, 1, 3),
    nn.MaxPool2d(9, 2, 4),
    nn.MaxPool2d((9, 5), 1, (4, 2)),
    nn.MaxPool2d(5, 1, 4, dilation=2),
    nn.AvgPool2d(9, 1, 4),
    hooked(nn.MaxPool2d(9, 1, 4)),
]


@pytest.mark.parametrize("other", OTHER_POOLS, ids=str)
def test_pools_of_another_kind_are_left(other):
    model = Net(lambda m, x: m.small(x).sum() + m.other(x).sum(), small=nn.MaxPool2d(5, 1, 2), other=other)
    assert fuse_with_report(model).changes == ()


def test_pools_of_different_maps_are_left():
    pools = {"small": nn.MaxPool2d(5, 1, 2), "large": nn.MaxPool2d(9, 1, 4)}
    assert fuse_with_report(Net(lambda m, x: m.small(x) + m.large(x.relu()), **pools)).changes == ()


# The public names.


def test_public_functions():
    pair = randomize(nn.Sequential(conv(), nn.BatchNorm2d(4)).eval())
    x = ramp(1, 4, 5, 5)
    torch.testing.assert_close(fuse_conv_bn(*pair)(x), pair(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fold_bn(pair)(x), pair(x), rtol=1e-5, atol=1e-5)
    assert {"fuse", "fuse_with_report", "fold_bn", "fuse_conv_bn"} <= set(attn_deploy.__all__)


def test_an_export_of_the_users_model_holds_no_batchnorm(tmp_path):
    model = randomize(
        Net(lambda m, x: m.late(m.block(x)), late=nn.BatchNorm2d(4), block=nn.Sequential(Residual(4), conv()))
    )
    artifact = export(model.eval(), tmp_path / "net.onnx", inputs=parse_inputs(["2x4x9x8"]), simplify=False)
    operators = {n.op_type for n in onnx.load(artifact.path).graph.node}
    assert "BatchNormalization" not in operators
    x = ramp(3, 4, 6, 7)
    runner = OnnxRuntimeRunner(artifact.path.read_bytes())
    runner.prepare({"x": x.numpy()})
    runner.enqueue()
    runner.synchronize()
    (y,) = runner.outputs().values()
    torch.testing.assert_close(torch.from_numpy(y), model(x).detach(), rtol=1e-4, atol=1e-4)
