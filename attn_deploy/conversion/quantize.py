"""From a float graph to a proven one in 8 bits: measure ranges, compare methods, find what is sensitive, judge, write."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from attn_deploy.conversion.calibration import NO_OPTIONS, CalibrationData, load_calibration
from attn_deploy.conversion.convert import at_opset
from attn_deploy.conversion.preprocess import Preprocess, PreprocessOptions, range_warning
from attn_deploy.conversion.sensitivity import sensitivities
from attn_deploy.data import ImageSet
from attn_deploy.errors import (
    FileWarning,
    GraphError,
    InvalidRequestError,
    NothingToConvertError,
    OpsetError,
    ParityError,
    PrecisionError,
)
from attn_deploy.files import atomic_path, output_file
from attn_deploy.graph.artifact import OnnxArtifact, open_model, read_onnx
from attn_deploy.graph.evidence import Evidence, read_evidence, write_evidence
from attn_deploy.graph.opset import standard_opset
from attn_deploy.graph.quantize import (
    METHODS,
    Histogram,
    Layer,
    QuantFormat,
    QuantizedGraph,
    QuantPlan,
    empty_histograms,
    insert_pairs,
    make_plan,
    observed_tensors,
    probes,
    quant_format,
    quantizable_graph,
)
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.parity.given import GivenInputs, given_inputs
from attn_deploy.parity.graphs import inputs_of_samples, runnable_inputs, with_other_batches
from attn_deploy.parity.judge import LARGEST_ERROR, Judge, Judgement, Limit
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner, import_onnxruntime

_SCALES_IN_HALF = 19  # the first opset whose QuantizeLinear takes fp16
_SHOWN = 64
_MEASURED_ELEMENTS = 64 * 3 * 256 * 256  # of the inputs of a run, by the number of tensors that it gives

Progress = Callable[[str], None]


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
    owner: str | None = None,
    progress: Progress | None = None,
) -> OnnxArtifact:
    """Quantize the products of an ONNX file, and judge the result on samples that no range was measured on.

    Symmetric, with explicit QuantizeLinear and DequantizeLinear pairs, a scale for each output channel of weights (fp8:
    for each tensor), biases left in float: what TensorRT and TensorRT-RTX build. What is not a product stays in the type
    of the file, fp32 or fp16. Where the result is worse than asked, the layers that alone cause the largest error are
    left in float, as few as are needed.

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
    form = quant_format(precision)
    limit = check_options(method, keep_accuracy)
    report = progress or (lambda _: None)
    source = source.path if isinstance(source, OnnxArtifact) else Path(source)
    target = output_file(path, source.with_name(f"{source.stem}-{form.word}.onnx"), (".onnx",))
    import_onnxruntime()
    model, _ = open_model(source)
    given = given_inputs(model, inputs, [Path(s) for s in samples])
    raised = _raised(source, model, form, given)
    quantized = _Quantizer(raised, form, owner or str(source), report, given).run(
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
        if pairs != quantized.pairs or written.opset != standard_opset(raised):
            raise GraphError(
                f"{target}: {quantized.pairs} pairs at opset {standard_opset(raised)} were written, and the file holds "
                f"{pairs} at opset {written.opset}."
            )
    return replace(written, path=target)


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


class _Quantizer:
    """One call of `quantize`, from the float graph to the judged one."""

    def __init__(
        self, model: onnx.ModelProto, form: QuantFormat, owner: str, report: Progress, given: GivenInputs
    ) -> None:
        self._form, self._owner, self._tell = form, owner, report
        self._prepared = quantizable_graph(model)
        self._plan = _plan(self._prepared, form, owner)
        self._model = model
        runner = OnnxRuntimeRunner(model.SerializeToString(), optimize=False)
        self._samples = tuple(with_other_batches(given.samples, model, runner)) if given.samples else ()
        if given.samples:
            self._inputs, self._symbols = inputs_of_samples(model, given.samples[0]), tuple[str, ...]()
        else:
            self._inputs, self._symbols = runnable_inputs(model, runner, given)
        runner.close()
        self._ranges: dict[str, float] = {}

    def run(
        self,
        calibration: str | Path | ImageSet | None,
        *,
        methods: Sequence[str],
        limit: Limit,
        images: int | None,
        size: int | tuple[int, int] | None,
        data_dir: Path | str | None,
        seed: int,
        preprocess: PreprocessOptions,
        usual: Preprocess | None,
        scores: str | None,
    ) -> QuantizedGraph:
        """The quantized graph with its evidence in the metadata."""
        if calibration is None and self._samples:
            data = CalibrationData(self._samples, self._samples, None, {"data": "the samples given"})
        else:
            data = load_calibration(
                calibration,
                self._inputs,
                self._symbols,
                images=images,
                size=size,
                data_dir=data_dir,
                seed=seed,
                options=preprocess,
                usual=usual,
            )
        if data.preprocess is not None:
            warning = range_warning(self._model, data.preprocess, self._inputs[0].name)
            if warning:
                warnings.warn(f"{self._owner}: {warning}", FileWarning, stacklevel=2)
        judge = Judge(self._model, data.held_out, data.labels, scores=scores, classes=data.classes, owner=self._owner)
        limit.check(judge, self._owner)
        histograms = self._measured(data)
        tried: dict[str, Judgement] = {}
        for method in methods:
            self._tell(f"trying {method}")
            self._ranges = {n: h.range(method) for n, h in histograms.items()}
            tried[method] = judge(self._with().model, batches=judge.enough if limit.points is None else None)
        chosen = min(tried, key=lambda m: tried[m].rank())
        self._ranges = {n: h.range(chosen) for n, h in histograms.items()}
        sensitive: list[tuple[Layer, float]] = []
        judged = tried[chosen]
        if judged.samples < judge.samples:
            judged = judge(self._with().model)
        if not limit.met(judged):
            sensitive, judged = self._repaired(judge, limit, judged)
        without = {layer.node for layer, _ in sensitive}
        quantized = self._with(without)
        ran = self._in_onnxruntime(quantized.model, judge, limit, judged)
        record = {
            "precision": self._form.word,
            "calibration": dict(data.identity),
            "method": chosen,
            "methods": {m: asdict(j) for m, j in tried.items()},
            "limit": str(limit),
            "judged": {**asdict(judged), "points_lost": judged.points_lost},
            "layers": len(self._plan.layers) - len(without),
            "products": len(self._plan.layers) + len(self._plan.left),
            "pairs": quantized.pairs,
            "weights": quantized.weights,
            "left": [asdict(left) for left in self._plan.left[:_SHOWN]],
            "sensitive": [
                {"node": y.node, "operator": y.operator, "module": y.module, "error_alone": e}
                for y, e in sensitive[:_SHOWN]
            ],
            "onnxruntime": ran,
        }
        _note(quantized.model, record)
        return quantized

    def _with(self, without: Collection[str] = ()) -> QuantizedGraph:
        return insert_pairs(self._prepared, self._plan.layers, self._ranges, self._form, without=without)

    def _measured(self, data: CalibrationData) -> dict[str, Histogram]:
        names = observed_tensors(ir.from_proto(self._prepared), self._plan.layers)
        histograms = empty_histograms(names)
        done = 0
        for graph, group in probes(self._prepared, names, _at_once(data.batches)):
            runner = OnnxRuntimeRunner(graph.SerializeToString(), optimize=True)
            for batch in data.batches:
                values = list(run_once(runner, batch).values())
                for name, value in zip(group, values, strict=True):
                    histograms[name].add(value)
            runner.close()
            done += len(group)
            self._tell(f"measured {done} of {len(names)} tensors")
        bad = next((n for n, h in histograms.items() if not h.finite), None)
        if bad is not None:
            raise PrecisionError(
                f"{self._owner}: in float already, the tensor {bad!r} is NaN or infinite on the calibration data; "
                "quantizing repairs nothing. Correct the model or the data."
            )
        return histograms

    def _repaired(self, judge: Judge, limit: Limit, before: Judgement) -> tuple[list[tuple[Layer, float]], Judgement]:
        """The fewest of the most sensitive layers without which the limit is met.

        Raises:
            PrecisionError: if it is met only without all of them.
        """
        layers = self._plan.layers

        def error(group: Sequence[Layer]) -> float:
            """With these layers quantized and no other."""
            others = {y.node for y in layers} - {y.node for y in group}
            return judge(self._with(others).model, batches=judge.few).error

        alone = sensitivities(layers, error, by_halves=limit.points is None, progress=self._tell)
        low, high, best = 1, len(alone), before  # without `high` of them there is nothing left to be wrong
        while low < high:
            middle = (low + high) // 2
            self._tell(f"leaving {middle} of {len(alone)} layers in float")
            judged = judge(self._with({y.node for y, _ in alone[:middle]}).model)
            if limit.met(judged):
                high, best = middle, judged
            else:
                low = middle + 1
        if high == len(alone):
            worst = ", ".join(f"{y} ({e:.0%} alone)" for y, e in alone[:3])
            lost = before.points_lost
            raise PrecisionError(
                f"{self._owner}: {self._form.word} cannot keep to {limit}: with every product quantized the error is "
                f"{before.error:.0%} of {before.worst}"
                + ("" if lost is None else f" and {lost:.2f} points are lost")
                + f", and no choice of layers is good enough. Most sensitive: {worst}. "
                + "Calibrate on data of the kind that the model meets, allow more, or use fp16."
            )
        return alone[:high], best

    def _in_onnxruntime(self, model: onnx.ModelProto, judge: Judge, limit: Limit, judged: Judgement) -> dict[str, Any]:
        """What ONNX Runtime makes of the file with its optimisations, or why it cannot run it."""
        try:
            optimised = judge(model, optimize=True)
        except GraphError as error:
            return {"ran": False, "reason": str(error)[:300]}
        if self._form.levels is None:  # it has no fp8 kernels, and what it makes of the pairs is its own affair
            return {"ran": True, "usable": optimised.error <= max(LARGEST_ERROR, 2 * judged.error), **asdict(optimised)}
        if optimised.error > max(LARGEST_ERROR, 2 * judged.error):
            raise ParityError(
                f"{self._owner}: the {self._form.word} file means an error of {judged.error:.1%} at {optimised.worst}, and ONNX "
                f"Runtime's optimisations make {optimised.error:.1%} of it: the file would be wrong there."
            )
        return {"ran": True, "usable": True, **asdict(optimised)}


def _at_once(batches: Sequence[Arrays]) -> int:
    """How many tensors are measured in one run: what they hold together is what limits."""
    elements = max(sum(a.size for a in b.values()) for b in batches)
    return max(4, min(64, _MEASURED_ELEMENTS // max(1, elements)))


def _plan(prepared: onnx.ModelProto, form: QuantFormat, owner: str) -> QuantPlan:
    plan = make_plan(ir.from_proto(prepared), per_channel=form.per_channel)
    if not plan.layers:
        reasons = "; ".join(dict.fromkeys(f"{y.operator}: {y.reason}" for y in plan.left[:3]))
        raise NothingToConvertError(
            f"{owner}: the graph has no product with weights"
            + (f" that can be quantized ({reasons})" if reasons else "")
            + f", so {form.word} would change nothing. Leave it in fp32, or use fp16."
        )
    return plan


def _note(model: onnx.ModelProto, record: Mapping[str, Any]) -> None:
    """Write the evidence into the model's metadata, and into the record that an export left there."""
    judged = record["judged"]
    precision = str(record["precision"])
    parity = {
        "max_abs_error": judged["max_abs_error"],
        "relative_error": judged["error"],
        "reference": "the float file",
        "candidate": f"{precision} pairs in ort-cpu, as the standard says",
        "cases": judged["samples"],
        "limit": record["limit"],
    }
    evidence = (read_evidence(model) or Evidence()).after(
        "quantize",
        {"precision": precision, "relative_error": judged["error"]},
        precision=precision,
        parity=parity,
        quantization=record,
    )
    write_evidence(model, evidence)
