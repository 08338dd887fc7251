"""Which precisions this version can convert a graph to: one place to ask, so that a new one needs no change elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attn_deploy

if TYPE_CHECKING:
    from attn_deploy.graph.artifact import OnnxArtifact

Converter = Callable[["OnnxArtifact", Path], "OnnxArtifact"]


def missing_precision(precision: str) -> str:
    """Why a precision cannot be had; empty if it can."""
    return "" if precision == "fp32" or converter(precision) is not None else _missing(precision)


def _missing(precision: str) -> str:
    return f"{precision} is not available in this version (attn-deploy {attn_deploy.__version__})."


def converter(precision: str) -> Converter | None:
    """The public function that gives a file in ``precision``, or None where this version has none."""
    if precision == "int8":
        quantize: Any = _public("quantize")
        return None if quantize is None else lambda artifact, path: quantize(artifact, path)
    convert: Any = _public("convert")
    if convert is None or "precision" not in inspect.signature(convert).parameters:
        return None
    return lambda artifact, path: convert(artifact, path, precision=precision)


def _public(name: str) -> Any:
    return getattr(attn_deploy, name) if name in attn_deploy.__all__ else None
