"""Which exporter is tried first, and why the one whose graph was kept was."""

from __future__ import annotations

from collections.abc import Sequence

from attn_deploy.errors import AttnDeployError
from attn_deploy.exporters.options import DYNAMO_MIN_OPSET, ExportOptions
from attn_deploy.exporters.prepared import PreparedModel


def exporters_for(prepared: PreparedModel, options: ExportOptions) -> Sequence[str]:
    """The exporters to try: TorchScript first where torch.export takes minutes, or is known to hold an axis in the end."""
    order = options.exporter_order()
    quick = prepared.whole_windows or _single_step(prepared)
    return sorted(order, key=lambda name: name != "torchscript") if quick else order


def _single_step(prepared: PreparedModel) -> str:
    """An axis that is traced at its least step, 224 of 224: torch.export takes such a size for the number; empty if none."""
    first = prepared.inputs[0]
    steps = {s: first.multiple.get(s, 1) for s in prepared.dynamic if s[0] != "N"}
    return next((s for s, step in steps.items() if step > 1 and first.sizes[s] == step), "")


def reason_for_exporter(
    prepared: PreparedModel, options: ExportOptions, name: str, failures: list[tuple[str, AttnDeployError]]
) -> str:
    """Why the graph of an exporter was kept, with what the other one said if it was tried."""
    if prepared.trace_sizes:
        sizes = " x ".join(str(n) for s, n in prepared.trace_sizes.items())
        return f"traced at {sizes}, where decisions on sizes go the general way: {failures[-1][1]}"
    if options.exporter != "auto":
        return "asked for"
    if failures:
        return f"{failures[0][0]} failed: {failures[0][1]}"
    first = name == "torchscript" and options.exporter_order()[0] != name
    if first and not prepared.whole_windows:
        axis = _single_step(prepared)
        return f"{axis} moves by steps of its traced size, which torch.export takes for a constant"
    if first:
        return "maps are padded to whole windows again and again, which torch.export takes minutes to follow"
    if name == "dynamo":
        return f"has operators for opset {DYNAMO_MIN_OPSET} and above"
    return f"writes opset {options.opset} itself; dynamo writes {DYNAMO_MIN_OPSET} and needs a conversion"
