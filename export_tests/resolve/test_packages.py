"""Names of models in installed packages."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

import attn_deploy
from attn_deploy.errors import InvalidRequestError, MissingDependencyError, UnknownModelError
from attn_deploy.resolve.names import parse_name
from attn_deploy.resolve.resolve import resolve


@pytest.mark.parametrize(
    ("text", "package", "base", "arguments", "stem"),
    [
        ("timm:resnet50", "timm", "resnet50", {}, "timm-resnet50"),
        ("timm:vit_tiny_patch16_224.augreg_in21k", "timm", "vit_tiny_patch16_224.augreg_in21k", {}, None),
        ("torchvision:resnet18:num_classes=10", "torchvision", "resnet18", {"num_classes": 10}, None),
    ],
)
def test_grammar(text, package, base, arguments, stem):
    name = parse_name(text)
    assert (name.package, name.base, name.arguments, name.file, name.slot) == (package, base, arguments, None, None)
    assert stem is None or name.stem == stem


@pytest.mark.parametrize("text", ["timm:", "timm:a b", "torchvision:resnet18:10"])
def test_what_is_not_of_the_grammar(text):
    with pytest.raises(InvalidRequestError):
        parse_name(text)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_a_package_that_is_not_installed(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what Python does for a module that must not be found
    with pytest.raises(MissingDependencyError, match=rf"pip install .*{package}") as caught:
        resolve(f"{package}:resnet18")
    assert caught.value.exit_code == 3


def test_a_package_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(MissingDependencyError, match=r"is installed and cannot be imported.*made for torch 2"):
        resolve("torchvision:resnet18")


def usable(package: str) -> str:
    """Empty if the package can be imported, otherwise why not."""
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    try:
        importlib.import_module(package)
    except Exception as error:
        return f"{package} cannot be imported: {error}"
    return ""


@pytest.mark.parametrize(("package", "name"), [("timm", "resnet10t"), ("torchvision", "resnet18")])
def test_models_of_packages(package, name):
    reason = usable(package)
    if reason:
        pytest.skip(reason)
    model = resolve(f"{package}:{name}:num_classes=7")
    assert model.inputs is not None
    assert model.inputs[0].dims == ("N", 3, "H", "W")
    assert attn_deploy.create(f"{package}:{name}", num_classes=7).training is False
    with pytest.raises(UnknownModelError, match=f"did you mean .*{name}"):
        resolve(f"{package}:{name}x")
    with pytest.raises(InvalidRequestError, match="refuses"):
        resolve(f"{package}:{name}:no_such_argument=1")
