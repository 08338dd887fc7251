"""A graph converted to another precision as an export would, whether or not its numbers are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from attn_deploy.conversion.half import measured_ranges
from attn_deploy.diagnosis.judge import worst_case
from attn_deploy.diagnosis.references import Reference
from attn_deploy.diagnosis.specimen import Specimen, as_it_is
from attn_deploy.files import scratch_folder
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.opset import convert_opset, standard_opset
from attn_deploy.graph.opset.old import raise_old_opset
from attn_deploy.graph.parts import Parts
from attn_deploy.graph.precision import apply_plan, half_type, plan_precision, prepared_graph
from attn_deploy.graph.quantize import FORMATS, QuantOptions
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.inputs.tensors import Arrays


def converted(
    model: onnx.ModelProto,
    precision: str,
    reference: Reference,
    batches: Sequence[Arrays] | None,
    *,
    calibration: Path | str | None,
    by_range: bool,
    owner: str,
    progress: Callable[[str], None],
) -> Specimen:
    """The fp32 graph in another precision; of a half type, with more in fp32 where the rules alone do not do.

    Args:
        model: in fp32.
        precision: fp16, bf16, int8 or fp8.
        reference: what the result is compared with; it knows the inputs.
        batches: what ranges are measured on; None for ramped noise at several sizes.
        calibration: the same for int8 and fp8, as `attn_deploy.quantize` takes it.
        by_range: keep nodes in fp32 whose measured values leave the range.
        owner: for messages.
        progress: called with a few words at each step.

    Raises:
        PrecisionError: if the precision is unknown, the fp32 graph gives NaN, or 8 bits cannot be had.
        OpsetError: if the graph cannot be brought to an opset that has the precision.
    """
    progress(f"converting to {precision}")
    if precision in FORMATS:
        return _quantized(model, precision, calibration, progress)
    measured = batches
    if measured is None:
        sizes = [{}, *verification_sizes(reference.inputs, reference.dynamic)[:2]]
        measured = [example_arrays(reference.inputs, s) for s in sizes]
    first_opset = half_type(precision).first_opset
    model = raise_old_opset(model)
    raised = model if standard_opset(model) >= first_opset else convert_opset(model, first_opset).model

    def candidate(careful: bool) -> Specimen:
        return _typed(raised, precision, measured, by_range=by_range, careful=careful, owner=owner)

    plain = candidate(False)
    if not by_range or worst_case(plain, reference, batches, owner).passed:
        return plain
    careful = candidate(True)
    return careful if worst_case(careful, reference, batches, owner).passed else plain


def _typed(
    model: onnx.ModelProto, precision: str, batches: Sequence[Arrays], *, by_range: bool, careful: bool, owner: str
) -> Specimen:
    half = half_type(precision)
    prepared = prepared_graph(model)
    ranges = measured_ranges(prepared, batches, owner)
    working = ir.from_proto(prepared)
    plan = plan_precision(working, half, ranges, careful=careful)
    overflow = plan.overflow
    if not by_range:
        plan = plan_precision(working, half, None, careful=careful)
    typed = apply_plan(working, plan, same_io=False)
    overflow_note = f"{overflow}; {'kept in fp32' if by_range else 'not kept in fp32'}" if overflow is not None else ""
    return as_it_is(typed.model, Parts(prepared), overflow_note)


def _quantized(
    model: onnx.ModelProto, precision: str, calibration: Path | str | None, progress: Callable[[str], None]
) -> Specimen:
    from attn_deploy.conversion.quantize import quantize_file

    with scratch_folder() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "quantized.onnx"
        onnx.save(model, source)
        form = QuantOptions(target="gpu")
        quantize_file(source, target, precision=precision, calibration=calibration, form=form, progress=progress)
        return as_it_is(load_model(target), Parts(model))
