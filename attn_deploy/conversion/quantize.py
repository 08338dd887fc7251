"""From a float graph to a proven one in 8 bits: measure ranges, compare methods, find what is sensitive, judge, write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import onnx

from attn_deploy.conversion.calibration import NO_OPTIONS
from attn_deploy.conversion.convert import at_opset
from attn_deploy.conversion.preprocess import Preprocess, PreprocessOptions
from attn_deploy.conversion.quantizer import Progress, Quantizer
from attn_deploy.data import ImageSet
from attn_deploy.errors import GraphError, InvalidRequestError, OpsetError, PrecisionError
from attn_deploy.files import atomic_path, output_file
from attn_deploy.graph.artifact import OnnxArtifact, open_model, read_onnx
from attn_deploy.graph.opset import standard_opset
from attn_deploy.graph.quantize import METHODS, QuantFormat, QuantOptions, quant_format
from attn_deploy.machine.environment import find_gpus
from attn_deploy.parity.given import GivenInputs, given_inputs
from attn_deploy.parity.judge import Limit
from attn_deploy.runtimes.onnxruntime import import_onnxruntime

_SCALES_IN_HALF = 19  # the first opset whose QuantizeLinear takes fp16
_NO_FORM = QuantOptions()


def quantize_file(
    source: OnnxArtifact | Path | str,
    path: Path | str | None = None,
    *,
    precision: str = "int8",
    calibration: str | Path | ImageSet | None = None,
    images: int | None = None,
    method: str = "auto",
    keep_accuracy: float | None = None,
    size: int | tuple[int, int] | None = None,
    data_dir: Path | str | None = None,
    seed: int = 0,
    preprocess: PreprocessOptions = NO_OPTIONS,
    usual: Preprocess | None = None,
    scores: str | None = None,
    inputs: Sequence[str] = (),
    samples: Sequence[Path | str] = (),
    form: QuantOptions = _NO_FORM,
    owner: str | None = None,
    progress: Progress | None = None,
) -> OnnxArtifact:
    """Quantize the products of an ONNX file, and judge the result on samples that no range was measured on.

    With explicit QuantizeLinear and DequantizeLinear pairs, in the form of the runtime that will run it. For GPUs:
    symmetric, a scale for each output channel of weights (fp8: for each tensor), biases left in float, what is not a
    product in the type of the file, fp32 or fp16: what TensorRT and TensorRT-RTX build. For CPUs: with zero points, biases
    of int32, and pairs on both sides of all that ONNX Runtime has kernels for. Where the result
    is worse than asked, the layers that alone cause the largest error are left in float, as few as are needed.

    Args:
        source: the file, or its artifact.
        path: the file to write; by default ``<name>-int8.onnx`` beside the source.
        precision: int8 or fp8 (E4M3, for compute capability 8.9 and above; raises the opset to 19).
        calibration: what ranges are measured on, see `attn_deploy.conversion.calibration.load_calibration`. By default ramped
            noise, which says little of real images.
        images: how many images or samples to measure on; 512 of a set of images, all of an ``.npz``.
        method: minmax (the largest value), entropy (least loss of information), percentile (99.99 %), or auto: each is
            tried, and that with the fewest changed answers, then the least error, is taken.
        keep_accuracy: points of top-1 that may be lost on held-out samples; where labels are not known, the share of
            answers that may change, in points. None bounds the error of the output instead, at 10 %.
        size: side, or height and width, of the images of a folder, where the graph takes any.
        data_dir: see `attn_deploy.data.load_dataset`.
        seed: of the choice of images.
        preprocess: what is done to images before the graph sees them: a preset, mean, std, scale, colours, layout, resizing.
        usual: what is done where ``preprocess`` does not say, if the model's package or record says so.
        scores: the output that holds a score for each class, for top-1; by default one behind a softmax or sigmoid, or as
            wide as there are classes in the labels.
        inputs: shapes to run the graph at, as ``NAME:1x3x64x64``; by default some that it runs at.
        samples: ``.npz`` files with real inputs, an array for each: what ranges are measured and the result is judged on,
            where no ``calibration`` is given.
        form: the target, and what else can be said of the form; without a target GPUs for fp8, for files in fp16 and on
            machines with a GPU, else CPUs.
        owner: how messages name the model; by its file where None.
        progress: called with a few words at each step.

    Returns:
        What was read back from the finished file; ``metadata["quantization"]`` tells how it was made and judged.

    Raises:
        NothingToConvertError: if the graph has no product that can be quantized.
        PrecisionError: if it is quantized already, or the limit is not met whatever is left in float.
        ParityError: if ONNX Runtime gives other numbers for the file than its Q/DQ pairs mean.
        InvalidRequestError: if an option or the calibration data cannot be used.
        DatasetError: if images are missing or damaged.
        OpsetError: if the file cannot be raised to the opset that the type needs.
        GraphError: if the file cannot be read, or does not run.
        MissingDependencyError: if onnxruntime is not installed.
    """
    kind = quant_format(precision)
    limit = check_options(method, keep_accuracy)
    form.check()
    if images is not None and images < 1:
        raise InvalidRequestError(f"{images} images were asked for; --images takes at least 1.")
    report = progress or (lambda _: None)
    source = source.path if isinstance(source, OnnxArtifact) else Path(source)
    target = output_file(path, source.with_name(f"{source.stem}-{kind.word}.onnx"), (".onnx",))
    import_onnxruntime()
    model, _ = open_model(source)
    given = given_inputs(model, inputs, samples)
    raised = _raised(source, model, kind, given)
    form = replace(form, target=form.target or usual_target(raised, kind))
    quantizer = Quantizer(raised, kind, form, owner or str(source), report, given)
    quantized = quantizer.run(
        calibration,
        methods=METHODS if method == "auto" else (method,),
        limit=limit,
        images=images,
        size=size,
        data_dir=data_dir,
        seed=seed,
        preprocess=preprocess,
        usual=usual,
        scores=scores,
    )
    with atomic_path(target) as temporary:
        try:
            onnx.save(quantized.model, temporary)
        except ValueError as error:  # protobuf stops at 2 GiB
            raise GraphError(f"{target} cannot be written as one file: {error}") from error
        written = read_onnx(temporary)
        pairs = written.operators.get("QuantizeLinear", 0)
        if (form.written == "qdq" and pairs != quantized.pairs) or written.opset != standard_opset(raised):
            raise GraphError(
                f"{target}: {quantized.pairs} pairs at opset {standard_opset(raised)} were written, and the file holds "
                f"{pairs} at opset {written.opset}."
            )
    if quantizer.speed is None:
        return replace(written, path=target)
    # Beside the file's own: a time in the file would make another file of each run.
    return replace(written, path=target, metadata={**written.metadata, "speed": json.dumps(quantizer.speed)})


def usual_target(model: onnx.ModelProto, form: QuantFormat) -> Literal["cpu", "gpu"]:
    """What a graph is quantized for where nobody says: GPUs where only they have the type, or where there is one."""
    half = any(i.data_type == onnx.TensorProto.FLOAT16 for i in model.graph.initializer)
    return "gpu" if form.word != "int8" or half or find_gpus()[0] else "cpu"


def check_options(method: str, keep_accuracy: float | None) -> Limit:
    """The limit that the options set.

    Raises:
        InvalidRequestError: if the method is unknown or the limit is no share.
    """
    if method not in (*METHODS, "auto"):
        raise InvalidRequestError(f"the calibration method {method!r} is unknown; use auto, {', '.join(METHODS)}.")
    if keep_accuracy is not None and not 0 <= keep_accuracy < 100:
        raise InvalidRequestError(f"--keep-accuracy must be at least 0 and below 100, not {keep_accuracy:g}.")
    return Limit(keep_accuracy)


def _raised(source: Path, model: onnx.ModelProto, form: QuantFormat, given: GivenInputs) -> onnx.ModelProto:
    """The model at an opset that has the type, and scales of the model's own type."""
    half = any(i.data_type == onnx.TensorProto.FLOAT16 for i in model.graph.initializer)
    least = max(form.first_opset, _SCALES_IN_HALF if half else 0)
    if any(i.data_type == onnx.TensorProto.BFLOAT16 for i in model.graph.initializer):
        raise PrecisionError(
            f"{source} is in bf16, whose numbers ONNX Runtime cannot compute on a CPU, so ranges cannot be measured. "
            "Quantize the fp32 or the fp16 file."
        )
    if standard_opset(model) >= least:
        return model
    try:
        return at_opset(source, model, least, given)
    except OpsetError as error:
        raise OpsetError(f"{form.word} needs opset {least}, and {error}") from error
