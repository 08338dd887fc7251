"""Inputs reach the parameters that they are named after, and move as the user says or as the model allows."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import attn_deploy
from attn_deploy.bench.subject import make_subject
from attn_deploy.diagnosis.lint import lint
from attn_deploy.errors import AttnDeployError, DynamicAxisError, InvalidRequestError
from attn_deploy.exporters.pipeline import export
from attn_deploy.exporters.prepare import prepare
from attn_deploy.inputs.binding import bind_inputs
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.tensors import tied_to_maps
from attn_deploy.report.text import export_text
from attn_deploy.runtimes.eager import EagerRunner


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x, mul=None, add=None):
        y = self.conv(x)
        if mul is not None:
            y = y * mul
        return y if add is None else y + add


class KeywordOnly(Optional):
    def forward(self, x, *, mask, bias=None):
        y = self.conv(x) * mask.unsqueeze(1)
        return y if bias is None else y + bias


class Swapped(nn.Module):
    def forward(self, image, mask):
        return image * mask.unsqueeze(1)


class Branching(Optional):
    def forward(self, x, mul=None, add=None):
        if x.mean() > 0:
            return self.conv(x) + add
        return self.conv(x)


def run(path, **arrays):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {n: t.numpy() for n, t in arrays.items()})[0]


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_an_optional_parameter_that_is_left_out_stays_out(exporter, tmp_path):
    model = Optional().eval()
    made = export(model, tmp_path / "m.onnx", inputs=parse_inputs(["x:1x3x8x9", "add:1x4x8x9"]), exporter=exporter)
    x, add = torch.randn(2, 3, 6, 7), torch.randn(2, 4, 6, 7)
    np.testing.assert_allclose(run(made.path, x=x, add=add), model(x, add=add).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert tuple(i.name for i in made.inputs) == ("x", "add")
    assert type(model) is Optional
    assert not made.record["called"]


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_keyword_only_parameters_in_any_order(exporter, tmp_path):
    model = KeywordOnly().eval()
    inputs = parse_inputs(["mask:1x8x9", "x:1x3x8x9"])
    made = export(model, tmp_path / "m.onnx", inputs=inputs, exporter=exporter)
    x, mask = torch.randn(2, 3, 6, 7), torch.randn(2, 6, 7)
    np.testing.assert_allclose(run(made.path, x=x, mask=mask), model(x, mask=mask).detach(), rtol=1e-4, atol=1e-5)


def test_names_of_which_only_some_are_parameters_are_refused():
    with pytest.raises(InvalidRequestError, match=r"forward\(x, mul=None, add=None\) has no parameter 'plus'"):
        prepare(Optional(), inputs=parse_inputs(["x:1x3x8x9", "plus:1x4x8x9"]))
    with pytest.raises(InvalidRequestError, match="needs 'mask' too"):
        prepare(KeywordOnly(), inputs=parse_inputs(["x:1x3x8x9", "bias:1x4x8x9"]))
    with pytest.raises(InvalidRequestError, match="'x' twice"):
        prepare(Optional(), inputs=parse_inputs(["1x3x8x9", "x:1x3x8x9"]))


def test_names_of_which_none_is_a_parameter_go_by_position_and_the_record_says_so(tmp_path):
    made = export(Swapped(), tmp_path / "m.onnx", inputs=parse_inputs(["p:1x3x8x9", "q:1x8x9"]), simplify=False)
    assert "p as image, q as mask" in made.record["called"]
    assert "no input name matches a parameter of forward(image, mask)" in " ".join(export_text(made).split())


def call(forward, *texts):
    model = type("Model", (nn.Module,), {"forward": forward})()
    bound = bind_inputs(model, parse_inputs(texts), "model")
    return bound.module(*(i.name for i in bound.inputs))


def test_bound_as_python_binds():
    def several(self, x, *rest, mask=None):
        return x, rest, mask

    def keywords(self, x=None, **others):
        return x, others

    def early(self, a, b=None, /, c=None):
        return a, b, c

    def late(self, mul=None, x=None):
        return mul, x

    assert call(several, "mask:1", "x:1", "p:1", "q:1") == ("x", ("p", "q"), "mask")
    assert call(several, "a:1", "b:1") == ("a", ("b",), None)
    assert call(keywords, "scale:1", "x:1") == ("x", {"scale": "scale"})
    assert call(early, "c:1", "a:1") == ("a", None, "c")
    assert call(late, "x:1") == (None, "x")
    assert call(late, "1") == ("x", None)  # it has no name, whatever it is called in the file
    assert call(late, "1", "1") == ("x0", "x1")
    with pytest.raises(InvalidRequestError, match="needs 'b' too"):
        call(lambda self, a, b=None, c=None, /: a, "a:1", "c:1")


def test_a_forward_put_on_the_instance_is_the_one_that_is_called():
    model = Optional()
    model.flag = 3.0
    model.forward = (lambda self, x, mul=None, add=None: add * self.flag).__get__(model)
    bound = bind_inputs(model, parse_inputs(["x:1x3x8x9", "add:1x4x8x9"]), "model")
    bound.module.flag = 5.0
    assert bound.module(1.0, 2.0) == 10.0
    assert model(1.0, add=2.0) == 6.0


def test_eager_runs_and_lint_bind_alike():
    subject = make_subject(Optional(), inputs=parse_inputs(["add:1x4x8x9", "x:1x3x8x9"]))
    runner = EagerRunner(subject.module)
    x, add = torch.randn(1, 3, 8, 9), torch.randn(1, 4, 8, 9)
    runner.prepare({i.name: {"x": x, "add": add}[i.name].numpy() for i in subject.inputs})
    runner.enqueue()
    torch.testing.assert_close(torch.from_numpy(runner.outputs()["y"]), subject.module(x, add).detach())
    torch.testing.assert_close(subject.module(x, add), Optional.forward(subject.module, x, add=add))

    report = lint(Branching(), inputs=parse_inputs(["x:1x3x8x9", "add:1x4x8x9"]))
    assert [f.rule for f in report.findings] == ["data-dependent-branch"]
    assert report.findings[0].place.file == __file__


def test_the_mask_of_an_image_moves_with_it():
    square = prepare(Swapped(), inputs=parse_inputs(["image:1x3x8x8", "mask:1x8x8"]))
    assert square.inputs[1].dims == ("N", "H", "W")
    assert prepare(Swapped(), inputs=parse_inputs(["mask:1xHxW", "image:1x3x8x8"])).inputs[1].dims == ("N", "H", "W")


class Tokens(nn.Module):
    def forward(self, image, tokens):
        return image * (tokens.reshape(-1, 8 * 4).mean(1)[:, None, None, None])


def test_an_axis_of_the_same_length_stays_if_the_model_needs_it():
    prepared = prepare(Tokens(), inputs=parse_inputs(["image:1x3x8x9", "tokens:1x8x4"]))
    assert prepared.inputs[1].dims == ("N", 8, 4)
    assert prepared.dynamic == ("N", "H", "W")


def test_symbols_of_inputs():
    image, tokens = parse_inputs(["image:1x3x64x48", "tokens:1xL=77xH:int64"])
    assert (image.dims, tokens.dims) == (("N", 3, "H", "W"), ("N", "L", "H"))
    assert tokens.shape() == (1, 77, 64)
    assert parse_inputs(["image:1x3xH=64x64"])[0].dims == ("N", 3, "H", 64)
    assert tied_to_maps(parse_inputs(["image:1x3x8x9", "t:N=1x8"]), ("N", "H", "W")) == []
    with pytest.raises(InvalidRequestError, match="write it as L=64"):
        parse_inputs(["tokens:1xL"])
    with pytest.raises(InvalidRequestError, match="H is 8 in one input and 9 in another"):
        parse_inputs(["a:1xH=8", "b:1xH=9"])


class Scaled(nn.Module):
    def forward(self, x, scale):
        return x * scale


class OneImage(nn.Module):
    def forward(self, x):
        return x.reshape(3, x.shape[2], x.shape[3])


def test_an_extent_of_1_stays():
    prepared = prepare(Scaled(), inputs=parse_inputs(["x:1x3x8x9", "scale:1x3x1x1"]))
    assert prepared.inputs[1].dims == ("N", 3, 1, 1)
    assert prepared.dynamic == ("N", "H", "W")


def test_sizes_that_were_changed_for_the_trace_are_told():
    with pytest.raises(DynamicAxisError) as caught:
        prepare(OneImage(), inputs=parse_inputs(["1x3x8x9"]), dynamic=("N", "H", "W"))
    assert "x 2x3x8x9" in str(caught.value)
    assert "runs at the given size" in str(caught.value)
    assert "--dynamic H,W" in str(caught.value)


class SixtyFour(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] == 64 else x


def test_the_remedy_names_axes_that_do_move(tmp_path):
    inputs = parse_inputs(["1x3x8x9"])
    with pytest.raises(AttnDeployError, match="--dynamic H,W") as caught:
        export(SixtyFour(), tmp_path / "m.onnx", inputs=inputs, exporter="dynamo", dynamic=("N", "H", "W"))
    assert "--dynamic N" not in str(caught.value)


class Partial(nn.Module):
    def forward(self, x):
        return x.relu(), None


def test_an_output_that_is_no_tensor_is_told(tmp_path, capfd):
    made = export(Partial(), tmp_path / "m.onnx", inputs=parse_inputs(["1x3x8x9"]), exporter="dynamo", simplify=False)
    assert "None among the outputs" in export_text(made)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", [s.name for s in attn_deploy.list_models()])
def test_every_entry_takes_the_inputs_that_a_profile_gives(name):
    """A symbol may stand alone in another input only: 2*H in one, H in the other."""
    subject = make_subject(name)
    given = subject.at(3, None)
    taken = bind_inputs(subject.model.module, given, name, expected=subject.model.inputs).inputs
    assert [i.shape() for i in taken] == [i.shape() for i in given]


def test_a_size_that_two_inputs_do_not_agree_on_is_refused():
    given = parse_inputs(["high:2x64x32x32", "low:2x64x60x64"])
    with pytest.raises(
        InvalidRequestError, match=r"input 'low' must be .* got \(2, 64, 60, 64\): .* \(2, 64, 64, 64\)"
    ):
        prepare("seb", inputs=given)
