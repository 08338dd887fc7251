"""The graph that ONNX Runtime's optimiser makes of a file."""

from __future__ import annotations

import onnx

from attn_deploy.errors import GraphError
from attn_deploy.files import scratch_folder
from attn_deploy.runtimes.onnxruntime import exact_int8, import_onnxruntime


def optimised_graph(model: onnx.ModelProto, *, portable: bool = False) -> onnx.ModelProto:
    """What a session on the CPU runs, read back from what it saves.

    Args:
        model: the graph.
        portable: leave out the layouts that only this processor has, so that the result runs on others.

    Raises:
        GraphError: if ONNX Runtime refuses the model.
        MissingDependencyError: if onnxruntime is not installed.
    """
    ort = import_onnxruntime()
    level = ort.GraphOptimizationLevel
    with scratch_folder() as folder:
        saved = folder / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = level.ORT_ENABLE_EXTENDED if portable else level.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(saved)
        if not portable:
            for key, value in exact_int8().items():
                options.add_session_config_entry(key, value)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the binding raises a dozen classes of its own
            raise GraphError(
                f"ONNX Runtime cannot load the model: {str(error).strip().splitlines()[0][:500]}"
            ) from error
        return onnx.load(saved)
