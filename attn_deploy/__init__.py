"""Vision models with attention, out of PyTorch and onto real hardware, with evidence.

The public names below are imported on first use, so that ``import attn_deploy`` costs milliseconds and the device side
(``build``, ``inspect``, ``profile`` on files) works where torch is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attn_deploy._version import __version__

# Public name -> the module that defines it.
_PUBLIC = {
    "AccuracyResult": "attn_deploy.accuracy.result",
    "AttnDeployError": "attn_deploy.errors",
    "Diagnosis": "attn_deploy.diagnosis.record",
    "EngineArtifact": "attn_deploy.engine.artifact",
    "ExportOptions": "attn_deploy.exporters.options",
    "MatrixDiff": "attn_deploy.matrix.diff",
    "MatrixOptions": "attn_deploy.matrix.options",
    "MatrixRecord": "attn_deploy.matrix.record",
    "ModelSpec": "attn_deploy.registry",
    "GraphReport": "attn_deploy.diagnosis.contents",
    "LintReport": "attn_deploy.diagnosis.lint",
    "OnnxArtifact": "attn_deploy.graph.artifact",
    "ParityReport": "attn_deploy.parity.report",
    "ProfileRecord": "attn_deploy.bench.record",
    "TrainingRecord": "attn_deploy.training.record",
    "as_layer": "attn_deploy.resolve.insert",
    "build": "attn_deploy.engine.builder",
    "convert": "attn_deploy.conversion.convert",
    "create": "attn_deploy.resolve.resolve",
    "diagnose": "attn_deploy.diagnosis.diagnose",
    "diff_graphs": "attn_deploy.diagnosis.contents",
    "evaluate": "attn_deploy.accuracy.evaluate",
    "explain": "attn_deploy.rules.rules",
    "export": "attn_deploy.exporters.pipeline",
    "fold_bn": "attn_deploy.fusing",
    "fuse": "attn_deploy.fusing",
    "fuse_conv_bn": "attn_deploy.ops",
    "fuse_with_report": "attn_deploy.fusing",
    "insert": "attn_deploy.resolve.insert",
    "inspect": "attn_deploy.diagnosis.contents",
    "lint": "attn_deploy.diagnosis.lint",
    "list_models": "attn_deploy.registry",
    "load_official_state_dict": "attn_deploy.resolve.official",
    "Package": "attn_deploy.deploy.package.make",
    "PackageRequest": "attn_deploy.deploy.package.request",
    "package": "attn_deploy.deploy.package.make",
    "profile": "attn_deploy.bench.profiler",
    "quantize": "attn_deploy.deploy.quantize",
    "register": "attn_deploy.registry",
    "run_file": "attn_deploy.deploy.run",
    "run_matrix": "attn_deploy.matrix.run",
    "simplify": "attn_deploy.conversion.convert",
    "train": "attn_deploy.training.run",
    "trusting": "attn_deploy.resolve.trust",
    "unguarded": "attn_deploy.guarding",
    "verify": "attn_deploy.parity.verify",
    "verify_package": "attn_deploy.deploy.package.check",
    "verify_files": "attn_deploy.parity.files",
}

# Functions that read .onnx and .engine files: native code may die on those of others, and then takes no caller with it.
_GUARDED = {
    "build", "convert", "diagnose", "diff_graphs", "evaluate", "inspect", "package", "profile", "quantize", "run_file",
    "simplify", "verify_files",
}  # fmt: skip
_GUARDED_ALWAYS = {"verify_package"}

__all__ = ["__version__", *sorted(_PUBLIC)]

if TYPE_CHECKING:
    from attn_deploy.accuracy.evaluate import evaluate as evaluate
    from attn_deploy.accuracy.result import AccuracyResult as AccuracyResult
    from attn_deploy.bench.profiler import profile as profile
    from attn_deploy.bench.record import ProfileRecord as ProfileRecord
    from attn_deploy.conversion.convert import convert as convert
    from attn_deploy.conversion.convert import simplify as simplify
    from attn_deploy.deploy.package.check import verify_package as verify_package
    from attn_deploy.deploy.package.make import Package as Package
    from attn_deploy.deploy.package.make import package as package
    from attn_deploy.deploy.package.request import PackageRequest as PackageRequest
    from attn_deploy.deploy.quantize import quantize as quantize
    from attn_deploy.deploy.run import run_file as run_file
    from attn_deploy.diagnosis.contents import GraphReport as GraphReport
    from attn_deploy.diagnosis.contents import diff_graphs as diff_graphs
    from attn_deploy.diagnosis.contents import inspect as inspect
    from attn_deploy.diagnosis.diagnose import diagnose as diagnose
    from attn_deploy.diagnosis.lint import LintReport as LintReport
    from attn_deploy.diagnosis.lint import lint as lint
    from attn_deploy.diagnosis.record import Diagnosis as Diagnosis
    from attn_deploy.engine.artifact import EngineArtifact as EngineArtifact
    from attn_deploy.engine.builder import build as build
    from attn_deploy.errors import AttnDeployError as AttnDeployError
    from attn_deploy.exporters.options import ExportOptions as ExportOptions
    from attn_deploy.exporters.pipeline import export as export
    from attn_deploy.fusing import fold_bn as fold_bn
    from attn_deploy.fusing import fuse as fuse
    from attn_deploy.fusing import fuse_with_report as fuse_with_report
    from attn_deploy.graph.artifact import OnnxArtifact as OnnxArtifact
    from attn_deploy.guarding import unguarded as unguarded
    from attn_deploy.matrix.diff import MatrixDiff as MatrixDiff
    from attn_deploy.matrix.options import MatrixOptions as MatrixOptions
    from attn_deploy.matrix.record import MatrixRecord as MatrixRecord
    from attn_deploy.matrix.run import run_matrix as run_matrix
    from attn_deploy.ops import fuse_conv_bn as fuse_conv_bn
    from attn_deploy.parity.files import verify_files as verify_files
    from attn_deploy.parity.report import ParityReport as ParityReport
    from attn_deploy.parity.verify import verify as verify
    from attn_deploy.registry import ModelSpec as ModelSpec
    from attn_deploy.registry import list_models as list_models
    from attn_deploy.registry import register as register
    from attn_deploy.resolve.insert import as_layer as as_layer
    from attn_deploy.resolve.insert import insert as insert
    from attn_deploy.resolve.official import load_official_state_dict as load_official_state_dict
    from attn_deploy.resolve.resolve import create as create
    from attn_deploy.resolve.trust import trusting as trusting
    from attn_deploy.rules.rules import explain as explain
    from attn_deploy.training.record import TrainingRecord as TrainingRecord
    from attn_deploy.training.run import train as train


def __getattr__(name: str) -> Any:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'attn_deploy' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    if name in _GUARDED or name in _GUARDED_ALWAYS:
        from attn_deploy.guarding import guarded

        value = globals()[name] = guarded(value, always=name in _GUARDED_ALWAYS)
    return value


def __dir__() -> list[str]:
    return __all__
