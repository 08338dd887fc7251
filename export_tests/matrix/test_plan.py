"""Which cells a matrix has, and what the result of each depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import attn_deploy
from attn_deploy import registry
from attn_deploy.errors import InvalidRequestError, MissingDependencyError, UnknownModelError
from attn_deploy.matrix import keys, resolvable
from attn_deploy.matrix.cell import CellId
from attn_deploy.matrix.options import MatrixOptions, parse_models, parse_opsets, parse_shard
from attn_deploy.matrix.plan import expand_models, plan_matrix
from attn_deploy.matrix.resolvable import check_models
from attn_deploy.matrix.run import run_matrix


def options(*models, **settings):
    given = {"opsets": (17,), "exporters": ("torchscript",), "runtimes": ("ort",), **settings}
    return MatrixOptions(models=models, **given)


# What there is to make


def test_the_full_matrix_has_every_registry_entry_and_three_backbones_with_modules():
    plan = plan_matrix(MatrixOptions())
    models = {g[0].model for g in plan.groups}
    assert models >= {s.name for s in attn_deploy.list_models()} | {
        "resnet18+se",
        "resnet18+cbam",
        "resnet18+non_local",
    }
    assert plan.cells == len(models) * 20
    assert len(plan.skipped) / plan.cells < 0.05


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ghostmodule", ["ghostmodule"]),
        ("Ghost-Module,ghostmodule", ["ghostmodule"]),
        ("ghostmodule:ratio=3,kernel_size=1,se", ["ghostmodule:ratio=3,kernel_size=1", "se"]),
        ("psp:bins=(1,2),se", ["psp:bins=(1,2)", "se"]),
        ("iau*", ["iau", "iau3d"]),
        ("resnet18+ge_theta*@layer3", [f"resnet18+ge_theta{e}@layer3" for e in ("", "_minus", "_plus")]),
        ("net.py:MyNet", ["net.py:MyNet"]),
    ],
)
def test_words_that_name_models(words, expected):
    assert expand_models(parse_models(words)) == expected


def test_families_and_slots():
    assert expand_models(("family:fusion",)) == [s.name for s in attn_deploy.list_models("fusion")]
    fitting = expand_models(("resnet18+*",))
    assert "resnet18+cbam" in fitting
    assert "resnet18+sk" in fitting
    assert "resnet18+ocr" not in fitting, "of another family"


@pytest.mark.parametrize("word", ["ghostmodul", "zz*", "resnet18+zz*", "family:nothing", "resnet18+nothing"])
def test_words_that_name_nothing_are_refused(word):
    with pytest.raises((UnknownModelError, InvalidRequestError)):
        expand_models((word,))


def test_shards_are_a_partition():
    whole = {c for g in plan_matrix(MatrixOptions()).groups for c in g}
    parts = [{c for g in plan_matrix(MatrixOptions(), shard=(k, 3)).groups for c in g} for k in (1, 2, 3)]
    assert set.union(*parts) == whole
    assert sum(map(len, parts)) == len(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 20


def test_numbers_and_parts():
    assert parse_opsets("13-15,20") == (13, 14, 15, 20)
    assert parse_shard("2/4") == (2, 4)
    for text in ("15-13", "x", ""):
        with pytest.raises(InvalidRequestError):
            parse_opsets(text)
    for text in ("0/4", "5/4", "4"):
        with pytest.raises(InvalidRequestError):
            parse_shard(text)
    with pytest.raises(InvalidRequestError, match="12 is not among"):
        MatrixOptions(opsets=(12,))
    with pytest.raises(InvalidRequestError, match="leaves out ort"):
        MatrixOptions(runtimes=("tensorrt-rtx",))


def test_half_precision_is_a_cell_and_bf16_needs_its_opset():
    plan = plan_matrix(options("se", opsets=(20, 22), precisions=("fp16", "bf16")))
    cells = [(c.precision, c.opset) for g in plan.groups for c in g]
    assert sorted(set(cells)) == [("bf16", 22), ("fp16", 20), ("fp16", 22)]
    assert {(c.id.precision, c.id.opset) for c in plan.skipped} == {("bf16", 20)}
    assert "from opset 22" in plan.skipped[0].reason


def test_a_batch_that_cannot_move_is_grey(monkeypatch):
    real = registry.get
    monkeypatch.setattr(registry, "get", lambda name: replace(real(name), dynamic=("H", "W"), limits=""))
    (cell,) = plan_matrix(options("se", dynamic=("batch",))).skipped
    assert cell.status == "skipped"
    assert cell.reason == "the batch axis of se cannot move: its size is part of the model."
    monkeypatch.setattr(registry, "get", lambda name: replace(real(name), dynamic=(), limits="Fixed."))
    (cell,) = plan_matrix(options("se", dynamic=("none", "all"))).skipped
    assert (cell.id.dynamic, cell.reason) == ("all", "no axis of se can move: Fixed.")


def test_the_torchscript_exporter_ends_at_22():
    plan = plan_matrix(options("se", opsets=(22, 23), exporters=("dynamo", "torchscript")))
    assert [(c.id.exporter, c.id.opset) for c in plan.skipped] == [("torchscript", 23)]


# What cannot be made, before any cell is


@pytest.fixture
def net(tmp_path):
    file = tmp_path / "net.py"
    file.write_text("try:\n    from parts import Other\nexcept ImportError:\n    Other = None\nclass Net: ...\n")
    return file


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("{net}:Nett", "defines no 'Nett'; its classes are Net. Did you mean 'Net'"),
        ("{net}x.py:Net", "there is no file"),
        ("se:reductoin=4", "'se' has no argument 'reductoin'.*Did you mean 'reduction'"),
        ("resnet18+se:reductoin=4", "'se' has no argument 'reductoin'"),
        ("resnet18:stm=imagenet", "has no argument 'stm'"),
        ("runs/gone/model.safetensors", "no such file"),
    ],
)
def test_a_model_that_cannot_be_there_is_refused(word, message, net, tmp_path):
    given = options(word.format(net=net), inputs=("1x4",))
    with pytest.raises(InvalidRequestError, match=message):
        run_matrix(given, output=tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing is begun"


def test_a_model_that_may_be_there_is_not_refused(net):
    check_models(options(f"{net}:Net", f"{net}:Other", "se:reduction=4", "resnet18+se@layer9", inputs=("1x4",)))
    with pytest.raises(InvalidRequestError, match="--input 1x3x224x224"):
        check_models(options(f"{net}:Net"))
    with pytest.raises(InvalidRequestError, match="1xfour"):
        check_models(options(f"{net}:Net", inputs=("1xfour",)))
    for source in ("from parts import *\n", "globals()['Made'] = type\n"):
        net.write_text(source)
        check_models(options(f"{net}:Made", inputs=("1x4",)))
    net.write_text("class Net(:\n")
    with pytest.raises(InvalidRequestError, match="cannot be read as Python"):
        check_models(options(f"{net}:Net", inputs=("1x4",)))


def test_a_package_that_is_not_installed_is_told_at_once(monkeypatch):
    monkeypatch.setattr(resolvable.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="timm is not installed"):
        check_models(options("timm:resnet18"))


# What a key depends on


def test_a_key_follows_the_source_of_its_own_model(tmp_path):
    (tmp_path / "part.py").write_text("SCALE = 2\n")
    (tmp_path / "net.py").write_text("import part\nclass Net: ...\n")
    (tmp_path / "other.py").write_text("class Net: ...\n")

    def hashes():
        keys.model_hash.cache_clear()
        return [keys.model_hash(f"{tmp_path}/{name}.py:Net") for name in ("net", "other")]

    first = hashes()
    (tmp_path / "part.py").write_text("SCALE = 3\n")
    second = hashes()
    assert first[0] != second[0], "a file that it imports changed"
    assert first[1] == second[1]


def test_a_zoo_module_is_hashed_with_what_it_imports_from_the_zoo():
    def files(name):
        found: set[Path] = set()
        for path in keys._files(keys.parse_name(name)):
            keys._collect(path, found)
        return {p.stem for p in found}

    assert files("danet_head") >= {"danet"}
    assert {"resnet", "cbam"} <= files("resnet18+cbam")
    assert "resnet" not in files("cbam")


def test_a_key_follows_options_and_versions(monkeypatch):
    cell = CellId("se", "dynamo", 20)
    given = options("se", opsets=(20,), runtimes=("ort", "tensorrt-rtx"), engine_opset=20)
    first = keys.cell_key(cell, given)
    assert first == keys.cell_key(cell, given)
    assert first != keys.cell_key(CellId("se", "dynamo", 19), given)
    assert first != keys.cell_key(cell, options("se", opsets=(20,)))
    monkeypatch.setattr(keys, "_versions", lambda engine: {"torch": "0"})
    assert first != keys.cell_key(cell, given)
