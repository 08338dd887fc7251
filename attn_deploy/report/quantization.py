"""The evidence of a quantization as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attn_deploy.conversion.pace import pace_words
from attn_deploy.graph.artifact import OnnxArtifact
from attn_deploy.report.text import rows_text

_SHOWN = 8


def quantization_text(artifact: OnnxArtifact) -> str:
    """What was quantized, on which data, and what that costs."""
    record = json.loads(artifact.metadata["quantization"])
    judged = record["judged"]
    rows = [
        ("file", f"{artifact.path} ({artifact.size:,} bytes)"),
        ("opset", f"{artifact.opset}, read back from the file (IR version {artifact.ir_version})"),
        ("precision", f"{record['precision']} in {record['layers']} of {record['products']} products"),
        ("made for", _target(record)),
        ("pairs", f"{record['pairs']} of activations, {record['weights']} tensors of weights"),
        ("calibration", _calibration(record["calibration"])),
        ("images as", record["calibration"].get("prepared", "")),
        ("method", f"{record['method']} ({_methods(record['methods'])})"),
        (
            "error",
            f"{judged['error']:.2%} of {judged.get('worst') or 'the output'}, {judged['max_abs_error']:.3g} at most "
            f"(bound: {record['limit']})",
        ),
        ("choices", ", ".join(f"{n}: {share:.1%} the same" for n, share in judged.get("choices", {}).items())),
        ("answers", _answers(judged)),
        (
            "sensitive",
            _listed([f"{_place(s)}: {s['error_alone']:.1%} alone, left in float" for s in record["sensitive"]]),
        ),
        ("left", _listed([f"{_place(y)}: {y['reason']}" for y in record["left"]])),
        ("ONNX Runtime", _ran(record["onnxruntime"])),
        ("speed", pace_words(json.loads(artifact.metadata["speed"])) if "speed" in artifact.metadata else ""),
        ("inputs", "\n".join(map(str, artifact.inputs))),
        ("outputs", "\n".join(map(str, artifact.outputs))),
        ("operators", ", ".join(f"{op} {n}" for op, n in artifact.operators.items())),
        ("sha256", artifact.sha256),
    ]
    return rows_text([(k, v) for k, v in rows if v])


def _calibration(identity: Mapping[str, str]) -> str:
    if "sha256" not in identity:
        if identity["data"] != "ramped noise":
            return str(identity["data"])
        return (
            f"{identity['data']}: ranges on real data differ; give --calibration, or --sample. The error below is that on "
            "noise: on real data this file may be wrong"
        )
    what = identity["data"] + (f" ({identity['split']})" if "split" in identity else "")
    return (
        f"{identity['samples']} samples of {what}, sha256 {identity['sha256'][:12]}...; "
        f"held out: {identity['held_out']}"
    )


def _methods(tried: Mapping[str, Mapping[str, Any]]) -> str:
    if len(tried) == 1:
        return "as asked"
    return ", ".join(
        f"{name} {j['error']:.2%}" + ("" if j["same"] is None else f" and {j['samples'] - j['same']} changed answers")
        for name, j in tried.items()
    )


def _answers(judged: Mapping[str, Any]) -> str:
    if judged["same"] is None:
        return ""
    text = f"{judged['same']} of {judged['samples']} as in float"
    if judged["correct"] is not None:
        text += f"; {judged['correct_before']} right before, {judged['correct']} after"
    return f"{text} ({judged['points_lost']:.2f} points lost)"


def _ran(ran: Mapping[str, Any]) -> str:
    if not ran["ran"]:
        return f"not run: {ran['reason']}"
    kernels = ran.get("kernels_words", "")
    return f"error {ran['error']:.2%} with its optimisations" + (
        (f"; {kernels}" if kernels else "") if ran["usable"] else ": do not run this file there"
    )


def _target(record: Mapping[str, Any]) -> str:
    target = record.get("target", "gpu")
    words = {"cpu": "CPUs, by ONNX Runtime", "gpu": "GPUs, by TensorRT"}[target]
    weights = "a scale for each channel" if record.get("per_channel", True) else "one scale for each tensor"
    other = {"cpu": "gpu", "gpu": "cpu"}[target]
    return f"{words}: {record.get('activations', 'int8')} activations, {weights} of weights (--target {other} for the other)"


def _place(entry: Mapping[str, Any]) -> str:
    return f"{entry['operator']} in {entry['module'] or entry['node']}"


def _listed(lines: list[str]) -> str:
    return "\n".join(lines[:_SHOWN]) + (f"\nand {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")
