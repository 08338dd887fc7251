"""torch.export with dynamic dimensions, declared in one way after the other until the model can be traced.

torch.onnx.export(dynamo=True) given a module rewrites dimensions that torch.export refuses ("fix: N = 2") and writes a
static file without a word. So the program is made here, where such a refusal is an error.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.fx.experimental._config as symbolic_config
from torch import nn
from torch.export import ExportedProgram

from attn_deploy.errors import DynamicAxisError, ExportError
from attn_deploy.exporters.declarations import Declaration, declared_shapes
from attn_deploy.exporters.guards import limits_of
from attn_deploy.exporters.prepared import PreparedModel, TracedProgram
from attn_deploy.exporters.quiet import quiet_torch
from attn_deploy.exporters.refusal import refusal
from attn_deploy.exporters.size_arithmetic import make_divisions_exact_
from attn_deploy.exporters.suggested import fails_above, suggested_minimum
from attn_deploy.exporters.time_limit import OutOfTimeError, time_limit
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.processes import no_collection
from attn_deploy.rules.finding import Finding
from attn_deploy.rules.location import Place, place_of_error
from attn_deploy.rules.rules import explain, rule

# Symbolic arithmetic on sizes grows without end in some models (a chain of SAME padding); the other exporter has none.
TRACE_SECONDS = 40.0
# With named dimensions torch also holds every size against its range, which is where such arithmetic ends least; the same
# trace with free ones may take a second.
NAMED_SECONDS = 20.0
_BROKEN = "generated guard: "  # what a trace with free sizes takes for granted, and other sizes break
_ABOUT_SIZES = re.compile(
    r"specified range|Constraints violated|inferred to be a constant|specializ|generated guard|marked as dynamic|"
    r"Could not guard|data-dependent|symbolic|create Dim",
    re.IGNORECASE,
)


def exported_program(prepared: PreparedModel) -> TracedProgram:
    """The traced program with every dynamic axis symbolic; made once for a prepared model.

    Raises:
        DynamicAxisError: if torch.export finds that an axis must be constant.
        ExportError: if the model depends on the values of its input, cannot be traced, or not within `TRACE_SECONDS`.
    """
    if prepared.work.program is None:
        prepared.work.program = _trace(prepared)
    return prepared.work.program


def _trace(prepared: PreparedModel) -> TracedProgram:
    """Trace with named dimensions first, which torch checks; then with free ones, which the verification judges."""
    first: Exception | None = None
    failures: list[str] = []
    for declaration in _declarations(prepared, failures):
        shapes = _by_parameter(prepared.module, declared_shapes(prepared, declaration))
        try:
            program = _export(prepared, shapes, declaration)
        except OutOfTimeError as error:
            if declaration.named and prepared.dynamic:
                failures.append(str(error))
                first = first or refusal(prepared.label, "endless-arithmetic", Place(), detail=str(error))
                continue
            raise refusal(prepared.label, "endless-arithmetic", Place(), detail=str(error)) from error
        except Exception as error:
            failures.append(str(error))
            first = first or error
            if not prepared.dynamic or not _ABOUT_SIZES.search(str(error)):
                break
            continue
        least = _minimum(prepared, declaration)
        if not declaration.named:
            limits = limits_of(prepared, _symbolic_inputs(program))
            if limits.broken:
                failures.append(f"{_BROKEN}{limits.broken}")
                first = first or _on_size(prepared, limits.broken)
                continue
            least = {**least, **limits.minimum}
        return TracedProgram(program, least)
    raise _explained(prepared, first) from first


def _on_size(prepared: PreparedModel, broken: str) -> DynamicAxisError:
    axis = broken.partition(" ")[0]
    entry = rule("branch-on-shape")
    return DynamicAxisError(
        f"{prepared.label}: the axis {axis} cannot be dynamic: {entry.explanation}: {broken}. {entry.remedy}",
        rule=entry.id,
    )


def _symbolic_inputs(program: ExportedProgram) -> list[torch.Tensor]:
    names = set(program.graph_signature.user_inputs)
    return [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in names]


def _export(prepared: PreparedModel, shapes: Any, declaration: Declaration) -> ExportedProgram:
    # With gradients on, torch's attention with a mask comes out in a layout that its own decomposition cannot view.
    with (
        torch.no_grad(),
        symbolic_config.patch(backed_size_oblivious=declaration.any_extent),  # type: ignore[attr-defined]
        quiet_torch(),
        no_collection(),
        prepared.traced(),
        time_limit(NAMED_SECONDS if declaration.named else TRACE_SECONDS, "tracing with torch.export"),
    ):
        program = torch.export.export(
            prepared.traceable_module(), prepared.example(prepared.trace_sizes), dynamic_shapes=shapes, strict=False
        )
        make_divisions_exact_(program)
        return program


def _declarations(prepared: PreparedModel, failures: list[str]) -> Iterator[Declaration]:
    """How sizes are declared, one after the other; what failed before says what is worth trying.

    Extents are taken as any number, 1 included, at first: without this every "is it 1?" inside torch becomes a
    constraint.
    """
    if prepared.free_sizes and prepared.dynamic:
        yield from _free_declarations(failures)
        return
    yield Declaration()
    if not prepared.dynamic:
        return
    suggested = suggested_minimum(prepared, failures[-1])
    if suggested:
        yield Declaration(minimum=suggested)
    elif "specified range" in failures[-1] and not fails_above(prepared, failures[-1]):
        for floor in (4, 16, 33, 65):
            yield Declaration(floor=floor)
            if "specified range" not in failures[-1]:
                break
    yield from _free_declarations(failures)


def _free_declarations(failures: list[str]) -> Iterator[Declaration]:
    """Free sizes; with questions about an extent of 1 too, unless a condition was broken that is in either trace."""
    yield Declaration(named=False)
    if not failures[-1].startswith(_BROKEN):
        yield Declaration(named=False, any_extent=False)


def _minimum(prepared: PreparedModel, declaration: Declaration) -> dict[str, int]:
    """The least extents that a declaration claims, other than of the batch at 2, which is proven at 1 afterwards."""
    sizes = prepared.inputs[0].sizes
    least = {s: min(declaration.floor, sizes[s]) for s in prepared.dynamic if s[0] != "N" and declaration.floor > 1}
    return {**least, **{s: n for s, n in declaration.minimum.items() if n > 2}}


def _by_parameter(module: nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """One entry for each parameter of forward, as torch.export wants it: those that ``*features`` takes are one."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    for index, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL and index < len(shapes):
            return (*shapes[:index], shapes[index:])
    return shapes


_FROM_VALUES = ("data-dependent-branch", "number-from-tensor", "data-dependent-size")


def _seen_at(prepared: PreparedModel, place: Place) -> Finding | None:
    """What a run showed on the line at which values decide something: a condition, a number, or a size."""
    here = [f for f in prepared.findings if f.rule in _FROM_VALUES and f.place.line == place.line and place.line]
    return here[0] if here else None


def plain_constraint(text: str, inputs: Sequence[TensorInput]) -> str:
    """What torch.export says of a size, in the symbols of the request.

    ``Not all values of H = L['x'].size()[2] in the specified range H <= 8192 satisfy the generated guard
    math.trunc(0.5*torch.sym_float(L['x'].size()[2])) == 8`` becomes ``the file would hold for int(0.5*H) == 8 only``.
    """
    reason = _first_reason(text)

    def symbol(match: re.Match[str]) -> str:
        dims = next((i.dims for i in inputs if i.name == match[1]), inputs[0].dims)
        axis = int(match[2])
        return str(dims[axis]) if axis < len(dims) else match[0]

    for pattern in (r"L\['(\w+)'\]\.size\(\)\[(\d+)\]", r"\b(\w+)\.size\(\)\[(\d+)\]"):
        reason = re.sub(pattern, symbol, reason)
    reason = reason.replace("math.trunc(", "int(").replace("torch.sym_float(", "float(")
    guard = re.search(r"satisfy the generated guard (.+)", reason)
    if guard is not None:
        return f"the file would hold for {guard[1].strip()[:200]} only"
    baked = re.search(r"(\w+) was inferred to be a constant \((\d+)\)", reason)
    if baked is not None:
        return f"{baked[1]} is the number {baked[2]} in the trace"
    return reason[:200].rstrip(". ")


def _first_reason(text: str) -> str:
    reasons = re.findall(r"- (.+?)(?= - |$|Specializations |Suggested|During|The error above|If you're using)", text)
    return (reasons[0].strip() if reasons else text).rstrip(". ")


_BAKING_BATCH = ("loop-over-batch", "groups-from-batch")
_BAKING = ("pool-window-from-shape", "cached-by-size", "number-from-shape", "branch-on-shape")


def _stuck_axis(prepared: PreparedModel, text: str) -> DynamicAxisError:
    """The error of an axis that torch found to be a number: the constraint, and the line that a look at the model shows.

    A constraint says what would have to hold, not what asks for it: a window, a loop and a roll can all ask that
    ``H // 4`` be 4. So its words decide only where nothing of the kind is known of the model.
    """
    axes = ", ".join(s for s in prepared.dynamic if re.search(rf"\b{s}\b", text)) or ", ".join(prepared.dynamic)
    reason = plain_constraint(text, prepared.inputs)
    causes = (*_BAKING_BATCH, *_BAKING) if axes[:1] == "N" else _BAKING
    shown = next((f for name in causes for f in prepared.findings if f.rule == name), None)
    entry = rule(shown.rule) if shown is not None else explain(_first_reason(text)) or rule("baked-size")
    where = f": {entry.explanation}{shown.place.phrase}: {shown.what}" if shown is not None else ""
    remedy = "" if entry.general else f" {entry.remedy}"
    return DynamicAxisError(
        f"{prepared.label}: the axis {axes} cannot be dynamic, since {reason}{where}.{remedy}", rule=entry.id
    )


def _explained(prepared: PreparedModel, error: Exception | None) -> ExportError:
    if isinstance(error, ExportError):
        return error
    text = " ".join(str(error).split())
    place = place_of_error(error, prepared.module) if error is not None else Place()
    entry = explain(text)
    if re.search(r"data-dependent|GuardOnDataDependent|Could not guard on", text):
        cause = _seen_at(prepared, place)
        if cause is None:
            return refusal(prepared.label, "data-dependent-branch", place)
        return refusal(prepared.label, cause.rule, cause.place, detail=cause.what)
    if re.search(r"Constraints violated|was inferred to be a constant|specialized", text):
        return _stuck_axis(prepared, text)
    failure = f"torch.export cannot trace the model: {type(error).__name__}: {text[:400]}{place.phrase}"
    if entry is not None and not entry.general:
        return refusal(prepared.label, entry.id, place, detail=failure)
    return ExportError(f"{prepared.label}: {failure}.", rule=entry.id if entry is not None else None)
