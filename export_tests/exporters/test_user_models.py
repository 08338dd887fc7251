"""Models written as users write them: they export and hold at sizes that were not traced, or say what to change."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from attn_deploy.errors import AttnDeployError
from attn_deploy.exporters.pipeline import export
from attn_deploy.inputs.grammar import parse_inputs

FOLDER = Path(__file__).parent / "user_models"
MAP = ("1x3x24x20",)


class Row(NamedTuple):
    """A model, its inputs, and what comes of it: the axes that move, or the rule of the refusal with its line."""

    model: str
    inputs: tuple[str, ...] = MAP
    dynamic: tuple[str, ...] | None = None
    opset: int = 17
    moves: tuple[str, ...] = ("N", "H", "W")
    outputs: tuple[str, ...] = ("y",)
    rewritten: str = ""
    multiple: int = 0
    fixed: str = ""
    inside: tuple[str, ...] = ("x",)
    rule: str = ""
    line: str = ""


ROWS = {
    "SE-ResNet": Row("se_resnet.py:SEResNet", ("1x3x64x48",)),
    "SE-ResNet by factory": Row("se_resnet.py:se_resnet_tiny:num_classes=3", ("1x3x64x48",)),
    "U-Net with scSE": Row("unet_scse.py:UNet", ("1x3x46x37",)),
    "Swin with padding": Row("swin_window.py:SwinStage", ("1x3x34x46",)),
    "pads if H % p": Row(
        "pad_if_needed.py:PadIfNeeded",
        dynamic=("N", "H", "W"),
        rule="branch-on-shape",
        line="if H % self.p != 0",
        opset=18,
    ),
    "pads if H % p, axes left open": Row("pad_if_needed.py:PadIfNeeded", multiple=4, opset=18),
    "pads if H % p, fixed H and W": Row("pad_if_needed.py:PadIfNeeded", dynamic=("N",), moves=("N",), opset=18),
    "for x in batch": Row(
        "per_sample.py:PerSample", dynamic=("N", "H", "W"), rule="loop-over-batch", line="for x in batch"
    ),
    "for x in batch, axes left open": Row("per_sample.py:PerSample", moves=("H", "W"), fixed="N", inside=("batch",)),
    "for x in batch, fixed batch": Row(
        "per_sample.py:PerSample", ("2x3x16x12",), dynamic=("H", "W"), moves=("H", "W"), inside=("batch",)
    ),
    "FFT": Row("fft_mixer.py:GlobalFilter"),
    "FFT at an older opset": Row("fft_mixer.py:GlobalFilter", opset=13, rule="fft", line="line 18"),
    "F.fold": Row("fold_attention.py:FoldAttention", ("1x3x12x10",), rewritten="fold as a transposed convolution"),
    "MultiheadAttention": Row("mha.py:AttentionNeck", ("1x3x16x12",), rewritten="encoder.self_attn"),
    "ViT": Row("vit.py:ViT", ("1x3x32x32",), dynamic=("N",), moves=("N",)),
    "ViT at other sizes": Row("vit.py:ViT", ("1x3x32x32",), dynamic=("N", "H", "W"), rule="fixed-size", line="line 50"),
    "ViT, axes left open": Row("vit.py:ViT", ("1x3x32x32",), moves=("N",), fixed="HW"),
    "ViT with resized embedding": Row("vit.py:ResizableViT:depth=1", ("1x3x48x32",), opset=18),
    "YOLO neck with SPP": Row("yolo_neck.py:YoloNeck", ("1x3x64x96",), outputs=("y0", "y1"), multiple=8),
    "dict of outputs": Row("dict_output.py:Segmenter", outputs=("out", "aux")),
    "two inputs": Row(
        "two_inputs.py:MaskedPooling",
        ("mask:1x16x12:bool", "image:1x3x16x12"),  # as called, not in the order of the parameters
        inside=("image", "mask"),
    ),
}


def attempt(row: Row, path: Path):
    return export(f"{FOLDER}/{row.model}", path, inputs=parse_inputs(row.inputs), dynamic=row.dynamic, opset=row.opset)


@pytest.mark.parametrize("name", [n for n, r in ROWS.items() if not r.rule])
def test_exports_and_holds_at_other_sizes(name, tmp_path):
    row = ROWS[name]
    made = attempt(row, tmp_path / "model.onnx")
    assert made.opset == row.opset
    assert set(made.dynamic_axes) == set(row.moves)
    assert tuple(o.name for o in made.outputs) == row.outputs
    assert len(made.record["verified_shapes"]) >= 3
    assert tuple(i.name for i in made.inputs) == row.inside
    assert bool(made.record["rewritten"]) == bool(row.rewritten)
    assert row.rewritten in str(made.record["rewritten"])
    assert made.record["multiple"] == (dict.fromkeys("HW", row.multiple) if row.multiple else {})
    assert "Col2Im" not in made.operators
    assert set(made.record["fixed"]) == set(row.fixed)
    assert all(reason.startswith("stays ") for reason in made.record["fixed"].values())


@pytest.mark.parametrize("name", [n for n, r in ROWS.items() if r.rule])
def test_fails_with_the_remedy_and_the_line(name, tmp_path):
    row = ROWS[name]
    path = tmp_path / "model.onnx"
    with pytest.raises(AttnDeployError) as caught:
        attempt(row, path)
    assert caught.value.rule == row.rule
    assert row.line in str(caught.value)
    assert row.model.split(":")[0] in str(caught.value)
    assert not path.exists()
