"""Opsets before 13, which are raised to 13 by onnx's own converter before anything else is done with a graph.

The converter is native code that has crashed on valid models, so it runs in a child process. Whether the numbers stayed the
same is for the caller to verify.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import version_converter

from attn_deploy.errors import GraphError, OpsetError
from attn_deploy.files import scratch_folder
from attn_deploy.graph.artifact import check_model, load_model, serialised
from attn_deploy.graph.opset.conversion import standard_opset
from attn_deploy.graph.placed import inflated
from attn_deploy.graph.versions import IR_VERSIONS, MIN_OPSET
from attn_deploy.isolate import run_isolated

OLDEST = 4  # below, onnx's converter lacks steps; ONNX Runtime runs most of opset 4 to 6 without promising it
_TIMEOUT_SECONDS = 300.0


def raise_old_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at opset 13 where it is older; the same model otherwise.

    Raises:
        OpsetError: if it is older than 7, or an operator of it cannot be raised.
    """
    source = standard_opset(model)
    if source >= MIN_OPSET:
        return model
    if source < OLDEST:
        raise OpsetError(
            f"the model's opset is {source}; opsets {OLDEST} and above can be read. Export the model again.",
            exit_code=2,
        )
    with scratch_folder() as folder:
        before, after = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        before.write_bytes(serialised(inflated(model)))
        run_isolated(
            "attn_deploy.graph.opset.old:_in_child",
            {"source": str(before), "target": str(after)},
            what=f"raising the model from opset {source} to {MIN_OPSET}",
            timeout=_TIMEOUT_SECONDS,
        )
        raised = load_model(after, check_seal=False)
    del raised.metadata_props[:]
    raised.metadata_props.extend(model.metadata_props)
    raised.ir_version = max(IR_VERSIONS[MIN_OPSET], model.ir_version)
    try:
        check_model(raised, f"the graph raised to opset {MIN_OPSET}")
    except GraphError as error:
        raise OpsetError(f"the model cannot be raised from opset {source} to {MIN_OPSET}: {error}") from error
    return raised


def _in_child(emit: Callable[[dict[str, Any]], None], source: str, target: str) -> None:
    model = onnx.load(source)
    try:
        raised = version_converter.convert_version(model, MIN_OPSET)
    except Exception as error:  # the converter's own class is not exported
        raise OpsetError(f"the model cannot be raised to opset {MIN_OPSET}: {' '.join(str(error).split())}") from error
    onnx.save(raised, target)
