"""`attn_deploy.lint`: what would break an export, before it is tried."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from attn_deploy.diagnosis.lint_request import check_lint
from attn_deploy.errors import AttnDeployError, ExportError, GraphError, ParityError
from attn_deploy.exporters.options import DEFAULT_OPSET, ExportOptions
from attn_deploy.exporters.pipeline import first_good
from attn_deploy.exporters.prepare import prepare
from attn_deploy.fusing.copying import copy_model
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.inputs.user_samples import Sample
from attn_deploy.resolve.make import ResolvedModel
from attn_deploy.resolve.resolve import resolve, resolve_module
from attn_deploy.rules.examine import examine
from attn_deploy.rules.finding import SEVERITIES, Finding
from attn_deploy.rules.location import Place
from attn_deploy.rules.modules import walk_modules

_FIRST_DFT = 17


@dataclass(frozen=True, slots=True)
class LintReport:
    """The findings of one model.

    Attributes:
        model: its name.
        opset, target: what it was looked at for.
        traced: whether a forward pass was traced too, which needs the inputs; without, the source alone was read.
        findings: the worst first.
    """

    model: str
    opset: int
    target: str
    traced: bool
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing would make the export fail."""
        return all(f.severity != "error" for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "model": self.model,
            "opset": self.opset,
            "target": self.target,
            "traced": self.traced,
            "passed": self.passed,
            "findings": [f.to_dict() for f in self.findings],
        }


def lint(
    model: str | nn.Module,
    *,
    opset: int = DEFAULT_OPSET,
    target: str = "onnxruntime",
    inputs: Sequence[TensorInput] | None = None,
    samples: Sequence[str | Path | Sample] | None = None,
    dynamic: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> LintReport:
    """Look for what would break an export: layers, source and, where the inputs are known, a traced forward pass.

    Args:
        model: a name (see `attn_deploy.resolve.names`) or a module.
        opset: 13 to 25.
        target: what the file is for: onnxruntime, tensorrt or tensorrt-rtx.
        inputs: the inputs of a model of the user's; without, no forward pass is made.
        samples: the user's own inputs (see `attn_deploy.inputs.user_samples`).
        dynamic: symbols that must move; None for the largest set.
        arguments: constructor arguments when ``model`` is a name.

    Raises:
        InvalidRequestError: if the request cannot be used.
    """
    check_lint(opset, target)
    resolved = resolve(model, arguments) if isinstance(model, str) else resolve_module(model)
    traced = inputs is not None or resolved.inputs is not None
    module = resolved.module
    if traced:
        rehearsal = _rehearsed(resolved, inputs, samples, dynamic, opset)
    else:
        rehearsal = _Rehearsal(tuple(examine(module)))
    judged = [_judged(f, opset, target) for f in (*walk_modules(module, target), *rehearsal.findings)]
    if rehearsal.exported:
        judged = [_harmless(f, target) for f in judged]
        judged += [Finding("fixed-size", f"{s} stays fixed: {why}", Place()) for s, why in rehearsal.fixed.items()]
    if rehearsal.failure is not None:
        judged = _with_failure(judged, rehearsal.failure)
    return LintReport(resolved.name.text, opset, target, traced, _sorted(judged))


@dataclass(frozen=True, slots=True)
class _Rehearsal:
    """What an export that writes nothing shows.

    Attributes:
        findings: what is known to break exports, in the source and in the calls of runs.
        failure: the error that ended it.
        exported: whether it came to a proven graph.
        fixed: why axes stay that nobody fixed.
    """

    findings: tuple[Finding, ...]
    failure: Finding | None = None
    exported: bool = False
    fixed: Mapping[str, str] = field(default_factory=dict)


def _rehearsed(
    resolved: ResolvedModel,
    inputs: Sequence[TensorInput] | None,
    samples: Sequence[str | Path | Sample] | None,
    dynamic: Sequence[str] | None,
    opset: int,
) -> _Rehearsal:
    """An export of the model, without a file: only this agrees with what an export will do."""
    try:
        prepared = prepare(resolved, inputs=inputs, samples=samples, dynamic=dynamic, fuse=False)
    except ExportError as error:
        return _Rehearsal(tuple(examine(resolved.module)), _failure(error, error))
    # The model as the user wrote it, not the copy in which calls are rewritten.
    sizes = [None, {"N": prepared.inputs[0].sizes["N"] + 1}] if "N" in prepared.dynamic else [None]
    findings = examine(copy_model(prepared.original), [prepared.example(s) for s in sizes])
    try:
        attempt = first_good(prepared, ExportOptions(opset=opset, simplify=False, verify=_can_verify()))[0]
    except (ExportError, GraphError, ParityError) as error:
        return _Rehearsal(findings, _failure(error, error))
    return _Rehearsal(findings, exported=True, fixed=attempt.fixed)


def _can_verify() -> bool:
    return importlib.util.find_spec("onnxruntime") is not None


def _harmless(finding: Finding, target: str) -> Finding:
    """A finding in a model that exports: no error, unless it is one of the target's."""
    of_target = finding.rule in ("unsupported-by-target", "data-dependent-size", "fft") and target.startswith(
        "tensorrt"
    )
    return replace(finding, severity="warning") if finding.severity == "error" and not of_target else finding


def _failure(error: AttnDeployError, telling: AttnDeployError) -> Finding:
    """An error as a finding, without the remedy that a finding has of its own."""
    finding = Finding(telling.rule or "baked-size", str(error), Place(), "error")
    return replace(finding, what=finding.what.replace(finding.remedy, "").strip())


def _judged(finding: Finding, opset: int, target: str) -> Finding:
    """A finding with the severity that it has at this opset and for this target."""
    tensorrt = target.startswith("tensorrt")
    if finding.rule in ("fold", "groups-from-batch") or (
        finding.rule == "adaptive-pooling" and "3d" not in finding.what
    ):
        return replace(finding, severity="rewritten")
    if finding.rule == "fft":
        return replace(finding, severity="error" if opset < _FIRST_DFT or tensorrt else "warning")
    if finding.rule == "data-dependent-size":
        return replace(finding, severity="error" if tensorrt else "warning")
    if finding.rule in ("data-dependent-branch", "hard-coded-device"):
        return replace(finding, severity="error")
    return finding


def _with_failure(findings: list[Finding], broken: Finding) -> list[Finding]:
    """The findings with the failure of the trace, at the finding that explains it if there is one."""
    cause = next((f for f in findings if f.rule == broken.rule), None)
    if cause is None:
        return [*findings, broken]
    return [replace(f, severity="error") if f is cause else f for f in findings]


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The worst first; of several at one place under one rule, the first."""
    kept: dict[tuple[str, str, str, int], Finding] = {}
    for finding in sorted(findings, key=lambda f: SEVERITIES.index(f.severity)):
        key = (finding.rule, finding.place.module, Path(finding.place.file).name, finding.place.line)
        twin = (finding.rule, finding.place.module)
        if finding.severity == "rewritten" and any((k[0], k[1]) == twin for k in kept):
            continue
        kept.setdefault(key, finding)
    return tuple(kept.values())
