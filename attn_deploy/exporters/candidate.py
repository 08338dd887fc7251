"""A graph that passed every check, and the evidence of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from attn_deploy.conversion.half import HalfModel
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.exporters.proof import at_least
from attn_deploy.exporters.record import ExportRecord
from attn_deploy.graph.opset import standard_opset
from attn_deploy.graph.simplify import Simplified
from attn_deploy.machine.environment import installed_versions
from attn_deploy.parity.report import ParityReport

# What makes a file, and what proves it.
_NAMED = ("attn-deploy", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "onnxsim", "onnxslim")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A graph that passed every check, and how it came about."""

    exporter: str
    simplified: Simplified
    parity: ParityReport | None
    opset_written: int
    opset_rules: Mapping[str, int]
    minimum: Mapping[str, int] = field(default_factory=dict)
    half: HalfModel | None = None

    @property
    def final(self) -> onnx.ModelProto:
        """The graph to write."""
        return self.half.model if self.half is not None else self.simplified.model


def made_record(prepared: PreparedModel, options: ExportOptions, candidate: Candidate, reason: str) -> ExportRecord:
    """The evidence of a candidate that is kept."""
    report = candidate.parity
    inputs = at_least(prepared.inputs, candidate.minimum)
    parity = None if report is None else report.summary()
    return ExportRecord(
        model=prepared.label,
        arguments=prepared.arguments,
        exporter=candidate.exporter,
        exporter_reason=reason,
        opset_requested=options.opset,
        opset=standard_opset(candidate.final),
        opset_written=candidate.opset_written,
        opset_rules=candidate.opset_rules,
        native_attention=options.native_attention,
        dynamic=prepared.dynamic,
        inputs=tuple(f"{i.name} {i.dtype}[{', '.join(map(str, i.dims))}]" for i in prepared.inputs),
        outputs=tuple(
            f"{n}[{', '.join(map(str, d))}]" for n, d in zip(prepared.outputs, prepared.output_dims, strict=True)
        ),
        traced_shapes={i.name: i.shape(prepared.trace_sizes) for i in prepared.inputs},
        verified_shapes=tuple(report.untraced_shapes) if report is not None else (),
        parity=parity,
        multiple={s: n for s, n in inputs[0].multiple.items() if n > 1 and s in prepared.dynamic},
        minimum={s: n for s, n in inputs[0].minimum.items() if n > 1 and s in prepared.dynamic},
        fixed={s: f"stays {inputs[0].sizes[s]}: {why}" for s, why in prepared.fixed.items()},
        gates=prepared.gates,
        weights=prepared.weights,
        called=prepared.called,
        preprocess=prepared.serving.pixels.to_dict() if prepared.serving.pixels is not None else None,
        postprocess=prepared.serving.answers.to_dict() if prepared.serving.answers is not None else None,
        dropped=prepared.dropped,
        images=prepared.images,
        fused=prepared.changes,
        rewritten=prepared.rewritten,
        simplifier=candidate.simplified.tool,
        simplifier_reason=candidate.simplified.reason,
        nodes_raw=candidate.simplified.nodes_before,
        nodes=candidate.simplified.nodes_after,
        versions=installed_versions(_NAMED),
        precision=options.precision,
        typing=candidate.half.record if candidate.half is not None else None,
    )
