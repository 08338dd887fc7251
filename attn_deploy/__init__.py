"""Vision models with attention, out of PyTorch and onto real hardware, with evidence.

The public names below are imported on first use, so that ``import attn_deploy`` costs milliseconds and the device side
(``build``, ``inspect``, ``profile`` on files) works where torch is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it.
_PUBLIC = {
    "AccuracyResult": "attn_deploy.accuracy.result",
    "AttnDeployError": "attn_deploy.errors",
    "Diagnosis": "attn_deploy.faults.record",
    "EngineArtifact": "attn_deploy.engine.artifact",
    "ExportOptions": "attn_deploy.exporters.options",
    "MatrixDiff": "attn_deploy.matrix.diff",
    "MatrixOptions": "attn_deploy.matrix.options",
    "MatrixRecord": "attn_deploy.matrix.record",
    "ModelSpec": "attn_deploy.registry",
    "GraphReport": "attn_deploy.inspection",
    "LintReport": "attn_deploy.linting",
    "OnnxArtifact": "attn_deploy.graph.artifact",
    "ParityReport": "attn_deploy.parity.report",
    "ProfileRecord": "attn_deploy.bench.record",
    "TrainingRecord": "attn_deploy.training.record",
    "build": "attn_deploy.engine.builder",
    "convert": "attn_deploy.conversion",
    "create": "attn_deploy.models",
    "diagnose": "attn_deploy.faults.diagnose",
    "diff_graphs": "attn_deploy.inspection",
    "evaluate": "attn_deploy.accuracy.evaluate",
    "explain": "attn_deploy.diagnosis.rules",
    "export": "attn_deploy.exporters.pipeline",
    "fold_bn": "attn_deploy.fusing",
    "fuse": "attn_deploy.fusing",
    "fuse_conv_bn": "attn_deploy.ops",
    "fuse_with_report": "attn_deploy.fusing",
    "inspect": "attn_deploy.inspection",
    "lint": "attn_deploy.linting",
    "list_models": "attn_deploy.registry",
    "load_official_state_dict": "attn_deploy.official",
    "profile": "attn_deploy.bench.profiler",
    "quantize": "attn_deploy.quantization",
    "register": "attn_deploy.registry",
    "run_matrix": "attn_deploy.matrix.run",
    "simplify": "attn_deploy.conversion",
    "train": "attn_deploy.training.run",
    "verify": "attn_deploy.parity.verify",
}

__all__ = ["__version__", *sorted(_PUBLIC)]

if TYPE_CHECKING:
    from attn_deploy.accuracy.evaluate import evaluate as evaluate
    from attn_deploy.accuracy.result import AccuracyResult as AccuracyResult
    from attn_deploy.bench.profiler import profile as profile
    from attn_deploy.bench.record import ProfileRecord as ProfileRecord
    from attn_deploy.conversion import convert as convert
    from attn_deploy.conversion import simplify as simplify
    from attn_deploy.diagnosis.rules import explain as explain
    from attn_deploy.engine.artifact import EngineArtifact as EngineArtifact
    from attn_deploy.engine.builder import build as build
    from attn_deploy.errors import AttnDeployError as AttnDeployError
    from attn_deploy.exporters.options import ExportOptions as ExportOptions
    from attn_deploy.exporters.pipeline import export as export
    from attn_deploy.faults.diagnose import diagnose as diagnose
    from attn_deploy.faults.record import Diagnosis as Diagnosis
    from attn_deploy.fusing import fold_bn as fold_bn
    from attn_deploy.fusing import fuse as fuse
    from attn_deploy.fusing import fuse_with_report as fuse_with_report
    from attn_deploy.graph.artifact import OnnxArtifact as OnnxArtifact
    from attn_deploy.inspection import GraphReport as GraphReport
    from attn_deploy.inspection import diff_graphs as diff_graphs
    from attn_deploy.inspection import inspect as inspect
    from attn_deploy.linting import LintReport as LintReport
    from attn_deploy.linting import lint as lint
    from attn_deploy.matrix.diff import MatrixDiff as MatrixDiff
    from attn_deploy.matrix.options import MatrixOptions as MatrixOptions
    from attn_deploy.matrix.record import MatrixRecord as MatrixRecord
    from attn_deploy.matrix.run import run_matrix as run_matrix
    from attn_deploy.models import create as create
    from attn_deploy.official import load_official_state_dict as load_official_state_dict
    from attn_deploy.ops import fuse_conv_bn as fuse_conv_bn
    from attn_deploy.parity.report import ParityReport as ParityReport
    from attn_deploy.parity.verify import verify as verify
    from attn_deploy.quantization import quantize as quantize
    from attn_deploy.registry import ModelSpec as ModelSpec
    from attn_deploy.registry import list_models as list_models
    from attn_deploy.registry import register as register
    from attn_deploy.training.record import TrainingRecord as TrainingRecord
    from attn_deploy.training.run import train as train


def __getattr__(name: str) -> Any:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'attn_deploy' has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return __all__
