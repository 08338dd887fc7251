"""Engines as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attn_deploy.report.text import rows_text

if TYPE_CHECKING:
    from attn_deploy.engine.artifact import EngineArtifact
    from attn_deploy.engine.kernels import EngineKernels


def engine_text(artifact: EngineArtifact, kernels: EngineKernels | None = None) -> str:
    """What an engine is, what it was made from, and its layers if they were asked for."""
    network = artifact.network
    compute = ", ".join(f"{n} in {dtype}" for dtype, n in network.compute_dtypes.items())
    tf32 = "on" if artifact.options.tf32 else "off"
    rows = [
        ("engine", f"{artifact.path} ({artifact.size:,} bytes)"),
        ("library", f"{artifact.flavor} {artifact.version}" + (f" on {artifact.device}" if artifact.device else "")),
        ("targets", ", ".join(artifact.targets)),
        ("versions", _versions(artifact)),
        ("precision", f"{artifact.precision}, found in the network's {network.layers} layers; TF32 {tf32}"),
        ("products", compute or "none"),
        ("inputs", "\n".join(map(str, artifact.inputs))),
        ("outputs", "\n".join(map(str, artifact.outputs))),
        ("profiles", "\n".join(map(str, artifact.profiles)) or "none: static shapes"),
        ("from", f"{artifact.onnx} (sha256 {artifact.onnx_sha256[:12]}...)"),
        ("used again" if artifact.reused else "built", artifact.reason),
        ("build time", f"{artifact.parse_seconds + artifact.build_seconds:.2f} s"),
        ("warnings", "\n".join(artifact.warnings)),
        ("sha256", artifact.sha256),
        ("layers", "" if kernels is None else _layers(kernels)),
    ]
    return rows_text([(k, v) for k, v in rows if v])


def _versions(artifact: EngineArtifact) -> str:
    """What may load it; nothing where that is the version above alone."""
    if not artifact.options.version_compat:
        return ""
    major = artifact.version.split(".")[0]
    return f"this one, later ones of version {major}, and the lean runtime of these (attn-deploy[lean])"


def _layers(kernels: EngineKernels) -> str:
    """The layers after fusion, or a line that says why they are not listed."""
    if kernels.note:
        return f"not listed: {kernels.note}"
    counts = ", ".join(f"{n} write {kind}" for kind, n in kernels.by_type.items())
    lines = (f"{'+'.join(dict.fromkeys(k.outputs)) or '?'} {k.kind} {k.name}" for k in kernels.kernels)
    return "\n".join([f"{len(kernels.kernels)} after fusion: {counts or 'types unknown'}", *lines])
