"""One quantization, from ranges to a judged graph with its evidence."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from attn_deploy.conversion.calibration import CalibrationData, load_calibration
from attn_deploy.conversion.pace import pace_of, slow_layers, timed_runner
from attn_deploy.conversion.preprocess import Preprocess, PreprocessOptions, range_warning
from attn_deploy.conversion.sensitivity import fewest, sensitivities
from attn_deploy.data import ImageSet
from attn_deploy.errors import FileWarning, GraphError, NothingToConvertError, ParityError, PrecisionError
from attn_deploy.graph.evidence import Evidence, read_evidence, write_evidence
from attn_deploy.graph.quantize import (
    Layer,
    Left,
    QuantFormat,
    QuantizedGraph,
    QuantOptions,
    QuantPlan,
    probes,
    scheme_for,
)
from attn_deploy.graph.quantize.read_back import read_back
from attn_deploy.graph.tensors import infer_tensors
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.parity.given import GivenInputs
from attn_deploy.parity.graphs import inputs_of_samples, runnable_inputs, with_other_batches
from attn_deploy.parity.judge import LARGEST_ERROR, Judge, Judgement, Limit
from attn_deploy.processes import available_memory
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from attn_deploy.runtimes.optimised import optimised_graph

_SHOWN = 64
_MEASURED_ELEMENTS = 256 * 3 * 256 * 256  # of the inputs of a run, by the number of tensors that it gives
# Bytes of the tensors that a run gives, by the largest of the run before: each run of a long graph begins at its inputs, so
# one that gives them all saves most. An eighth of the free memory, between these.
_HELD = (512 << 20, 2 << 30)

Progress = Callable[[str], None]


class Quantizer:
    """One call of `quantize_file`, from the float graph to the judged one.

    Args:
        model: the float graph.
        form: the type.
        options: the form of the graph; the target is set.
        owner: how messages name the model.
        progress: called with a few words at each step.
        given: shapes and samples of the user's.

    Attributes:
        speed: of the finished graph against the float one, in ONNX Runtime here; None where it was not timed.

    Raises:
        NothingToConvertError: if the graph has no product that can be quantized.
        PrecisionError, InvalidRequestError: as `attn_deploy.graph.quantize.scheme_for`.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        form: QuantFormat,
        options: QuantOptions,
        owner: str,
        progress: Progress,
        given: GivenInputs,
    ) -> None:
        self._form, self._options, self._owner, self._progress = form, options, owner, progress
        self._timed = options.target == "cpu" and options.timed
        self.speed: dict[str, float] | None = None
        self._scheme = scheme_for(model, form, options)
        self._plan = self._scheme.plan
        _require_layers(self._plan, form, owner)
        self._model = model
        runner = OnnxRuntimeRunner(model.SerializeToString(), optimize=False)
        self._samples = tuple(with_other_batches(given.samples, model, runner)) if given.samples else ()
        if given.samples:
            self._inputs, self._symbols = inputs_of_samples(model, given.samples[0]), tuple[str, ...]()
        else:
            self._inputs, self._symbols = runnable_inputs(model, runner, given)
        runner.close()

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
            preprocess.refuse_without_images("ranges are measured on samples, which go in as they are")
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
        self._measure(data)
        one = self._apart(data.batches[0])[0]
        if self._timed and not self._options.only:
            self._leave_slow(one, methods[0])
        tried, chosen, judged = self._best_method(methods, judge, limit)
        sensitive: list[tuple[Layer, float]] = []
        if not limit.met(judged):
            sensitive, judged = self._repaired(judge, limit, judged)
        without = {layer.node for layer, _ in sensitive}
        quantized = self._scheme.write(without)
        if self._options.written == "qoperator":
            quantized = replace(quantized, model=optimised_graph(quantized.model, portable=True))
        ran = self._in_onnxruntime(quantized.model, judge, judged)
        record = {
            "precision": self._form.word,
            **self._scheme.described(),
            "format": self._options.written,
            "per_channel": self._form.per_channel and self._options.per_channel,
            "calibration": dict(data.identity),
            "method": chosen,
            "methods": {m: asdict(j) for m, j in tried.items()},
            "limit": str(limit),
            "judged": {**asdict(judged), "points_lost": judged.points_lost},
            **self._layers_record(sensitive),
            "pairs": quantized.pairs,
            "weights": quantized.weights,
            "onnxruntime": ran,
        }
        _note(quantized.model, record)
        if ran["ran"] and self._timed:
            self.speed = self._speed(quantized.model, one)
        return quantized

    def _best_method(
        self, methods: Sequence[str], judge: Judge, limit: Limit
    ) -> tuple[dict[str, Judgement], str, Judgement]:
        """Each method's judgement, the best method, which is then the scheme's, and its judgement on all samples."""
        tried: dict[str, Judgement] = {}
        for method in methods:
            self._progress(f"trying {method}")
            self._scheme.choose(method)
            enough = judge.enough if limit.points is None else None
            best = math.inf if judge.scores else min((j.error for j in tried.values()), default=math.inf)
            tried[method] = judge(self._scheme.write().model, batches=enough, beyond=best)
        chosen = min(tried, key=lambda m: tried[m].rank())
        self._scheme.choose(chosen)
        judged = tried[chosen]
        if judged.samples < judge.samples:
            judged = judge(self._scheme.write().model)
        return tried, chosen, judged

    def _layers_record(self, sensitive: Sequence[tuple[Layer, float]]) -> dict[str, Any]:
        """What the record says of layers: how many are in 8 bits, and which are left in float, and why."""
        return {
            "layers": len(self._plan.layers) - len(sensitive),
            "products": len(self._plan.layers) + len(self._plan.left),
            "left": [asdict(left) for left in self._plan.left[:_SHOWN]],
            "sensitive": [
                {"node": y.node, "operator": y.operator, "module": y.module, "error_alone": e}
                for y, e in sensitive[:_SHOWN]
            ],
        }

    def _apart(self, batch: Arrays) -> list[Arrays]:
        """The samples of a batch, where the graph takes any number; otherwise the batch."""
        first = {i.dims[0] if i.dims else 1 for i in self._inputs}
        if len(first) != 1 or not first <= set(self._symbols):
            return [batch]
        count = len(next(iter(batch.values())))
        return [{n: a[k : k + 1] for n, a in batch.items()} for k in range(count)]

    def _leave_slow(self, arrays: Arrays, method: str) -> None:
        """Leave layers in float without which the graph is faster."""
        self._scheme.choose(method)
        slow = slow_layers(
            self._model,
            self._scheme.prepared,
            self._plan.layers,
            lambda names: self._scheme.write(names).model,
            arrays,
            progress=self._progress,
        )
        left = tuple(
            Left(y.node, y.operator, y.module, "measured faster in float") for y in self._plan.layers if y.node in slow
        )
        layers = tuple(y for y in self._plan.layers if y.node not in slow)
        self._plan = self._scheme.plan = QuantPlan(layers, (*self._plan.left, *left))

    def _speed(self, model: onnx.ModelProto, arrays: Arrays) -> dict[str, float]:
        """Of the finished graph against the float one."""
        self._progress("timing it against float")
        runners = timed_runner(self._model, arrays), timed_runner(model, arrays)
        pace = pace_of(*runners)
        for runner in runners:
            runner.close()
        return pace.to_dict()

    def _measure(self, data: CalibrationData) -> None:
        names = self._scheme.names
        # Sample by sample: what a run gives stays in memory together, and each more tensor of it saves a run of the graph.
        batches = [one for batch in data.batches for one in self._apart(batch)]
        sizes = self._sizes(batches[0], names)
        done, count = 0, [_at_once(batches)]

        def at_once() -> int:
            return _that_fit(sizes[done:]) if sizes else count[-1]

        for graph, group in probes(self._scheme.prepared, names, at_once):
            runner = OnnxRuntimeRunner(graph.SerializeToString(), optimize=True)
            largest = 1
            for batch in batches:
                values = list(run_once(runner, batch).values())
                largest = max(largest, *(v.nbytes for v in values))
                for name, value in zip(group, values, strict=True):
                    self._scheme.add(name, value)
            runner.close()
            done += len(group)
            # Each run begins at the inputs: as many tensors of it as the memory holds, or long graphs take hours.
            count.append(max(count[-1], min(8 * count[-1], _held() // largest)))
            self._progress(f"measured {done} of {len(names)} tensors")
        bad = self._scheme.not_finite()
        if bad is not None:
            raise PrecisionError(
                f"{self._owner}: in float already, the tensor {bad!r} is NaN or infinite on the calibration data; "
                "quantizing repairs nothing. Correct the model or the data."
            )

    def _sizes(self, batch: Arrays, names: Sequence[str]) -> list[int]:
        """Bytes of each of these tensors on a batch; none where the graph does not say them all."""
        try:
            tensors = infer_tensors(self._scheme.prepared, {n: tuple(a.shape) for n, a in batch.items()})
        except GraphError:
            return []
        shapes = [tensors.shapes.get(n) for n in names]
        known = [s for s in shapes if s is not None and all(isinstance(d, int) for d in s)]
        return [] if len(known) < len(names) else [4 * math.prod(int(d) for d in s) for s in known]

    def _repaired(self, judge: Judge, limit: Limit, before: Judgement) -> tuple[list[tuple[Layer, float]], Judgement]:
        """The fewest of the most sensitive layers without which the limit is met.

        Raises:
            PrecisionError: if it is met only without all of them.
        """
        layers = self._plan.layers

        def error(group: Sequence[Layer]) -> float:
            """With these layers quantized and no other."""
            others = {y.node for y in layers} - {y.node for y in group}
            return judge(self._scheme.write(others).model, batches=judge.few).error

        best = before

        def met(count: int) -> bool:
            nonlocal best
            self._progress(f"leaving {count} of {len(layers)} layers in float")
            model = self._scheme.write({y.node for y, _ in alone[:count]}).model
            judged = judge(model, beyond=LARGEST_ERROR if limit.points is None else math.inf)
            if limit.met(judged):
                best = judged
            return limit.met(judged)

        # In the order of groups first, which is quick; where it does not do, in that of each layer by itself.
        for by_halves in (True, False) if limit.points is None else (False,):
            alone = sensitivities(layers, error, by_halves=by_halves, progress=self._progress)
            count = fewest(len(layers), met)
            if count < len(layers):
                return alone[:count], best
        worst = ", ".join(f"{y} ({e:.0%} alone)" for y, e in alone[:3])
        lost = before.points_lost
        raise PrecisionError(
            f"{self._owner}: {self._form.word} cannot keep to {limit}: with every product quantized the error is "
            f"{before.error:.0%} of {before.worst}"
            + ("" if lost is None else f" and {lost:.2f} points are lost")
            + f", and no choice of layers is good enough. Most sensitive: {worst}. "
            + "Calibrate on data of the kind that the model meets, allow more, or use fp16."
        )

    def _in_onnxruntime(self, model: onnx.ModelProto, judge: Judge, judged: Judgement) -> dict[str, Any]:
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
        kernels = read_back(optimised_graph(model))
        return {
            "ran": True,
            "usable": True,
            **asdict(optimised),
            "kernels": kernels.to_dict(),
            "kernels_words": str(kernels),
        }


def _at_once(batches: Sequence[Arrays]) -> int:
    """How many tensors are measured in one run: what they hold together is what limits."""
    elements = max(sum(a.size for a in b.values()) for b in batches)
    return max(4, min(64, _MEASURED_ELEMENTS // max(1, elements)))


def _held() -> int:
    free = available_memory()
    least, most = _HELD
    return least if free is None else max(least, min(most, free // 8))


def _that_fit(sizes: Sequence[int]) -> int:
    """How many of the first tensors the memory holds together; one at least."""
    most = _held()
    return max(1, sum(1 for total in itertools.accumulate(sizes) if total <= most))


def _require_layers(plan: QuantPlan, form: QuantFormat, owner: str) -> None:
    if not plan.layers:
        reasons = "; ".join(dict.fromkeys(f"{y.operator}: {y.reason}" for y in plan.left[:3]))
        raise NothingToConvertError(
            f"{owner}: the graph has no product with weights"
            + (f" that can be quantized ({reasons})" if reasons else "")
            + f", so {form.word} would change nothing. Leave it in fp32, or use fp16."
        )


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
