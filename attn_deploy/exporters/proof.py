"""What a finished graph is held against: the model in eager mode, on fresh copies, at sizes that were not traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import nn

from attn_deploy.errors import DynamicAxisError, ExportError, ParityError
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.prepare import deployed
from attn_deploy.exporters.prepared import PreparedModel, Translation
from attn_deploy.exporters.refusal import refusal
from attn_deploy.exporters.serving import BEHIND, with_form
from attn_deploy.exporters.translate import frozen_decision, translate
from attn_deploy.fusing.copying import copy_model
from attn_deploy.graph.heads import picks_elements, scores_graph
from attn_deploy.graph.placed import place_of, placed_tensors
from attn_deploy.graph.written import graph_beside
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.parity.reference import EagerReference
from attn_deploy.parity.report import ParityReport
from attn_deploy.parity.tolerance import TOLERANCES, Tolerance
from attn_deploy.parity.verify import verify_against
from attn_deploy.resolve.seeding import open_gates

# What is frozen under these is a value, not a size.
_OF_VALUES = ("data-dependent-branch", "number-from-tensor")
_NARROW = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


def proven(prepared: PreparedModel, model: onnx.ModelProto, minimum: Mapping[str, int]) -> ParityReport:
    """The comparison of a graph with the model.

    Args:
        prepared: the model.
        model: the graph.
        minimum: the least extents that the graph claims to hold for.
    """
    inputs = at_least(prepared.inputs, minimum)
    tolerance = tolerance_of(prepared.original)
    graph, dynamic = _runnable(prepared, model), prepared.dynamic
    if prepared.reading is None:
        picks = picks_elements(model)
        return verify_against(
            prepared.reference, graph, inputs, dynamic, tolerance=tolerance, picks=picks, until_wrong=True
        )
    # Choices alone prove little: a wrong graph often chooses the same. So the scores behind them are compared as numbers.
    behind = EagerReference(with_form(prepared.original, "behind"), (*prepared.outputs, BEHIND))
    report = verify_against(
        behind, graph, inputs, dynamic, tolerance=tolerance, reading=prepared.reading, until_wrong=True
    )
    if not report.passed:
        return report
    scores = EagerReference(with_form(prepared.original, "scores"), (BEHIND,))
    bare = _runnable(prepared, scores_graph(model, prepared.outputs[-1], BEHIND))
    numbers = verify_against(scores, bare, inputs, dynamic, tolerance=tolerance, until_wrong=True)
    return replace(report, cases=(*report.cases, *numbers.cases))


def _runnable(prepared: PreparedModel, model: onnx.ModelProto) -> Path | bytes:
    """What ONNX Runtime loads: a file beside the weights that lie in one, which it maps; else the bytes."""
    placed = placed_tensors(model)
    if not placed:
        return bytes(model.SerializeToString())
    path = place_of(placed[0]).path.with_name("candidate.onnx")
    graph_beside(model, path)
    return path


def at_least(inputs: Sequence[TensorInput], minimum: Mapping[str, int]) -> tuple[TensorInput, ...]:
    """The inputs with larger least extents."""
    if not minimum:
        return tuple(inputs)
    return tuple(
        replace(i, minimum={**i.minimum, **{s: max(n, i.minimum.get(s, 1)) for s, n in minimum.items()}})
        for i in inputs
    )


def tolerance_of(module: nn.Module) -> Tolerance:
    """The tolerance of the narrowest type that the model computes in by itself."""
    types = {_NARROW[p.dtype] for p in module.parameters() if p.dtype in _NARROW}
    return TOLERANCES["bfloat16" if "bfloat16" in types else "float16" if types else "float32"]


def raise_if_failed(prepared: PreparedModel, report: ParityReport, translation: Translation) -> None:
    """Raise for a comparison that failed, with what the tracer said of the user's code as the cause if it said anything.

    Raises:
        DynamicAxisError: of the rule that the tracer's remark falls under, if the graph is right at the traced size alone.
        ExportError: of that rule, if it is wrong there too, or the cause is a value.
        ParityError: otherwise.
    """
    try:
        report.raise_if_failed(prepared.label)
    except ParityError as error:
        if "of the reference itself" in str(error):
            raise
        frozen = frozen_decision(prepared, translation.frozen)
        if frozen is None:
            raise
        detail = f"{frozen.what}; {str(error).removeprefix(f'{prepared.label}: ')}"
        said = refusal(prepared.label, frozen.rule, frozen.place, detail=detail)
        traced = [c.passed for c in report.cases if c.traced]
        if traced and all(traced) and frozen.rule not in _OF_VALUES:
            raise DynamicAxisError(str(said), rule=said.rule) from error
        raise said from error


def _ended(error: Exception) -> str:
    """A message as a sentence that another may follow."""
    text = str(error).rstrip()
    return text if text.endswith(".") else f"{text}."


def prove_gates(prepared: PreparedModel, exporter: str, options: ExportOptions) -> None:
    """Export and compare a copy whose closed gates are open: what they multiply would otherwise be proven by nothing.

    The graph is that of the exporter, before it is simplified.

    Raises:
        ParityError: naming the gates.
    """
    original = copy_model(prepared.original, share_parameters=True, own=prepared.gates)
    open_gates(original, prepared.gates)
    names = ", ".join(prepared.gates[:3]) + (", ..." if len(prepared.gates) > 3 else "")
    opened = replace(
        prepared,
        original=original,
        module=original,
        reference=EagerReference(original, prepared.outputs),
        work=prepared.work.another(),
    )
    try:
        opened = deployed(opened, fuse=options.fuse, rewrite=options.rewrite)
        translation = translate(opened, exporter, options.opset)
        report = proven(opened, translation.model, translation.minimum)
        raise_if_failed(opened, report, translation)
    except ParityError as error:
        if "of the reference itself" in str(error):  # the values do not suit this model, and nothing is known of it
            return
        raise ParityError(
            f"{_ended(error)} This is with values in {names}: as the model is made, they are constant, which hides the rest.",
            rule=error.rule,
        ) from error
    except ExportError as error:
        raise type(error)(
            f"{_ended(error)} This is with values in {names}: as the model is made, they are constant, which hides the rest.",
            rule=error.rule,
        ) from error
    finally:
        opened.work.forget()
