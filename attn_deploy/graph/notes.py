"""What the evidence in a file must be of, where a command reads it: anybody can write a file's metadata.

Fields that are missing are fine (older versions wrote fewer), and so are others beside them.
"""

from __future__ import annotations

from typing import Any, TypedDict


class _Pixels(TypedDict):
    dtype: str
    layout: str
    color: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class PixelsNote(_Pixels, total=False):
    """What the graph does to images, see `attn_deploy.exporters.pixels`."""

    preset: str
    resize: str
    size: tuple[int, int] | None


class AnswersNote(TypedDict, total=False):
    """What the graph makes of the model's outputs, see `attn_deploy.exporters.answers`."""

    scaled: str
    choice: str
    k: int
    iou: float
    score: float
    most: int


class ParityNote(TypedDict, total=False):
    """A comparison. That of eight bits has other fields, which are shown and not read."""

    max_abs_error: float
    rtol: float
    atol: float
    cases: int
    candidate: str
    reference: str
    redrawn: int


class RecordNote(TypedDict, total=False):
    """The record of an export, see `attn_deploy.exporters.record`."""

    model: str
    exporter: str
    exporter_reason: str
    opset_requested: int
    opset: int
    opset_written: int
    opset_rules: dict[str, int]
    native_attention: bool
    dynamic: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    multiple: dict[str, int]
    minimum: dict[str, int]
    fixed: dict[str, str]
    gates: tuple[str, ...]
    traced_shapes: dict[str, tuple[int, ...]]
    verified_shapes: tuple[dict[str, tuple[int, ...]], ...]
    parity: ParityNote | None
    fused: tuple[tuple[str, str], ...]
    rewritten: tuple[tuple[str, str], ...]
    weights: tuple[str, ...]
    simplifier: str
    simplifier_reason: str
    nodes_raw: int
    nodes: int
    versions: dict[str, str]
    precision: str
    typing: dict[str, Any] | None
    preprocess: PixelsNote | None
    postprocess: AnswersNote | None
    called: str
    dropped: tuple[str, ...]


# What one conversion of the opset was; "from" is no name of Python's.
ConversionNote = TypedDict(
    "ConversionNote",
    {
        "from": int,
        "rules": dict[str, int],
        "shapes": Any,
        "max_abs_error": float,
        "worst": str | None,
        "rtol": float,
        "atol": float,
    },
    total=False,
)


class PlaceNote(TypedDict, total=False):
    """A node, and what was done with it."""

    operator: str
    module: str
    node: str
    reason: str


class TypingNote(TypedDict, total=False):
    """How half types were chosen."""

    precision: str
    products: dict[str, int]
    kept: dict[str, int]
    kept_by_range: tuple[PlaceNote, ...]
    overflow: PlaceNote | None
    nodes_half: int
    nodes_fp32: int
    casts: int
    calibration: dict[str, Any]
    max_abs_error: float
    compared: str


class StepNote(TypedDict, total=False):
    """One entry of the history."""

    step: str
    version: str


class EvidenceNote(TypedDict, total=False):
    """The entries that hold more than text."""

    record: RecordNote
    parity: ParityNote
    conversion: ConversionNote
    typing: TypingNote
    history: tuple[StepNote, ...]
