"""From a model's name, or a file, in any precision, to an engine: what `attn-deploy build` does. Files need no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attn_deploy.deploy.prepare import prepared_file
from attn_deploy.engine.artifact import EngineArtifact
from attn_deploy.engine.builder import build
from attn_deploy.engine.options import BuildSettings, RequestSettings
from attn_deploy.engine.request import check_request
from attn_deploy.errors import InvalidRequestError, PrecisionError
from attn_deploy.files import output_file
from attn_deploy.graph.artifact import OnnxArtifact, read_onnx
from attn_deploy.machine.devices import PRECISIONS, load_device

if TYPE_CHECKING:
    from typing_extensions import Unpack

_HALF, _QUANTIZED = ("fp16", "bf16"), ("int8", "fp8")
ENDINGS = (".engine", ".plan", ".trt")


def build_model(
    model: Path | str,
    path: Path | str | None = None,
    *,
    precision: str | None = None,
    calibration: Path | str | None = None,
    fix: Mapping[str, int] | None = None,
    rename: Mapping[str, str] | None = None,
    inputs: Sequence[str] = (),
    samples: Sequence[Path | str] = (),
    weights: Path | str | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Unpack[BuildSettings],
) -> EngineArtifact:
    """Build an engine, after exporting, converting or quantizing what it is built from.

    The ONNX file that comes in between stays: it is what the engine's record names and what a rebuild starts from.

    Args:
        model: an ONNX file, or the name of a model.
        path: the engine file; by default beside the ONNX file.
        precision: fp32, fp16, bf16, int8 or fp8, given to the graph first; None leaves a file's own, and is fp32 for names.
        calibration: for int8 and fp8 what ranges are measured on, see `attn_deploy.quantize`; for fp16 an ``.npz``.
        fix: extents of axes of a file, by symbol or as ``images[2]``, see `attn_deploy.deploy.prepare`.
        rename: new names of inputs and outputs of a file.
        inputs: of a model by name, those of its export, as ``1x3x224x224``; of a file, with ``precision``, shapes to compare
            at, as ``NAME:1x3x64x64``.
        samples: with ``precision``, ``.npz`` files with real inputs to measure and compare on.
        weights: a checkpoint for a model by name.
        progress: called with a few words at each step before the build.
        options: those of `attn_deploy.build`.

    Raises:
        PrecisionError: if the precision is unknown, the file is in another one already, or the device lacks it.
        InvalidRequestError: if an option cannot be used.
        AttnDeployError: what `attn_deploy.export`, `convert`, `quantize` and `build` raise.
    """
    if path is not None:
        name = Path(str(model)).stem if _is_file(str(model)) else _stem_of(str(model))
        word = "" if precision in (None, "fp32") else f"-{precision}"
        path = output_file(path, Path(f"{name}{word}.engine"), ENDINGS)
    early = {k: v for k, v in options.items() if k in RequestSettings.__annotations__}
    check_request(path, **cast("RequestSettings", early))  # an export may take a minute: so first
    if precision is not None:
        _check_precision(precision, options.get("device"))
    if calibration is not None and precision in (None, "fp32"):
        raise InvalidRequestError("--calibration belongs to --precision fp16, bf16, int8 or fp8, which was not given.")
    onnx = None if path is None else Path(path).with_suffix(".onnx")
    source, target = str(model), path
    if _is_file(source):
        beside = None if path is None else Path(path).with_name(f"{Path(path).stem}-prepared.onnx")
        ready = prepared_file(Path(source), beside, fix=fix, rename=rename)
        if ready != Path(source) and path is None:
            target = Path(source).with_suffix(".engine")
            onnx = None if precision is None else Path(source).with_name(f"{Path(source).stem}-{precision}.onnx")
            target = target if precision is None else None
        source = str(ready)
    elif fix or rename:
        raise InvalidRequestError("--fix and --rename are for ONNX files: export the model first, then build the file.")
    if weights is not None and _is_file(str(model)):
        raise InvalidRequestError(f"{model} holds its weights; leave --weights out, or name the model.")
    feeds: dict[str, Any] = {"inputs": inputs, "samples": samples}
    if not _is_file(str(model)):
        feeds["weights"] = weights
    force = options.get("force", False)
    graph = _graph(source, onnx, precision, calibration, feeds, progress or (lambda _: None), force=force)
    return build(graph, target, **options)


def _stem_of(model: str) -> str:
    from attn_deploy.resolve.names import parse_name

    return parse_name(model).stem


def _check_precision(precision: str, device: str | None) -> None:
    choices = tuple(p for p in PRECISIONS if p != "tf32")  # a way to compute fp32: --tf32
    if precision not in choices:
        raise PrecisionError(f"the precision {precision!r} is unknown: choose {', '.join(choices)}.", exit_code=2)
    if device is not None:
        load_device(device).check_precision(precision)


def _graph(
    model: str,
    target: Path | None,
    precision: str | None,
    calibration: Path | str | None,
    feeds: Mapping[str, Any],
    progress: Callable[[str], None],
    *,
    force: bool,
) -> OnnxArtifact | Path:
    if _is_file(model):
        return _typed(Path(model), target, precision, calibration, feeds, progress)
    if precision in _QUANTIZED:
        from attn_deploy.deploy.quantize import quantize

        return quantize(
            model, target, precision=precision, calibration=calibration, target="gpu", progress=progress, **feeds
        )
    from attn_deploy.exporters.pipeline import export
    from attn_deploy.inputs.grammar import parse_inputs

    if feeds.get("samples"):
        raise InvalidRequestError("--sample is for ONNX files, and for int8 and fp8: export the model first.")
    feeds = {"inputs": parse_inputs(feeds["inputs"]) if feeds["inputs"] else None, "weights": feeds["weights"]}
    if precision not in _HALF:
        return export(model, target, force=force, progress=progress, **feeds)
    if calibration is None:
        return export(model, target, precision=precision, force=force, progress=progress, **feeds)
    raise InvalidRequestError(
        f"--calibration with --precision {precision} is for ONNX files: export {model!r} first, then build the file."
    )


def _is_file(model: str) -> bool:
    from attn_deploy.resolve.names import PICKLES

    path = Path(model)
    return path.suffix.lower() == ".onnx" or (path.is_file() and path.suffix not in PICKLES)


def _typed(
    path: Path,
    target: Path | None,
    precision: str | None,
    calibration: Path | str | None,
    feeds: Mapping[str, Any],
    progress: Callable[[str], None],
) -> OnnxArtifact | Path:
    """The file itself, or the one that is made from it in the precision."""
    if precision is None:
        return path
    present = read_onnx(path).metadata.get("precision", "fp32")
    if present == precision:
        return path
    if present != "fp32" and not (precision in _QUANTIZED and present in _HALF):
        raise PrecisionError(
            f"{path} is in {present} already and cannot be made {precision}: give the fp32 file that it comes from, or leave "
            "out --precision.",
            exit_code=2,
        )
    if target is not None and target.absolute() == path.absolute():
        target = None  # an engine that is to lie beside its model by name; the file in between gets a name of its own
    if precision in _QUANTIZED:
        from attn_deploy.deploy.quantize import quantize

        return quantize(
            path, target, precision=precision, calibration=calibration, target="gpu", progress=progress, **feeds
        )
    from attn_deploy.conversion.convert import convert

    progress(f"converting to {precision}")
    return convert(path, target, precision=precision, calibration=calibration, **feeds)
