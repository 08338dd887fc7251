"""Both files of a pair: the plain formulation as a user would export it, the zoo module as this package exports it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnxsim
import torch

from attn_deploy.errors import AttnDeployError, ExportError
from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.pipeline import export_prepared
from attn_deploy.exporters.prepare import prepare
from attn_deploy.exporters.prepared import PreparedModel
from attn_deploy.exporters.quiet import quiet_torch
from attn_deploy.graph.artifact import check_model
from attn_deploy.inputs.tensors import TensorInput, dynamic_symbols
from attn_deploy.parity.reference import EagerReference
from attn_deploy.parity.tolerance import Tolerance
from attn_deploy.parity.verify import compare
from attn_deploy.runtimes.base import Runner
from attn_deploy.runtimes.eager import EagerRunner
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

from .cases import Pair
from .messages import without_paths

# The TorchScript exporter is what most public recipes call; the other one is asked where it refuses.
ATTEMPTS = (("torchscript", 17, True), ("torchscript", 17, False), ("dynamo", 18, False))
SAME_MATHS = Tolerance(rtol=1e-6, atol=1e-7)


@dataclass(frozen=True, slots=True)
class Exported:
    """One ONNX file, with the axes that move in it."""

    model: bytes
    exporter: str
    opset: int
    dynamic: tuple[str, ...]
    nodes: int
    inputs: tuple[TensorInput, ...]  # with the sizes that the plain formulation takes


def check_modules_agree(pair: Pair) -> None:
    """Compare both modules in float64, at the size of the pair: there the same maths is the same number.

    In float32 both sides of an ill-conditioned block (iau3d) differ from float64 by amounts that vary from run to run.

    Raises:
        ParityError: if they differ by more than the rounding of float32 constants.
    """
    plain, zoo = (_precise(pair, module) for module in (pair.plain, pair.zoo.module))
    report = compare(plain, zoo, pair.inputs, (), tolerance=SAME_MATHS)
    report.raise_if_failed(f"{pair.name}, plain and zoo module")


def export_pair(pair: Pair) -> tuple[Exported, Exported, str]:
    """Export both: with moving axes where the plain form allows it, else both at the fixed size.

    Returns:
        The plain file, the zoo's file, and why the axes do not move or another exporter was used (or nothing).

    Raises:
        ExportError: if no exporter gives a right file of the plain formulation.
        ParityError: if the zoo's file is wrong.
    """
    reasons = []
    for exporter, opset, moving in ATTEMPTS:
        dynamic = dynamic_symbols(pair.inputs, pair.zoo.dynamic, pair.zoo.dynamic, pair.name) if moving else ()
        try:
            plain = _export_plain(pair, exporter, opset, dynamic)
        except AttnDeployError as error:
            axes = ", ".join(dynamic) or "no axis"
            said = without_paths(str(error))[:200]
            reasons.append(f"{exporter}, {axes} moving: {said}")
            continue
        return plain, _export_zoo(pair, plain), "; ".join(reasons)
    raise ExportError(f"{pair.name}: the plain formulation does not export: {'; '.join(reasons)}")


def _export_plain(pair: Pair, exporter: str, opset: int, dynamic: tuple[str, ...]) -> Exported:
    prepared = prepare(pair.plain, inputs=pair.inputs, dynamic=dynamic, fuse=False, rewrite=False)
    prepared = replace(prepared, outputs=pair.zoo.outputs or prepared.outputs)
    raw = _translate(prepared, exporter, opset)
    check_model(raw, f"{pair.name}, plain")
    simplified, valid = onnxsim.simplify(raw)
    if not valid:
        raise ExportError(f"{pair.name}, plain: onnxsim found its own result to differ from the original.")
    model = simplified.SerializeToString()
    _check_file(pair, model, prepared.inputs, dynamic, "plain")
    return Exported(model, exporter, opset, dynamic, len(simplified.graph.node), prepared.inputs)


def _translate(prepared: PreparedModel, exporter: str, opset: int) -> onnx.ModelProto:
    """Call torch.onnx.export as its documentation does; whether the file is right is found out afterwards."""
    axes = {i.name: {a: str(d) for a, d in enumerate(i.dims) if prepared.moves(d)} for i in prepared.inputs}
    for name, dims in zip(prepared.outputs, prepared.output_dims, strict=True):
        axes[name] = {a: d for a, d in enumerate(dims) if isinstance(d, str)}
    options = {"dynamic_axes": axes, "do_constant_folding": True} if exporter == "torchscript" else {"verbose": False}
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder, quiet_torch():
        path = Path(folder, "plain.onnx")
        try:
            torch.onnx.export(
                prepared.module,
                prepared.example(),
                path,
                dynamo=exporter == "dynamo",
                opset_version=opset,
                input_names=[i.name for i in prepared.inputs],
                output_names=list(prepared.outputs),
                **options,
            )
        except Exception as error:  # whatever an exporter of torch raises, the next attempt is due
            raise ExportError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
        return onnx.load(path)


def _export_zoo(pair: Pair, plain: Exported) -> Exported:
    opset, dynamic = plain.opset, plain.dynamic
    prepared = prepare(pair.zoo, dynamic=dynamic)
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
        path = Path(folder, "zoo.onnx")
        # Verified below, against the plain module.
        artifact = export_prepared(prepared, path, ExportOptions(opset=opset, dynamic=dynamic, verify=False))
        model = path.read_bytes()
    _check_file(pair, model, plain.inputs, dynamic, "zoo")
    return Exported(model, str(artifact.record["exporter"]), opset, dynamic, artifact.nodes, prepared.inputs)


def _check_file(
    pair: Pair, model: bytes, inputs: tuple[TensorInput, ...], dynamic: tuple[str, ...], which: str
) -> None:
    """Compare a file with the plain module, at the traced size and, where axes move, at another."""
    file = OnnxRuntimeRunner(model)
    right = EagerReference(pair.plain, pair.zoo.outputs)
    try:
        report = compare(right.runner, file, inputs, dynamic, rounding=right.rounding, shapes=1)
    except RuntimeError as error:  # the plain formulation itself takes only some sizes
        raise ExportError(f"{pair.name}: PyTorch runs it at no such size: {' '.join(str(error).split())}") from error
    report.raise_if_failed(f"{pair.name}, {which} file")


def _precise(pair: Pair, module: torch.nn.Module) -> Runner:
    return EagerRunner(module, output_names=pair.zoo.outputs, dtype=torch.float64)
