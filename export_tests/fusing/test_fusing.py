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
from export_tests.fusing.nets import Net, batchnorms, checked, conv, hooked, ramp
from export_tests.helpers import randomize

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
