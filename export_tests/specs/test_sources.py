from __future__ import annotations

import importlib.metadata
import sys
import zipfile
from types import SimpleNamespace

import pytest
from torch import nn

import attn_deploy
from attn_deploy import registry
from attn_deploy.specs.sources import catalog, plugins
from attn_deploy.specs.spec import ModelSpec


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A folder on the path that declares models of its own, as `points`; the caches are clean before and after."""

    def install(*points):
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: list(points))
        info = tmp_path / "theirs-1.0.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_text("[attn_deploy.models]\ngood = x:y\n")
        monkeypatch.syspath_prepend(tmp_path)
        plugins.cache_clear()
        registry._index.cache_clear()

    yield install
    monkeypatch.undo()
    plugins.cache_clear()
    registry._index.cache_clear()


def their_block(name: str = "their_block") -> ModelSpec:
    return ModelSpec(
        name=name,
        target="torch.nn:Conv2d",
        family="theirs",
        summary="A convolution.",
        reference={"in_channels": 4, "out_channels": 4, "kernel_size": 1},
        inputs=(registry.Input("x", ("N", "in_channels", "H", "W")),),
    )


def test_third_parties_add_models_through_an_entry_point(installed):
    spec = their_block()
    installed(
        SimpleNamespace(name="good", value="x:y", load=lambda: lambda: [spec]),
        SimpleNamespace(name="bad", value="x:z", load=lambda: 1 / 0),
    )
    with pytest.warns(RuntimeWarning, match="entry point 'bad'"):
        assert registry.get("their-block") == spec
    assert isinstance(attn_deploy.create("their_block"), nn.Conv2d)


def test_a_plug_in_cannot_replace_a_built_in_model(installed):
    installed(SimpleNamespace(name="good", value="x:y", load=lambda: lambda: their_block("se")))
    with pytest.warns(RuntimeWarning, match="names 'se', which is built in"):
        assert registry.get("se").target.startswith("attn_deploy.modules.")


def test_a_plug_in_in_a_zip_is_read(installed, monkeypatch, tmp_path):
    archive = tmp_path / "theirs.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("theirs/__init__.py", "")
    installed(SimpleNamespace(name="good", value="x:y", load=lambda: lambda: [their_block()]))
    (tmp_path / "theirs-1.0.dist-info" / "entry_points.txt").unlink()
    monkeypatch.setattr(sys, "path", [str(archive)])
    assert "their_block" in plugins()


def test_specifications_survive_the_catalogue():
    for spec in catalog().values():
        assert ModelSpec.from_dict(spec.to_dict()) == spec
