"""The simplifiers themselves, as the child process of `attn_deploy.graph.simplify` runs them.

What a child imports is paid by every export: no more than onnx and the tool.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import onnx

from attn_deploy.errors import GraphError


def simplify_file(emit: Callable[[dict[str, Any]], None], source: str, target: str, tool: str) -> None:
    """Simplify a file with a tool, in this process.

    Args:
        emit: as every function that `attn_deploy.isolate.run_isolated` calls takes; nothing is emitted.
        source: the file.
        target: the file to write.
        tool: onnxsim or onnxslim.

    Raises:
        GraphError: if the tool says that its own result is wrong.
    """
    model = onnx.load(source)
    if tool == "onnxsim":
        # onnxsim imports torch where it is installed, for bridges that are not used here: 1.5 s of this child's 2.5.
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
        import onnxsim

        simplified, valid = onnxsim.simplify(model)
        if not valid:
            raise GraphError("onnxsim's own check says that its result differs from the original")
    else:
        import onnxslim

        simplified = onnxslim.slim(model)
    onnx.save(simplified, target)
