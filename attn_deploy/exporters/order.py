"""Which exporter is tried first, and why the one whose graph was kept was."""

from __future__ import annotations

from collections.abc import Sequence

from attn_deploy.errors import AttnDeployError
from attn_deploy.exporters.options import DYNAMO_MIN_OPSET, ExportOptions
from attn_deploy.exporters.prepared import PreparedModel


def exporters_for(prepared: PreparedModel, options: ExportOptions) -> Sequence[str]:
    """The exporters to try: of padding to whole windows TorchScript has the trace in seconds, torch.export in minutes."""
    order = options.exporter_order()
    return sorted(order, key=lambda name: name != "torchscript") if prepared.whole_windows else order


def reason_of(
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
    if prepared.whole_windows and name == "torchscript" and options.exporter_order()[0] != name:
        return "maps are padded to whole windows again and again, which torch.export takes minutes to follow"
    if name == "dynamo":
        return f"has operators for opset {DYNAMO_MIN_OPSET} and above"
    return f"writes opset {options.opset} itself; dynamo writes {DYNAMO_MIN_OPSET} and needs a conversion"
