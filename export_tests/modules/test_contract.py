"""What every zoo module must hold in eager mode. Parametrised over the registry: a new module needs no new test."""

from __future__ import annotations

import importlib
import inspect
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from attn_deploy import create, fuse, load_official_state_dict, registry
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.ops import Fusible
from attn_deploy.resolve import catalog
from attn_deploy.resolve.resolve import resolve
from attn_deploy.specs.sources import CATALOG
from export_tests.helpers import (
    as_tuple,
    assert_matches_official,
    assert_same_function,
    randomize,
    read_vectors,
    tiered,
)
from export_tests.modules import vectors
from export_tests.modules.reference_cases import REFERENCE_CASES

SPECS = catalog.import_all()
ZOO = [s for s in SPECS if s.family != "backbone"]
every_model = pytest.mark.parametrize("spec", tiered(SPECS))
every_zoo_module = pytest.mark.parametrize("spec", ZOO, ids=lambda s: s.name)


def tensors(model, sizes=None, seed=0):
    return [torch.from_numpy(a) for a in example_arrays(model.inputs, sizes, seed).values()]


@every_model
def test_parameter_count_is_the_published_one(spec):
    module = create(spec.name)
    assert spec.parameters is not None, "register(..., parameters=...) must state the published count"
    assert sum(p.numel() for p in module.parameters()) == spec.parameters


@every_model
def test_runs_at_other_sizes_and_leaves_its_input_alone(spec):
    model = resolve(spec.name)
    randomize(model.module)
    symbols = [s for s in spec.dynamic if s in model.inputs[0].sizes]
    for sizes in [None, *verification_sizes(model.inputs, symbols)]:
        given = tensors(model, sizes)
        kept = [g.clone() for g in given]
        with torch.no_grad():
            outputs = as_tuple(model.module(*given))
            again = as_tuple(model.module(*given))
        assert len(outputs) == len(spec.outputs)
        for got, second in zip(outputs, again, strict=True):
            assert torch.isfinite(got).all()
            assert torch.equal(got, second), "two runs differ"
        for now, before in zip(given, kept, strict=True):
            assert torch.equal(now, before), "the caller's tensor was changed"


@every_model
def test_a_sample_does_not_depend_on_the_rest_of_the_batch(spec):
    if "N" not in spec.dynamic:
        pytest.skip("the batch axis of this module cannot move")
    model = resolve(spec.name)
    randomize(model.module)
    given = tensors(model, {"N": 3})
    with torch.no_grad():
        whole = as_tuple(model.module(*given))
        alone = as_tuple(model.module(*[g[1:2] if g.shape[0] == 3 else g for g in given]))
    for a, b in zip(whole, alone, strict=True):
        if a.shape[0] == 3:
            torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5 * max(1.0, float(a.abs().max())))


@every_model
def test_gradients_reach_every_parameter(spec):
    model = resolve(spec.name)
    randomize(model.module)
    model.module.train()
    given = [t.requires_grad_() if t.is_floating_point() else t for t in tensors(model)]
    sum(o.square().sum() for o in as_tuple(model.module(*given))).backward()
    without = [n for n, p in model.module.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"no gradient reaches {without}"


@every_model
def test_state_dict_goes_through_safetensors(spec):
    first = resolve(spec.name)
    randomize(first.module, seed=1)
    second = create(spec.name)
    second.load_state_dict(load_safetensors(save_safetensors(first.module.state_dict())))
    given = tensors(first)
    with torch.no_grad():
        for a, b in zip(as_tuple(first.module(*given)), as_tuple(second(*given)), strict=True):
            assert torch.equal(a, b)


@every_model
def test_fusing_keeps_the_numbers_and_the_model(spec):
    model = resolve(spec.name)
    randomize(model.module)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    fused = fuse(model.module)
    symbols = [s for s in spec.dynamic if s in model.inputs[0].sizes]
    for sizes in [None, *verification_sizes(model.inputs, symbols, 2)]:
        assert_same_function(fused, model.module, tensors(model, sizes))
    after = model.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before), "fuse changed the model it was given"


@every_zoo_module
def test_fused_module_can_be_fused_again(spec):
    module = randomize(create(spec.name))
    if not any(isinstance(m, Fusible) for m in module.modules()):
        pytest.skip("nothing in this module declares a deployed form")
    twice = fuse(fuse(module))
    assert_same_function(twice, module, tensors(resolve(spec.name)))


@every_zoo_module
def test_template_of_the_file(spec):
    module_name, class_name = spec.target.split(":")
    module = importlib.import_module(module_name)
    cls = getattr(module, class_name)
    for section in ("paper", "year", "official", "export"):
        assert getattr(spec, section), f"the module docstring must state {section}"
    doc = inspect.getdoc(cls)
    assert doc.splitlines()[0].endswith("."), "the first line of the class docstring is one sentence"
    assert "Shape:" in doc
    documented = set(re.findall(r"^ {4}(\w+): ", doc, re.MULTILINE))
    for argument in inspect.signature(cls).parameters.values():
        assert argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY), "no *args, no **kwargs"
        assert argument.name in documented, f"argument {argument.name} is not documented"


@every_model
def test_no_attribute_hides_a_method_of_nn_module(spec):
    for module in create(spec.name).modules():
        names = {*vars(module), *module._parameters, *module._buffers, *module._modules}
        hidden = [n for n in names if callable(getattr(torch.nn.Module, n, None))]
        assert not hidden, f"{type(module).__name__}.{hidden} makes model.{hidden}() fail"


@every_zoo_module
def test_channels_that_do_not_fit_are_refused(spec):
    model = resolve(spec.name)
    first = model.inputs[0]
    if len(first.dims) != 4 or not isinstance(first.dims[1], int):
        pytest.skip("the first input has no fixed channel axis")
    if "channels" not in model.arguments and "in_channels" not in model.arguments:
        pytest.skip("the module works at any channel count")
    shape = list(first.shape())
    shape[1] += 1
    given = [torch.zeros(shape), *tensors(model)[1:]]
    with pytest.raises((ValueError, RuntimeError)) as caught:
        model.module(*given)
    assert isinstance(caught.value, ValueError), f"a ValueError in the user's words, not {caught.value!r}"
    assert str(shape[1]) in str(caught.value)


def test_names_are_unique_and_every_file_registers():
    words = [word for s in SPECS for word in {registry._key(w) for w in (s.name, *s.aliases)}]
    assert len(words) == len(set(words)), sorted({w for w in words if words.count(w) > 1})
    files = {s.target.split(":")[0] for s in SPECS}
    root = CATALOG.parent / "modules"
    for path in root.glob("*/*.py"):
        if path.name != "__init__.py":
            assert f"attn_deploy.modules.{path.parent.name}.{path.stem}" in files, f"{path} registers nothing"


@every_model
def test_aliases_resolve(spec):
    for word in (spec.name, *spec.aliases):
        assert registry.get(word).name == spec.name
        assert registry.get(word.replace("_", "-").upper()).name == spec.name


def test_the_catalogue_is_up_to_date():
    assert CATALOG.read_text(encoding="utf-8") == catalog.render_catalog(), "run python -m attn_deploy.resolve.catalog"


# The vectors made by the official code: one of each entry in every checkout, all of them where the whole folder is at hand.

# Entries that no official code computes: variants of our own, and what is plain PyTorch.
WITHOUT_VECTOR = {
    "add_coords": "coordinate maps, which coordconv's vectors hold",
    "dca_cbam_first": "dca_cbam without a predecessor",
    "dca_gc_first": "dca_gc without a predecessor",
    "ghost_bottleneck": "two ghostmodules, each with vectors",
    "global_avg_pool": "a mean",
    "space_to_depth": "a rearrangement, which spd_conv's vectors hold",
    "sppf": "spp in its faster form, compared with it",
}


def test_every_entry_has_a_committed_vector():
    zoo = {s.name for s in SPECS if s.family != "backbone"}
    committed = vectors.stems()
    assert not sorted(zoo - committed.keys() - WITHOUT_VECTOR.keys()), "python -m export_tests.modules.vectors FOLDER"
    assert not sorted(committed.keys() & WITHOUT_VECTOR.keys())
    assert sum(p.stat().st_size for p in vectors.FOLDER.iterdir()) <= vectors.BUDGET
    assert {f"{s}.npz" for s in committed.values()} | {vectors.INPUTS, "entries.json"} == {
        p.name for p in vectors.FOLDER.iterdir()
    }


@pytest.mark.parametrize("entry", sorted(vectors.stems()))
def test_committed_vectors_of_the_official_code(entry):
    stem = vectors.stems()[entry]
    name, arguments = REFERENCE_CASES[stem]
    assert registry.get(name).name == entry
    vector = vectors.read_vector(stem)
    module = create(name, **arguments)
    load_official_state_dict(module, vector.state)
    with torch.no_grad():
        outputs = as_tuple(module.eval()(*vector.inputs))
        fused = as_tuple(fuse(module)(*vector.inputs))
    assert [tuple(o.shape) for o in outputs] == vector.shapes
    for index, official in enumerate(vector.values):
        assert_matches_official(vector.picked(outputs)[index], official, f"{stem} output {index}")
        assert_matches_official(vector.picked(fused)[index], official, f"{stem} output {index}, fused")


def test_a_wrong_number_fails_the_committed_vectors():
    vector = vectors.read_vector(vectors.stems()["se"])
    module = create("se", **REFERENCE_CASES[vector.stem][1])
    load_official_state_dict(module, vector.state)
    with torch.no_grad():
        module.reduce.weight *= 1.05
        outputs = as_tuple(module.eval()(*vector.inputs))
    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_matches_official(vector.picked(outputs)[0], vector.values[0], "se")


def test_every_vector_file_has_a_row(reference_folder):
    stems = {p.stem for p in reference_folder.glob("*.npz")}
    assert not sorted(stems - REFERENCE_CASES.keys()), "files without a row in reference_cases.py"
    assert not sorted(REFERENCE_CASES.keys() - stems), "rows without a file"


@pytest.mark.parametrize("stem", REFERENCE_CASES)
def test_official_vectors(stem, reference_folder):
    name, arguments = REFERENCE_CASES[stem]
    official_case = read_vectors(reference_folder / f"{stem}.npz")
    module = create(name, **arguments)
    load_official_state_dict(module, official_case["state"])
    with torch.no_grad():
        outputs = as_tuple(module.eval()(*official_case["inputs"]))
        fused = as_tuple(fuse(module)(*official_case["inputs"]))
    assert len(outputs) == len(official_case["outputs"])
    for index, (got, deployed, official) in enumerate(zip(outputs, fused, official_case["outputs"], strict=True)):
        assert_matches_official(got.numpy(), official, f"{stem} output {index}")
        assert_matches_official(deployed.numpy(), official, f"{stem} output {index}, fused")
    assert np.isfinite(outputs[0].numpy()).all()
