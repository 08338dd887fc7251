"""What is done to images before a graph sees them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image

from attn_deploy import quantize
from attn_deploy.conversion.preprocess import PRESETS, Preprocess, PreprocessOptions, published, range_warning
from attn_deploy.deploy.run import run_file
from attn_deploy.errors import FileWarning, InvalidRequestError
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.evidence import Evidence, write_evidence
from export_tests.conversion import graphs_from_elsewhere as elsewhere

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5)).astype(np.uint8)


def test_presets_are_what_they_say():
    ends = {name: preset.ends() for name, preset in PRESETS.items()}
    assert ends["0..1"] == (0, 1)
    assert ends["-1..1"] == (-1, 1)
    assert ends["0..255"] == (0, 255)
    torch_like = (PIXELS / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape(
        [0.229, 0.224, 0.225], (3, 1, 1)
    )
    got = PRESETS["imagenet"].apply(PIXELS, nhwc=False, dtype="float32")
    np.testing.assert_allclose(got, torch_like, rtol=1e-5, atol=1e-6)


def test_options_stand_over_the_preset():
    options = PreprocessOptions(preset="imagenet", mean=[0.5], scale=1.0, color="bgr", resize="letterbox")
    chosen = options.over(PRESETS["0..1"])
    assert chosen.mean == (0.5, 0.5, 0.5)
    assert chosen.std == PRESETS["imagenet"].std
    assert "--preset imagenet and --mean and --scale" in str(chosen)
    values = PreprocessOptions(mean=[127.0], std=[64.0], scale=1.0)  # all of them: nothing is assumed of another
    assert str(values.over(replace(PRESETS["0..1"], source="assumed"))).endswith("(--mean and --std and --scale)")
    half = PreprocessOptions(mean=[127.0]).over(replace(PRESETS["0..1"], source="assumed"))
    assert str(half).endswith("(assumed and --mean)")
    bgr = Preprocess((0, 0, 0), (1, 1, 1), scale=1.0, color="bgr").apply(PIXELS, nhwc=True, dtype="float32")
    np.testing.assert_array_equal(bgr, PIXELS[:, ::-1].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(
        PRESETS["imagenet"].apply(PIXELS, nhwc=True, dtype="uint8"), PIXELS.transpose(0, 2, 3, 1)
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PreprocessOptions(preset="image-net"), "--preset 'image-net' is unknown; choose imagenet, 0..1"),
        (PreprocessOptions(mean=[1, 2]), "--mean takes one number or three"),
        (PreprocessOptions(std=[0.0]), "must be above 0"),
        (PreprocessOptions(color="grb"), "--color 'grb' is unknown; choose rgb, bgr"),
        (PreprocessOptions(resize="cut"), "choose crop, letterbox, stretch"),
        (PreprocessOptions(layout="chw"), "choose nchw, nhwc"),
    ],
)
def test_options_that_cannot_be_used(options, words):
    with pytest.raises(InvalidRequestError, match=words):
        options.over(PRESETS["0..1"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for k in range(12):
        Image.fromarray(rng.integers(0, 256, (20 + k, 40, 3)).astype(np.uint8)).save(path / f"{k:02}.png")
    return path


def test_the_record_says_what_was_done(tmp_path, folder):
    source = elsewhere.detector(tmp_path / "d.onnx")
    prepared = {}
    for name, options in {
        "assumed": PreprocessOptions(),
        "0..1": PreprocessOptions(preset="0..1", resize="letterbox", color="bgr"),
    }.items():
        artifact = quantize(source, tmp_path / "q.onnx", calibration=folder, method="minmax", preprocess=options)
        prepared[name] = artifact.evidence.quantization["calibration"]["prepared"]
    assert prepared["assumed"].startswith(
        "(pixels / 255 - 0.485/0.456/0.406) / 0.229/0.224/0.225, rgb, crop: -2.12 to 2.64"
    )
    assert "assumed" in prepared["assumed"]
    assert prepared["0..1"] == "pixels / 255, bgr, letterbox: 0 to 1 (--preset 0..1)"


def test_channels_last_and_bytes_are_seen_in_the_graph(tmp_path, folder):
    source = elsewhere.camera(tmp_path / "c.onnx", transpose_first=True)
    artifact = quantize(source, tmp_path / "q.onnx", calibration=folder, method="minmax")
    assert artifact.evidence.quantization["calibration"]["prepared"] == "bytes of 0 to 255"


@pytest.mark.parametrize("size", [None, 32])
def test_a_layout_that_the_graph_has_not_is_refused(tmp_path, folder, size):
    source = elsewhere.detector(tmp_path / "d.onnx")
    options = PreprocessOptions(layout="nhwc")
    with pytest.raises(
        InvalidRequestError, match=r"--layout is nhwc, and the graph's input 'x' takes \w+ x 3 x .*Leave"
    ):
        quantize(source, tmp_path / "q.onnx", calibration=folder, size=size, method="minmax", preprocess=options)
    assert [p.name for p in tmp_path.iterdir()] == ["d.onnx"]


@pytest.mark.parametrize("data", ["arrays", "noise", "samples"])
def test_options_for_images_are_refused_where_there_are_none(tmp_path, data):
    source = elsewhere.detector(tmp_path / "d.onnx")
    arrays = tmp_path / "x.npz"
    np.savez(arrays, x=np.zeros((4, 3, 32, 32), np.float32))
    given = {"arrays": {"calibration": arrays}, "noise": {}, "samples": {"samples": [arrays]}}[data]
    options = PreprocessOptions(preset="imagenet", scale=1.0)
    with pytest.raises(
        InvalidRequestError, match=r"--preset and --scale say how images are prepared, and .*give images"
    ):
        quantize(source, tmp_path / "q.onnx", method="minmax", preprocess=options, **given)
    assert quantize(source, tmp_path / "q.onnx", method="minmax", **given).path.exists()


def test_run_refuses_them_for_arrays(tmp_path):
    source = elsewhere.detector(tmp_path / "d.onnx")
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 3, 32, 32), np.float32))
    with pytest.raises(InvalidRequestError, match=r"--resize says how images are prepared, and .*x\.npz holds arrays"):
        run_file(source, tmp_path / "x.npz", preprocess=PreprocessOptions(resize="crop"))
    assert run_file(source, tmp_path / "x.npz").runs == 1


PUBLISHED = {
    "source": "a package, its configuration",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.5, 0.5],
    "scale": 1.0,
    "color": "bgr",
    "size": [8, 8],
}


def test_what_a_package_says_of_its_images_is_used(tmp_path, folder):
    """An export by a package's name keeps it in the record, whatever the options of the name were."""
    source = elsewhere.detector(tmp_path / "d.onnx")
    model = onnx.load(source)
    evidence = Evidence(model="timm:net:img_size=8", exporter="dynamo", opset=17, record={"images": PUBLISHED})
    write_evidence(model, evidence)
    onnx.save(model, source)
    artifact = quantize(source, tmp_path / "q.onnx", calibration=folder, method="minmax")
    prepared = artifact.evidence.quantization["calibration"]["prepared"]
    assert prepared.startswith("(pixels * 1 - 0.5) / 0.25/0.5/0.5, bgr, crop: ")
    assert prepared.endswith("(as in a package, its configuration)")
    assert run_file(source, folder).prepared == prepared  # the same images, the same way


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mean", [0.5, 0.5]),
        ("mean", None),
        ("mean", [0.5, float("nan"), 0.5]),
        ("mean", "abc"),
        ("std", [0.5, 0.0, 0.5]),
        ("std", {}),
        ("scale", -1.0),
        ("scale", "large"),
        ("color", "cmyk"),
    ],
)
def test_what_cannot_be_used_of_it_is_not(field, value):
    assert published({"images": PUBLISHED}) is not None
    assert published({"images": {**PUBLISHED, field: value}}) is None
    assert published({"images": {k: v for k, v in PUBLISHED.items() if k != field}}) is None
    assert published({"images": [1]}) is None
    assert published({}) is None


def test_a_graph_that_scales_by_itself_is_not_given_scaled_images(tmp_path, folder):
    nodes, constants = elsewhere.trunk("scaled", "y")
    constants.append(elsewhere.constant("byte", 255.0))
    nodes = [elsewhere.node("Div", ["x", "byte"], ["scaled"]), *nodes]
    outputs = [elsewhere.value("y", 1, ["N", 16, 8, 8])]
    path = elsewhere.save(tmp_path / "s.onnx", nodes, [elsewhere.IMAGE], outputs, constants)
    with pytest.warns(FileWarning, match=r"scales its input 'x' itself.*Use --preset 0\.\.255"):
        quantize(path, tmp_path / "q.onnx", calibration=folder, method="minmax")
    model = load_model(path)
    assert range_warning(model, PRESETS["0..255"], "x") == ""
    assert range_warning(load_model(elsewhere.detector(tmp_path / "d.onnx")), PRESETS["imagenet"], "x") == ""


def test_a_letterbox_shows_the_whole_image(tmp_path):
    from attn_deploy.data.folder import images_of

    image = np.zeros((10, 40, 3), np.uint8)
    image[:, :20] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    boxed = images_of(tmp_path / "a.png", 20, 20, resize="letterbox")[0]
    assert (boxed[:, 0] == 114).all()
    assert (boxed[:, 10, :8] > 200).all()
    assert (boxed[:, 10, 12:] < 50).all()
    cut = images_of(tmp_path / "a.png", 20, 20)[0]
    assert (cut[:, 0, 0] == 255).all(), "the middle of the image is cut out"
    assert images_of(tmp_path / "a.png", 6, 9, resize="stretch").shape == (1, 3, 6, 9)
