"""What files hold, as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attn_deploy.report.text import rows_text, shapes_text

if TYPE_CHECKING:
    from attn_deploy.diagnosis.contents import Difference, GraphReport

_SHOWN = 12
SEALS = {
    "whole": "matches this file",
    "broken": "does not match this file: changed after it was proven",
    "": "without a seal: written before files were sealed",
}


def graph_text(report: GraphReport) -> str:
    """What an ONNX file holds."""
    artifact = report.artifact
    weights = ", ".join(f"{n:,} bytes in {dtype}" for dtype, n in report.weight_bytes.items())
    bound = f"at least {report.macs:,}" if report.unknown else f"{report.macs:,}"
    largest = [
        f"{p.macs:>14,}  {p.operator} {p.module or p.node} -> {'x'.join(map(str, p.shape))}"
        for p in report.products[:_SHOWN]
    ]
    if len(report.products) > _SHOWN:
        largest.append(f"and {len(report.products) - _SHOWN} more")
    rows = [
        ("file", f"{artifact.path} ({artifact.size:,} bytes)"),
        ("opset", f"{artifact.opset} (IR version {artifact.ir_version})"),
        ("other domains", ", ".join(f"{d} {v}" for d, v in artifact.domains.items())),
        ("inputs", "\n".join(map(str, artifact.inputs))),
        ("outputs", "\n".join(map(str, artifact.outputs))),
        ("dynamic axes", ", ".join(artifact.dynamic_axes) or "none"),
        ("operators", ", ".join(f"{op} {n}" for op, n in artifact.operators.items())),
        ("results in", ", ".join(f"{dtype} {n}" for dtype, n in report.dtypes.items())),
        ("parameters", f"{report.parameters:,}"),
        ("weights", weights or "none"),
        ("Q/DQ", _quantization(report)),
        ("MACs", f"{bound} at {shapes_text([report.sizes])}"),
        ("unknown", ", ".join(report.unknown[:_SHOWN])),
        ("precision", artifact.metadata.get("precision", "")),
        ("evidence", SEALS[artifact.seal] if artifact.evidence is not None else ""),
        ("sha256", artifact.sha256),
    ]
    text = rows_text([(k, v) for k, v in rows if v])
    return "\n".join([text, "", *largest]) if largest else text


def _quantization(report: GraphReport) -> str:
    if not report.pairs and not report.dequantized_weights:
        return ""
    return f"{report.pairs} pairs, {report.dequantized_weights} weights"


def graphs_diff_text(differences: Sequence[Difference]) -> str:
    """What two files differ in, one line each."""
    if not differences:
        return "no difference in interface, operators, attributes or weights."
    return rows_text([(d.what, f"{d.first or 'absent'} -> {d.second or 'absent'}") for d in differences])
