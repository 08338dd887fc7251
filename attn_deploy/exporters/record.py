"""The evidence that is gathered while a file is made, and written into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """The request, what was done and what was read back.

    Attributes:
        model: the name; ``arguments`` the constructor arguments in force.
        exporter: the one whose graph was kept; ``exporter_reason`` why, with what the other one said if it was tried.
        opset_requested, opset: asked, and read back from the finished file.
        opset_written: what the exporter wrote; ``opset_rules`` what our conversion changed, at how many nodes.
        native_attention: whether the operator Attention was asked for; otherwise products and a softmax are written.
        dynamic: symbols that move; ``inputs`` and ``outputs`` the interface as read back.
        multiple: what the extent of a symbol must be a multiple of; one that is not in it takes any.
        minimum: the least extent of a symbol; one that is not in it takes any.
        fixed: for each axis that does not move although nobody fixed it, the reason.
        gates: constant parameters, which may hide what depends on them; the file was proven with other values in them too.
        traced_shapes: input shapes of the trace; ``verified_shapes`` the other shapes at which the file was compared.
        parity: maximal absolute error and tolerances, or None when verification was switched off.
        fused: what fusing did, as (module path, words).
        rewritten: calls that were replaced because exporters get them wrong, as (module path, words).
        weights: name and sha256 of the checkpoint that was loaded; empty if none was.
        simplifier: tool whose graph was kept, with node counts ``nodes_raw`` and ``nodes``; ``simplifier_reason`` why
            not.
        preprocess: what the graph does to images, see `attn_deploy.exporters.pixels`; None for nothing.
        postprocess: what it makes of the outputs, see `attn_deploy.exporters.answers`; None for nothing.
        called: what of the inputs goes to forward by position although it has a name; empty if nothing does.
        dropped: what among the outputs is no tensor, and not in the file: the types.
        images: how the package that the model is of prepares its images, where it says so; the graph does none of it.
        versions: of the packages that made the file.
        precision: asked for: fp32 (the model's own types), fp16 or bf16.
        typing: what became of the graph's types, see `attn_deploy.conversion.half`; None for fp32.

    No time and no path is in it: the same request makes the same bytes.
    """

    model: str
    arguments: Mapping[str, Any]
    exporter: str
    exporter_reason: str
    opset_requested: int
    opset: int
    opset_written: int
    opset_rules: Mapping[str, int]
    native_attention: bool
    dynamic: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    multiple: Mapping[str, int]
    weights: tuple[str, ...]
    traced_shapes: Mapping[str, tuple[int, ...]]
    verified_shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    parity: Mapping[str, Any] | None
    fused: tuple[tuple[str, str], ...]
    rewritten: tuple[tuple[str, str], ...]
    simplifier: str
    simplifier_reason: str
    nodes_raw: int
    nodes: int
    versions: Mapping[str, str]
    precision: str = "fp32"
    typing: Mapping[str, Any] | None = None
    preprocess: Mapping[str, Any] | None = None
    postprocess: Mapping[str, Any] | None = None
    minimum: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    gates: tuple[str, ...] = ()
    called: str = ""
    dropped: tuple[str, ...] = ()
    images: Mapping[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)
