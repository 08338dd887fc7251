"""What `attn_deploy.lint` may be asked for. No torch: a wrong word is answered at once."""

from __future__ import annotations

from attn_deploy.errors import InvalidRequestError
from attn_deploy.exporters.options import ExportOptions

TARGETS = ("onnxruntime", "tensorrt", "tensorrt-rtx")


def check_lint(opset: int, target: str) -> None:
    """Refuse an opset or a target that there is not.

    Raises:
        OpsetError: for the opset.
        InvalidRequestError: for the target.
    """
    ExportOptions(opset=opset)
    if target not in TARGETS:
        raise InvalidRequestError(f"target {target!r} is unknown: choose {', '.join(TARGETS)}.")
