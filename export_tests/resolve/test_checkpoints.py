"""Checkpoints of the forms that training scripts write, loaded with every key accounted for."""

from __future__ import annotations

import argparse
import json

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attn_deploy.errors import InvalidRequestError
from attn_deploy.exporters.pipeline import export
from attn_deploy.files import sha256_of
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.resolve.checkpoints import load_weights
from attn_deploy.resolve.resolve import create
from export_tests.exporters.test_user_models import FOLDER
from export_tests.exporters.user_models.se_resnet import SEResNet


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return {k: torch.rand_like(v) if v.is_floating_point() else v + 7 for k, v in network().state_dict().items()}


FORMS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"lr": 0.1}},
    "nested": lambda s: {"model": {"state_dict": s}},
    "module.": lambda s: {"module." + k: v for k, v in s.items()},
    "_orig_mod.module.": lambda s: {"state_dict": {"_orig_mod.module." + k: v for k, v in s.items()}},
    "no counters": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    "parameters": lambda s: {k: nn.Parameter(v, requires_grad=v.is_floating_point()) for k, v in s.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_checkpoints(form, trained, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(FORMS[form](trained), path)
    model = network()
    assert load_weights(model, path, "m") == ("w.pth", sha256_of(path))
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(value, trained[name]), name


def test_safetensors(trained, tmp_path):
    save_file(trained, tmp_path / "w.safetensors")
    model = network()
    load_weights(model, tmp_path / "w.safetensors", "m")
    assert torch.equal(model[0].weight, trained["0.weight"])


class Planted:
    def __reduce__(self):
        return (print, ("this must not run",))


WRONG = {
    "missing": (
        lambda s: {k: v for k, v in s.items() if k != "0.bias"},
        r"1 tensors are missing \(0.bias\)",
    ),
    "unexpected": (lambda s: {**s, "head.weight": s["0.bias"]}, r"1 are unexpected \(head.weight\)"),
    "renamed": (
        lambda s: {k.replace("0.weight", "0.weights"): v for k, v in s.items()},
        "'0.weights' looks like '0.weight'",
    ),
    "shape": (lambda s: {**s, "0.bias": torch.zeros(5)}, r"'0.bias' has the shape \(5,\), the model's is \(4,\)"),
    "no tensors": (lambda s: {"epoch": 3}, r"holds no state dict \(keys 'epoch'\)"),
    "a list": (lambda s: [1, 2], r"holds no state dict \(list\)"),
    "an object": (lambda s: {"state_dict": s, "config": Planted()}, "save model.state_dict"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(case, trained, tmp_path, capsys):
    make, message = WRONG[case]
    torch.save(make(trained), tmp_path / "w.pth")
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InvalidRequestError, match=message):
        load_weights(model, tmp_path / "w.pth", "m")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "this must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "content"), [("w.pth", b"no"), ("w.safetensors", b"no"), ("w.pt", b"")])
def test_damaged_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequestError, match="cannot be read as"):
        load_weights(network(), tmp_path / name, "m")


def test_an_export_has_the_weights_of_the_checkpoint(tmp_path):
    torch.manual_seed(11)
    trained = SEResNet(layers=(1,), width=8).eval()
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "w.pth")
    made = export(
        f"{FOLDER}/se_resnet.py:SEResNet:layers=(1,),width=8",
        tmp_path / "m.onnx",
        inputs=parse_inputs(["1x3x32x32"]),
        weights=tmp_path / "w.pth",
        opset=17,
        simplify=False,
    )
    assert made.record["weights"] == ["w.pth", sha256_of(tmp_path / "w.pth")]
    x = torch.randn(2, 3, 40, 24)
    [found] = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, trained(x).numpy(), rtol=1e-4, atol=1e-5)


def test_a_zoo_module_keeps_the_weights_of_its_checkpoint(tmp_path):
    from attn_deploy.exporters.prepare import prepare
    from attn_deploy.resolve.resolve import create

    state = {k: torch.full_like(v, 0.25) for k, v in create("eca").state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    prepared = prepare("eca", weights=tmp_path / "w.safetensors")
    assert all(torch.equal(v, state[k]) for k, v in prepared.original.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*quantized tensor:UserWarning")
@pytest.mark.parametrize("kind", ["complex", "bool", "integer", "quantized", "sparse"])
def test_weights_of_another_kind_are_refused_and_not_converted(kind, tmp_path):
    module = create("se")
    state = module.state_dict()
    name = next(k for k, v in state.items() if v.is_floating_point())
    value = state[name]
    others = {
        "complex": lambda: value.to(torch.complex64),
        "bool": lambda: value > 0,
        "integer": lambda: value.to(torch.int64),
        "quantized": lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        "sparse": lambda: value.to_sparse(),
    }
    path = tmp_path / "weights.pt"
    torch.save({**state, name: others[kind]()}, path)
    with pytest.raises(InvalidRequestError, match=r"does not fit|cannot be read as weights"):
        load_weights(module, path, "se")
    assert torch.equal(module.state_dict()[name], value)


def averaged(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v * 2 if v.is_floating_point() else v for k, v in state.items()}


CHOICES = {
    "params_ema": lambda s: {"params": s, "params_ema": averaged(s)},
    "state_dict_ema": lambda s: {"state_dict_ema": averaged(s), "state_dict": s, "optimizer": {"lr": 0.1}},
    "model_ema": lambda s: {"model": s, "model_ema": averaged(s)},
    "ema.module": lambda s: {"model": s, "ema": {"module": averaged(s), "updates": 7}},
}


@pytest.mark.parametrize("form", CHOICES)
def test_averaged_weights_are_preferred_and_the_choice_is_recorded(form, trained, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(CHOICES[form](trained), path)
    model = network()
    note = load_weights(model, path, "m")[2]
    assert torch.equal(model[0].weight, 2 * trained["0.weight"])
    assert f"{form!r} (averaged weights; also there: " in note
    raw = next(k for k in CHOICES[form](trained) if "ema" not in k and k != "optimizer")
    assert raw in load_weights(model, path, "m", key=raw)[2]
    assert torch.equal(model[0].weight, trained["0.weight"])
    with pytest.raises(InvalidRequestError, match=f"--weights-key can be .*{raw}"):
        load_weights(model, path, "m", key="teacher")


def test_other_tensors_around_the_model(trained, tmp_path):
    lightning = {f"model.{k}": v for k, v in trained.items()} | {"criterion.weight": torch.ones(3)}
    torch.save({"state_dict": lightning, "epoch": 3}, tmp_path / "lightning.ckpt")
    swa = {f"module.{k}": v for k, v in trained.items()} | {"n_averaged": torch.tensor(4)}
    torch.save(swa, tmp_path / "swa.pth")
    counted = trained | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)}
    torch.save(counted, tmp_path / "thop.pth")
    both = {f"model.{k}": v for k, v in trained.items()} | {f"model_ema.{k}": v for k, v in averaged(trained).items()}
    torch.save(both, tmp_path / "both.pth")
    factors = {"lightning.ckpt": 1, "swa.pth": 1, "thop.pth": 1, "both.pth": 2}
    for name, factor in factors.items():
        model = network()
        loaded = load_weights(model, tmp_path / name, "m")
        assert torch.equal(model[0].weight, factor * trained["0.weight"]), name
        assert ("criterion.weight" in str(loaded)) == (name == "lightning.ckpt")


def test_names_that_wrappers_of_parts_leave(trained, tmp_path):
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Sequential(nn.BatchNorm2d(4)))
    right = {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    wrapped = {f"model._orig_mod.module.{k}": v for k, v in right.items()}
    inside = {k.replace("0.0.", "0._orig_mod.0.").replace("1.0.", "1.module.0."): v for k, v in right.items()}
    for state in ({"state_dict": wrapped}, inside, {"epoch": 3, "best": 0.5, **right}):
        torch.save(state, tmp_path / "w.pt")
        load_weights(model, tmp_path / "w.pt", "m")
        assert all(torch.equal(v, right[k]) for k, v in model.state_dict().items())


def test_what_stands_beside_averaged_weights_may_be_chosen(trained, tmp_path):
    raw = {k: v + 1 for k, v in trained.items()}
    flat = {**{f"model.{k}": v for k, v in raw.items()}, **{f"model_ema.{k}": v for k, v in trained.items()}}
    bare = {**raw, **{f"ema.{k}": v for k, v in trained.items()}}
    counted = {"state_dict": raw, "ema": {"num_updates": torch.tensor(3), "shadow": trained}}
    for state in ({"state_dict": flat}, bare, counted, {"student": raw, "teacher": trained}):
        torch.save(state, tmp_path / "w.pt")
        model = network()
        load_weights(model, tmp_path / "w.pt", "m")
        assert torch.equal(model[0].weight, trained["0.weight"])
    torch.save({"state_dict": flat}, tmp_path / "w.pt")
    model = network()
    notes = load_weights(model, tmp_path / "w.pt", "m", key="model")[2]
    assert torch.equal(model[0].weight, raw["0.weight"])
    assert "'model.'" in notes


def test_averaged_parameters_without_statistics_are_refused_and_the_remedy_works(trained, tmp_path):
    averaged = {k: v for k, v in trained.items() if "running" not in k and "num_batches" not in k}
    torch.save({"model": trained, "ema": averaged}, tmp_path / "w.pt")
    with pytest.raises(
        InvalidRequestError, match=r"2 tensors are missing \(1.running_mean.*--weights-key can also be 'model'"
    ):
        load_weights(network(), tmp_path / "w.pt", "m")
    model = network()
    load_weights(model, tmp_path / "w.pt", "m", key="model")
    assert torch.equal(model[1].running_mean, trained["1.running_mean"])


class Tabled(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)
        self.register_buffer("relative_position_index", torch.arange(9).reshape(3, 3))
        self.register_buffer("scale", torch.tensor([2.0]))


def test_tables_of_the_constructor_may_be_missing_and_others_may_not(tmp_path):
    model = Tabled()
    state = model.state_dict()
    part = {k: v for k, v in state.items() if k != "relative_position_index"}
    torch.save({**part, "attn_mask": torch.zeros(2, 2)}, tmp_path / "w.pt")
    notes = load_weights(model, tmp_path / "w.pt", "m")[2]
    assert "1 tables as the constructor makes them (relative_position_index)" in notes
    assert "1 tables of the file left out (attn_mask)" in notes
    torch.save({k: v for k, v in state.items() if k != "scale"}, tmp_path / "w.pt")
    with pytest.raises(InvalidRequestError, match=r"1 tensors are missing \(scale\)"):
        load_weights(model, tmp_path / "w.pt", "m")


def test_every_shape_that_differs_is_counted_and_the_first_are_listed(tmp_path):
    wide = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    torch.save(wide.state_dict(), tmp_path / "w.pt")
    with pytest.raises(
        InvalidRequestError, match=r"'0.weight' has the shape \(8, 3, 1, 1\).*also 0.bias \(8,\) for \(4,\).*6 of 7"
    ):
        load_weights(network(), tmp_path / "w.pt", "m")


def test_half_weights_are_widened_and_that_is_noted(trained, tmp_path):
    save_file({k: v.half() if v.is_floating_point() else v for k, v in trained.items()}, tmp_path / "w.safetensors")
    model = network()
    assert load_weights(model, tmp_path / "w.safetensors", "m")[2] == "stored as float16"
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, trained["0.weight"].half().float())


def test_numbers_of_numpy_options_and_paths_beside_weights_are_no_code(trained, tmp_path):
    extra = {"best": np.float64(0.9), "loss": np.arange(3.0), "args": argparse.Namespace(lr=1), "root": tmp_path}
    torch.save({"state_dict": trained, **extra}, tmp_path / "w.pt")
    model = network()
    load_weights(model, tmp_path / "w.pt", "m")
    assert torch.equal(model[0].weight, trained["0.weight"])


def test_weights_in_several_files(trained, tmp_path):
    names = list(trained)
    parts = {"model-1.safetensors": names[:3], "model-2.safetensors": names[3:]}
    for file, keys in parts.items():
        save_file({k: trained[k] for k in keys}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {k: f for f, keys in parts.items() for k in keys}}))
    for path in (index, tmp_path):
        model = network()
        assert load_weights(model, path, "m")[0] == path.name
        assert torch.equal(model[1].running_var, trained["1.running_var"])
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(InvalidRequestError, match=r"names 2 files and 1 of them are missing \(model-2.safetensors\)"):
        load_weights(network(), tmp_path, "m")
    index.write_text(json.dumps({"weight_map": {"0.weight": "../other.safetensors"}}))
    with pytest.raises(InvalidRequestError, match="no file of tensors beside it"):
        load_weights(network(), index, "m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRequestError, match=r"holds none of model\.safetensors"):
        load_weights(network(), tmp_path / "empty", "m")
