"""Plain text for the terminal. No rich: `list` and `info` answer before it would be imported."""

from __future__ import annotations

import itertools
import json
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attn_deploy.registry import ModelSpec, namesakes
from attn_deploy.resolve.names import parse_name

if TYPE_CHECKING:
    from attn_deploy.graph.artifact import OnnxArtifact
    from attn_deploy.machine.devices import DeviceProfile


def rows_text(rows: Sequence[tuple[str, str]], width: int | None = None) -> str:
    """Two columns, the second wrapped at ``width``: by default the terminal's, or 120 in a pipe and on wide ones."""
    if width is None:
        width = min(120, shutil.get_terminal_size((120, 24)).columns)
    left = max(len(key) for key, _ in rows) + 2
    lines = []
    for key, value in rows:
        wrapped: list[str] = []
        for part in value.splitlines() or [""]:
            wrapped += textwrap.wrap(part, max(20, width - left), break_on_hyphens=False, break_long_words=False) or [
                ""
            ]
        lines += [f"{key if i == 0 else '':<{left}}{line}" for i, line in enumerate(wrapped)]
    return "\n".join(lines)


def models_text(specs: Iterable[ModelSpec], width: int = 120) -> str:
    """Registry entries grouped by family, one line each."""
    blocks = []
    for family, group in itertools.groupby(specs, key=lambda s: s.family):
        members = list(group)
        left = min(max(len(s.name) for s in members), width // 3)  # a few long names do not narrow all the others
        lines = [f"{family} ({len(members)})"]
        for spec in members:
            text = f"  {spec.name:<{left}}  {spec.summary}"
            lines.append(text if len(text) <= width else text[: width - 1] + "…")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def devices_text(devices: Sequence[DeviceProfile]) -> str:
    """A line for each device: its target, memory, bandwidth and what it is called."""
    left = max(len(d.name) for d in devices) + 2
    lines = [f"{'name':<{left}}{'target':<9}{'GB':>6}{'GB/s':>8}  device"]
    for device in devices:
        memory, bandwidth = (f"{v:g}" if v is not None else "" for v in (device.memory_gib, device.bandwidth_gbs))
        lines.append(f"{device.name:<{left}}{device.target or 'cpu':<9}{memory:>6}{bandwidth:>8}  {device.title}")
    return "\n".join(lines)


def model_text(spec: ModelSpec, width: int = 120) -> str:
    """Everything known of one registry entry."""
    reference = ", ".join(f"{k}={v!r}" for k, v in spec.reference.items()) or "none"
    arguments = "\n".join(
        f"{a.name}: {a.annotation}" + (" (required)" if a.default is None else f" = {a.default}")
        for a in spec.arguments
    )
    inputs = "\n".join(f"{i.name} {i.dtype} ({', '.join(map(str, i.shape))})" for i in spec.inputs)
    rows = [
        ("name", spec.name),
        ("", spec.summary),
        ("family", spec.family),
        ("aliases", ", ".join(spec.aliases) or "none"),
        ("paper", spec.paper or "none stated"),
        ("year", str(spec.year or "unknown")),
        ("official source", spec.official or "none"),
        ("class", spec.target),
        ("arguments", arguments or "none"),
        ("reference", reference),
        ("inputs", inputs),
        ("outputs", ", ".join(spec.outputs)),
        ("parameters", "unknown" if spec.parameters is None else f"{spec.parameters:,}"),
        ("MACs at 32x32", "unknown" if spec.macs is None else f"{spec.macs:,}"),
        ("dynamic axes", ", ".join(spec.dynamic) or "none"),
        ("least sizes", ", ".join(f"{k}: {v}" for k, v in spec.minimum.items())),
        ("multiples of", ", ".join(f"{k}: {v}" for k, v in spec.multiple.items())),
        ("export", spec.export),
        ("limits", spec.limits),
        ("deviations", spec.deviations),
        ("same name", "; ".join(f"{word} is also {' and '.join(names)}" for word, names in namesakes(spec).items())),
    ]
    return rows_text([(k, v) for k, v in rows if v], width)


def shapes_text(shapes: Iterable[Mapping[str, Sequence[int]]]) -> str:
    """Input shapes: ``3x64x14x31, 5x64x9x25``; with names where there are several inputs."""
    return ", ".join(
        " ".join((f"{name}:" if len(case) > 1 else "") + "x".join(map(str, shape)) for name, shape in case.items())
        for case in shapes
    )


def export_text(artifact: OnnxArtifact) -> str:
    """The evidence of an export."""
    record: Mapping[str, Any] = artifact.record
    parity = record["parity"]

    def _stepped(axis: str) -> str:
        least = record.get("minimum", {}).get(axis)
        limits = [f"multiples of {record['multiple'][axis]}"] if axis in record["multiple"] else []
        limits += [f"at least {least}"] if least is not None else []
        return f"{axis} ({', '.join(limits)})" if limits else axis

    rows = [
        ("file", f"{artifact.path} ({artifact.size:,} bytes)"),
        ("model", record["model"]),
        ("exporter", f"{record['exporter']} ({record['exporter_reason']})"),
        ("opset", _opset_text(artifact)),
        *(typing_rows(record["typing"]) if record.get("typing") else []),
        ("inputs", "\n".join(map(str, artifact.inputs))),
        ("inputs go", record.get("called", "")),
        ("outputs", "\n".join(map(str, artifact.outputs))),
        ("not exported", f"{', '.join(record['dropped'])} among the outputs" if record.get("dropped") else ""),
        ("dynamic axes", ", ".join(map(_stepped, artifact.dynamic_axes)) or "none"),
        ("fixed axes", "\n".join(f"{s} {why}" for s, why in record.get("fixed", {}).items())),
        ("traced at", shapes_text([record["traced_shapes"]])),
        ("proven at", shapes_text(record["verified_shapes"]) or "not verified at other shapes"),
        (
            "max error",
            "not verified"
            if parity is None
            else f"{parity['max_abs_error']:.3g} against {_reference(record)} over {parity['cases']} shapes "
            f"(allowed: rtol {parity['rtol']:g}, atol {parity['atol']:g} * max(1, max|y|))",
        ),
        ("inputs redrawn", _redrawn_text(parity)),
        ("weights", _weights_text(record)),
        ("gates", _gates_text(record.get("gates", ()))),
        ("rewritten", _changes_text(record["rewritten"])),
        ("fused", _changes_text(record["fused"])),
        (
            "nodes",
            f"{record['nodes_raw']} -> {artifact.nodes} "
            + (
                f"({record['simplifier']})"
                if record["simplifier"]
                else f"(not simplified: {record['simplifier_reason']})"
            ),
        ),
        ("operators", ", ".join(f"{op} {n}" for op, n in artifact.operators.items())),
        ("parameters", f"{artifact.parameters:,}"),
        ("sha256", artifact.sha256),
    ]
    return rows_text([(k, v) for k, v in rows if v])


def _gates_text(gates: Sequence[str]) -> str:
    if not gates:
        return ""
    return f"{', '.join(gates[:3])}{', ...' if len(gates) > 3 else ''}: constant; also proven with other values in them"


def file_words(file: Mapping[str, Any]) -> str:
    """What was profiled, in a few words."""
    if "library" in file:
        return f"Engine: {file['library']}, {file['nodes']} layers before fusion"
    return f"ONNX: opset {file['opset']}, {file['nodes']} nodes"


# What a note on half precision holds; a file that was altered may lack some of it.
_TYPING = (
    "precision", "products", "kept", "kept_by_range", "onnxruntime", "overflow", "nodes_half", "nodes_fp32", "casts",
    "weights_lost", "calibration",
)  # fmt: skip


def _note(artifact: OnnxArtifact, name: str, fields: Sequence[str]) -> dict[str, Any] | None:
    """A note in the metadata; None where there is none, or it was damaged after it was written."""
    note = json.loads(artifact.metadata[name]) if name in artifact.metadata else None
    return note if isinstance(note, dict) and all(field in note for field in fields) else None


def conversion_text(artifact: OnnxArtifact) -> str:
    """The evidence of a conversion to another opset, precision or both."""
    rows = [("file", f"{artifact.path} ({artifact.size:,} bytes)")]
    try:
        rows += _conversion_rows(artifact)
    except (LookupError, TypeError, ValueError, AttributeError):  # somebody else's words where our facts should be
        rows += [("evidence", "it is not what a conversion writes, and cannot be shown")]
    rows += [
        ("operators", ", ".join(f"{op} {n}" for op, n in artifact.operators.items())),
        ("sha256", artifact.sha256),
    ]
    return rows_text([(k, v) for k, v in rows if v])


def _conversion_rows(artifact: OnnxArtifact) -> list[tuple[str, str]]:
    moved = _note(artifact, "conversion", ("from", "rules", "shapes", "max_abs_error"))
    typing = _note(artifact, "typing", (*_TYPING, "compared", "shapes", "max_abs_error"))
    opset = f"{artifact.opset}, read back from the file (IR version {artifact.ir_version})"
    if moved is not None:
        rows = [
            ("opset", f"{opset}; was {moved['from']}"),
            ("rewritten", "\n".join(f"{name} ({count})" for name, count in moved["rules"].items()) or "nothing"),
        ]
    else:
        rows = [("opset", opset)]
    rows += typing_rows(typing) if typing is not None else []
    rows += [
        ("inputs", "\n".join(map(str, artifact.inputs))),
        ("outputs", "\n".join(map(str, artifact.outputs))),
    ]
    for comparison, what in ((moved, "in ONNX Runtime"), (typing, typing["compared"] if typing else "")):
        if comparison is None:
            continue
        allowed = comparison.get("tolerance", comparison)
        rows += [
            ("compared at", shapes_text(comparison["shapes"])),
            (
                "max error",
                f"{comparison['max_abs_error']:.3g} against the source file {what}{_where(comparison.get('worst'))} "
                f"(allowed: rtol {allowed['rtol']:g}, atol {allowed['atol']:g} * max(1, max|y|))",
            ),
        ]
    return rows


def _redrawn_text(parity: Mapping[str, Any] | None) -> str:
    count = (parity or {}).get("redrawn", 0)
    if not count:
        return ""
    return f"{count}, at which the model itself picks other elements when its last bits move"


def simplified_text(artifact: OnnxArtifact) -> str:
    """The evidence of a simplification."""
    evidence = artifact.evidence
    step = evidence.history[-1] if evidence is not None and evidence.history else {}
    parity = (evidence.parity if evidence is not None else None) or {}
    before, after = step.get("nodes", (artifact.nodes, artifact.nodes))
    rows = [
        ("file", f"{artifact.path} ({artifact.size:,} bytes)"),
        ("opset", f"{artifact.opset}, read back from the file (IR version {artifact.ir_version})"),
        ("nodes", f"{before} -> {after} ({step.get('tool', '')})"),
        ("max error", f"{parity.get('max_abs_error', 0.0):.3g} against the source over {parity.get('cases', 0)} runs"),
        ("inputs", "\n".join(map(str, artifact.inputs))),
        ("outputs", "\n".join(map(str, artifact.outputs))),
        ("operators", ", ".join(f"{op} {n}" for op, n in artifact.operators.items())),
        ("sha256", artifact.sha256),
    ]
    return rows_text(rows)


def _where(worst: str | None) -> str:
    return f", nearest its bound at {worst}" if worst else ""


def typing_rows(typing: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a graph in half precision holds, and what stayed in fp32."""
    products = ", ".join(f"{n} in {dtype}" for dtype, n in typing["products"].items())
    kept = ", ".join(f"{reason} {n}" for reason, n in typing["kept"].items())
    places = [f"{k['operator']} in {k['module'] or k['node']}: {k['reason']}" for k in typing["kept_by_range"]]
    masks = [f"{m['before']:.4g} in {m['node']} written as {m['after']:.5g}" for m in typing.get("masks", ())]
    ran = typing["onnxruntime"]
    overflow = typing["overflow"]
    first = overflow and f"{overflow['operator']} in {overflow['module'] or overflow['node']} {overflow['reason']}"
    half, wide, casts = typing["nodes_half"], typing["nodes_fp32"], typing["casts"]
    return [
        ("precision", f"{typing['precision']} in {half} nodes, fp32 in {wide}, {casts} casts"),
        ("products", products or "none"),
        ("kept in fp32", kept or "nothing"),
        ("by range", "\n".join(places[:8]) + _more(places, 8)),
        ("masks", "\n".join(masks[:8]) + _more(masks, 8)),
        ("overflow", f"{first}; kept in fp32" if first else ""),
        ("weights lost", ", ".join(f"{w['name']} {w['share']:.0%}" for w in typing["weights_lost"])),
        ("ranges from", typing["calibration"]["data"]),
        ("ONNX Runtime", f"error {ran['max_abs_error']:.3g}" if ran["ran"] else f"not run: {ran['reason']}"),
    ]


def _weights_text(record: Mapping[str, Any]) -> str:
    """Where the numbers in the file come from; empty where the user's own code knows it."""
    if record["weights"]:
        name, sha256, *rest = record["weights"]
        return "; ".join([f"{name} (sha256 {sha256[:12]}...)", *rest])
    parsed, arguments = parse_name(record["model"]), record["arguments"]
    if (
        parsed.file is not None
        or parsed.checkpoint is not None
        or parsed.pickled is not None  # a whole model brings its own
        or arguments.get("pretrained")
        or arguments.get("weights")
    ):
        return ""
    text = "random (seed 0): for timing and tests; --weights FILE loads a checkpoint"
    if arguments.get("stem") == "cifar":
        large = f"{parsed.base}:stem=imagenet,num_classes=1000"
        text += (
            f"\n{arguments['num_classes']} classes and a stem for small images, as for CIFAR-10; for ImageNet: {large}"
        )
    return text


def _reference(record: Mapping[str, Any]) -> str:
    return f"PyTorch in fp32, {record['typing']['compared']}," if record.get("typing") else "PyTorch"


def _opset_text(artifact: OnnxArtifact) -> str:
    text = f"{artifact.opset}, read back from the file (IR version {artifact.ir_version})"
    if artifact.record["opset_written"] != artifact.opset:
        rules = ", ".join(f"{name} {count}" for name, count in artifact.record["opset_rules"].items())
        text += f"; converted from {artifact.record['opset_written']}" + (f" ({rules})" if rules else "")
    return text


def _changes_text(changes: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{path or '(model)'}: {words}" for path, words in changes[:8]) + _more(changes, 8)


def _more(items: Sequence[Any], shown: int) -> str:
    return f"\nand {len(items) - shown} more" if len(items) > shown else ""
