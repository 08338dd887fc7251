"""The words of refusals: the true cause, its line, no internal names, and a remedy that works when it is tried."""

from __future__ import annotations

import re
import sys
import types

import pytest
import torch
from torch import nn

from attn_deploy.diagnosis.lint import lint
from attn_deploy.errors import AttnDeployError, ExportError, InvalidRequestError
from attn_deploy.exporters.pipeline import export
from attn_deploy.exporters.program import plain_constraint
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.resolve.adapters import ADAPTERS
from attn_deploy.resolve.detectors import network_of, part_input, parts_of
from export_tests.exporters.proven_exports import assert_right, copies, images
from export_tests.exporters.user_models import words

INPUTS = parse_inputs(["1x3x16x12"])
ALL = ("N", "H", "W")
# What fails, the rule, the line that the message shows, and the same with the remedy.
PAIRS = [
    (words.ComputesWindow, "pool-window-from-shape", "F.avg_pool2d", words.PoolsToBins),
    (words.PicksByNumber, "number-from-tensor", "argmax", words.PicksByTensor),
    (words.HalvesByInt, "number-from-shape", "int(x.shape[2] * 0.5)", words.HalvesBySize),
    (words.CallsForeign, "unsupported-operator", "attn_deploy_tests.swirl", words.CallsPlain),
]
INTERNAL = re.compile(r"L\['|sym_float|GuardOn|OpOverload|aten::|torch/_|_orig_mod|user_models\.")


@pytest.mark.parametrize(
    ("model", "identifier", "line", "mended"),
    [pytest.param(*p, id=p[0].__name__, marks=pytest.mark.slow if p[0] is words.HalvesByInt else ()) for p in PAIRS],
)
def test_a_refusal_and_its_remedy(model, identifier, line, mended, tmp_path):
    with pytest.raises(AttnDeployError) as caught:
        export(model(), tmp_path / "m.onnx", inputs=INPUTS, dynamic=ALL, simplify=False)
    text = str(caught.value)
    assert caught.value.rule == identifier, text
    assert "words.py, line" in text
    assert line in text
    assert not INTERNAL.search(text), text
    assert "Try the other" not in text, "both exporters were tried"
    report = lint(model(), inputs=INPUTS, dynamic=ALL)
    assert not report.passed
    assert identifier in {f.rule for f in report.findings if f.severity == "error"}
    twin = mended().eval()
    artifact = export(twin, tmp_path / "m.onnx", inputs=INPUTS, dynamic=ALL, simplify=False)
    assert_right(artifact.path, copies(twin), *images((1, 3, 24, 20), (3, 3, 8, 28)))
    assert lint(twin, inputs=INPUTS, dynamic=ALL).passed


def test_what_stays_says_why_in_the_words_of_the_request(tmp_path):
    artifact = export(words.HalvesByInt().eval(), tmp_path / "m.onnx", inputs=INPUTS, simplify=False)
    assert artifact.dynamic_axes == ("N", "W")
    assert "int(0.5*float(H)) == 8" in artifact.record["fixed"]["H"]
    assert "words.py, line" in artifact.record["fixed"]["H"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (
            "Constraints violated (H)! For more information - Not all values of H = L['x'].size()[2] in the specified range "
            "H <= 8192 satisfy the generated guard math.trunc(0.5*torch.sym_float(L['x'].size()[2])) == 8. Suggested fixes:",
            "the file would hold for int(0.5*float(H)) == 8 only",
        ),
        ("a. - N was inferred to be a constant (2). Suggested fixes: N = 2", "N is the number 2 in the trace"),
    ],
)
def test_constraints_in_plain_words(text, plain):
    assert plain_constraint(text, INPUTS) == plain


def test_order_statistics_by_sorting(tmp_path):
    model = words.Medians().eval()
    artifact = export(model, tmp_path / "m.onnx", inputs=INPUTS, dynamic=ALL, simplify=False)
    assert_right(artifact.path, copies(model), *images((1, 3, 9, 20), (3, 3, 8, 7)))
    assert {"median by sorting", "the k-th value by sorting"} <= {w for _, w in artifact.record["rewritten"]}


def detector(whole: str, second: bool) -> nn.Module:
    """A stand-in for a detector of torchvision, of a class of that name and place."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.scores, self.deltas = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 12, 1)

        def forward(self, maps):
            if second:
                return [self.scores(m) for m in maps], [self.deltas(m) for m in maps]
            return {"cls_logits": self.scores(maps[0]), "bbox_regression": self.deltas(maps[0])}

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Conv2d(3, 4, 3, padding=1)
            self.backbone.out_channels = 4
            if second:
                self.rpn = nn.Module()
                self.rpn.head = Head()
                self.roi_heads = nn.Module()
                self.roi_heads.box_head = nn.Flatten()
                self.roi_heads.box_predictor = nn.Linear(4 * 49, 5)
            else:
                self.head = Head()

        def forward(self, images, targets=None):
            raise AssertionError("the whole detector must not be run")

    Detector.__module__, Detector.__name__ = "torchvision.models.detection.stand_in", whole
    return Detector().eval()


@pytest.mark.parametrize(
    ("whole", "second"), [pytest.param("RetinaNet", False, marks=pytest.mark.slow), ("GeneralizedRCNN", True)]
)
def test_a_detector_is_refused_and_its_networks_export(whole, second, tmp_path):
    model = detector(whole, second)
    with pytest.raises(ExportError, match=r"chooses boxes by their values.*network_of\(model\)") as caught:
        export(model, tmp_path / "m.onnx", inputs=parse_inputs(["images.0:3x32x32"]))
    assert caught.value.rule == "detector"
    assert not lint(model, inputs=parse_inputs(["images.0:3x32x32"])).passed
    assert parts_of(model) == (("network", "box") if second else ("network",))
    for part in parts_of(model):
        twin = network_of(model, part)
        assert set(twin.state_dict()) == set(model.state_dict())
        made = export(twin, tmp_path / f"{part}.onnx", inputs=parse_inputs([part_input(model, part)]), simplify=False)
        assert "N" in made.dynamic_axes
        assert part != "network" or {"H", "W"} <= set(made.dynamic_axes)
    with pytest.raises(InvalidRequestError, match="no part 'mask'; its parts are network"):
        network_of(model, "mask")


def test_names_of_detectors_clips_and_segmenters(monkeypatch):
    presets = {"crop_size": [112, 112], "resize_size": [128, 171]}, {"resize_size": [520]}
    kinds = [type(n, (), p) for n, p in zip(("VideoClassification", "SemanticSegmentation"), presets, strict=True)]
    library = types.ModuleType("torchvision.models")
    models = {"clip": kinds[0], "map": kinds[1]}
    weights = {n: types.SimpleNamespace(DEFAULT=types.SimpleNamespace(transforms=k)) for n, k in models.items()}
    library.get_model_weights = weights.__getitem__
    library.get_model_builder = lambda name: lambda: None
    library.get_model = lambda name: detector("SSD", False) if name == "det" else nn.Identity()
    monkeypatch.setitem(sys.modules, "torchvision.models", library)
    adapter = ADAPTERS["torchvision"]
    assert adapter.input(None, "clip", nn.Identity()) == ["clips:1x3xT=16xH=112xW=112"]
    assert adapter.input(None, "map", nn.Identity()) == ["1x3x520x520"]
    network = adapter.make(None, "det", {"part": "network"})
    assert adapter.input(None, "det", network) == ["images:1x3x320x320"]
    with torch.no_grad():
        assert set(network(torch.zeros(2, 3, 8, 8))) == {"cls_logits", "bbox_regression"}
    with pytest.raises(InvalidRequestError, match="is no detector"):
        adapter.make(None, "map", {"part": "network"})


class DecidesOnBatch(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] > 2 else x * 3


def test_no_remedy_that_is_in_force_already(tmp_path):
    with pytest.raises(AttnDeployError) as caught:
        export(DecidesOnBatch(), tmp_path / "m.onnx", inputs=INPUTS, dynamic=("N",), simplify=False)
    assert "--dynamic N" not in str(caught.value)
    assert "--dynamic none" in str(caught.value)
    assert export(DecidesOnBatch(), tmp_path / "m.onnx", inputs=INPUTS, dynamic=(), simplify=False).dynamic_axes == ()
