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


class StepNote(TypedDict, total=False):
    """One entry of the history."""

    step: str
    version: str


class EvidenceNote(TypedDict, total=False):
    """The entries that hold more than text."""

    record: RecordNote
    parity: ParityNote
    history: tuple[StepNote, ...]
