"""Names of models in installed packages."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys

import onnxruntime
import pytest
import torch
from torch import nn

import attn_deploy
from attn_deploy.errors import InvalidRequestError, MissingDependencyError, UnknownModelError
from attn_deploy.exporters.pixels import parse_preprocess
from attn_deploy.resolve.names import parse_name
from attn_deploy.resolve.package_names import MODULES
from attn_deploy.resolve.resolve import resolve, resolve_seeded
from attn_deploy.resolve.seeding import enliven
from attn_deploy.runtimes.eager import flatten_outputs


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


FAKES = {
    "timm": """
from torch import nn
__version__ = "9"
def list_models():
    return ["tiny"]
class Tiny(nn.Module):
    pretrained_cfg = {"input_size": (3, 24, 24), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    def __init__(self, img_size=24, in_chans=3):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, 4, 1)
def create_model(name, **settings):
    return Tiny(**settings)
""",
    "transformers": """
from torch import nn
__version__ = "9"
class TinyConfig:
    def __init__(self, width=4, image_size=24):
        self.width, self.image_size, self.num_channels = width, image_size, 3
    @classmethod
    def from_pretrained(cls, folder, local_files_only, **settings):
        assert local_files_only
        return cls(width=6, **settings)
class TinyModel(nn.Module):
    config_class = TinyConfig
    main_input_name = "pixel_values"
    def __init__(self, config):
        super().__init__()
        self.config, self.conv = config, nn.Conv2d(3, config.width, 1)
    def forward(self, pixel_values):
        return {"last_hidden_state": self.conv(pixel_values)}
""",
    "segmentation_models_pytorch": """
from torch import nn
__version__ = "9"
class Unet(nn.Module):
    def __init__(self, encoder_name="resnet34", encoder_weights="imagenet", classes=1):
        super().__init__()
        assert encoder_weights is None, "nothing is downloaded"
        self.conv = nn.Conv2d(3, classes, 1)
    def forward(self, x):
        return self.conv(x)
""",
    "ultralytics": """
from torch import nn
class YOLO:
    def __init__(self, file):
        assert file == "yolo11n.yaml"
        self.model = nn.Conv2d(3, 4, 1)
""",
}


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    for package, text in FAKES.items():
        (tmp_path / f"{package}.py").write_text(text)
        monkeypatch.setitem(sys.modules, package, None)  # so that the fake is forgotten afterwards
        del sys.modules[package]
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "shape", "channels"),
    [
        ("transformers:TinyModel", (1, 3, 24, 24), 4),
        ("transformers:TinyModel:width=5,image_size=16", (1, 3, 16, 16), 5),
        ("smp:Unet:classes=7", (1, 3, 256, 256), 7),
        ("ultralytics:yolo11n", (1, 3, 640, 640), 4),
    ],
)
def test_names_of_other_packages(text, shape, channels, fakes):
    model = resolve(text)
    assert [i.shape() for i in model.inputs] == [shape]
    assert next(model.module.parameters()).shape[0] == channels


def test_small_initial_values_do_not_hide_the_image():
    """Some packages draw gammas with a deviation of 0.02; eight such layers answer every image alike."""
    torch.manual_seed(0)
    layers = [m for _ in range(8) for m in (nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.SiLU())]
    network = nn.Sequential(nn.Conv2d(3, 8, 1), *layers)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    images = torch.randn(2, 3, 4, 4)
    before = copy.deepcopy(network).eval()(images)
    after = enliven(network, deep=True).eval()(images)
    assert torch.equal(*before)
    assert (after[0] - after[1]).std() > 1e-3 * after.std()
    kept = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    weight = kept[0].weight.detach().clone()
    assert torch.equal(enliven(kept, deep=True)[0].weight, weight)


def test_a_module_of_the_zoo_in_a_packages_network(fakes):
    model = resolve("transformers:TinyModel:width=8+se:reduction=2@conv")
    assert type(model.module.conv.inserted).__name__ == "SqueezeExcitation"
    assert [i.shape() for i in model.inputs] == [(1, 3, 24, 24)]
    with pytest.raises(InvalidRequestError, match="TinyModel has no module 'convs'; it has conv"):
        resolve("transformers:TinyModel+se@convs")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "ultralytics:yolo11n+eca@model.4",
        "transformers:MobileViTModel+cbam:reduction=4@encoder.layer.2",
        "smp:FPN+se@encoder.layer3",
        "timm:resnet18+coord_attention@layer3.*",
    ],
)
def test_a_module_of_the_zoo_in_a_real_network(name, tmp_path):
    """The file against a fresh model, at sizes that nobody traced."""
    reason = usable(MODULES[name.partition(":")[0]])
    if reason:
        pytest.skip(reason)
    artifact = attn_deploy.export(name, tmp_path / "net.onnx")
    assert set(artifact.dynamic_axes) == {"N", "H", "W"}
    model = resolve_seeded(name)
    session = onnxruntime.InferenceSession(artifact.path)
    for shape in ((3, 3, 128, 192), (1, 3, 320, 128)):  # multiples of 64, which MobileViT wants
        image = torch.randn(shape)
        with torch.no_grad():
            expected = flatten_outputs(model.module(image))
        outputs = session.run(None, {model.inputs[0].name: image.numpy()})
        for right, output in zip(expected, outputs, strict=True):
            torch.testing.assert_close(torch.from_numpy(output), right, rtol=1e-3, atol=1e-4 * float(right.abs().max()))


@pytest.mark.slow
def test_a_checkpoint_that_ultralytics_itself_has_written(tmp_path):
    reason = usable("ultralytics")
    if reason:
        pytest.skip(reason)
    from ultralytics import YOLO

    torch.manual_seed(3)
    network = YOLO("yolo11n.yaml")
    network.save(tmp_path / "best.pt")
    name = f"{tmp_path / 'best.pt'}+eca@model.4"
    with pytest.raises(InvalidRequestError, match=r"ultralytics\.nn\.tasks\.DetectionModel.*--trust"):
        attn_deploy.export(name, tmp_path / "net.onnx")
    with attn_deploy.trusting():
        artifact = attn_deploy.export(name, tmp_path / "net.onnx")
        model = resolve_seeded(name).module
    assert artifact.record["weights"][0] == "best.pt"
    assert set(artifact.dynamic_axes) == {"N", "H", "W"}
    assert torch.equal(model.model[0].conv.weight, network.model.model[0].conv.weight.half().float())
    image = torch.rand(3, 3, 96, 160)
    with torch.no_grad():
        right = flatten_outputs(model(image))[0]
    output = onnxruntime.InferenceSession(artifact.path).run(None, {"images": image.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(output), right, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ("img_size=16", (1, 3, 16, 16)),
        ("img_size=(16,32)", (1, 3, 16, 32)),
        ("img_size=(1,16,32),in_chans=1", (1, 1, 16, 32)),
        ("in_chans=1", (1, 1, 24, 24)),
        ("img_size=None", (1, 3, 24, 24)),
    ],
)
def test_the_arguments_decide_over_the_size_of_the_published_weights(arguments, shape, fakes):
    model = resolve(f"timm:tiny:{arguments}")
    assert [i.shape() for i in model.inputs] == [shape]
    assert model.images.size == shape[2:]


def test_what_a_package_says_of_its_images(fakes):
    (fakes / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "size": {"height": 24, "width": 32}}'
    )
    images = resolve(f"transformers:TinyModel:config={fakes}").images
    assert (images.mean, images.std, images.size) == ((0.5,) * 3, (0.25,) * 3, (24, 32))
    assert "preprocessor_config.json" in images.source
    pixels = parse_preprocess(images.option)
    assert (pixels.mean, pixels.std, pixels.dtype, pixels.color) == ((0.5,) * 3, (0.25,) * 3, "uint8", "rgb")
    assert abs(pixels.scale - 1 / 255) < 1e-9
    assert resolve("transformers:TinyModel").images is None
    assert resolve("ultralytics:yolo11n").images.size == (640, 640)


def test_a_snapshot_gives_the_configuration(fakes):
    (fakes / "config.json").write_text("{}")
    model = resolve_seeded("transformers:TinyModel", weights=fakes)
    assert model.module.config.width == 6
    assert resolve_seeded("transformers:TinyModel", weights=fakes / "w.pt").module.config.width == 4


def test_a_configuration_of_a_folder(fakes):
    assert resolve(f"transformers:TinyModel:config={fakes}").module.config.width == 6
    with pytest.raises(InvalidRequestError, match=r"no folder 'gone' with a config\.json"):
        resolve("transformers:TinyModel:config=gone")
    with pytest.raises(UnknownModelError, match="did you mean 'TinyModel'"):
        resolve("transformers:TinyModels")
