"""Eight bits on a CPU: `attn_deploy.quantize --target cpu` against onnxruntime.quantization and OpenVINO, and all against fp32.

    python benchmarks/int8_cpu.py [--only resnet18,vit_small] [--quick] [--render RECORD.json] [--output RECORD.json]

One thread, batch 1, 224 x 224, all sides interleaved. The nets have the weights that they are drawn with, and ranges are
measured on 16 smooth random images, the same for every side; errors are the root mean square of the difference over that
of fp32, on 16 others. onnxruntime.quantization gets the graph as its own `quant_pre_process` leaves it, unsigned
activations, signed weights, a scale for each channel, and its default method (MinMax); OpenVINO gets our file.

Exit code 1: a net is slower than onnxruntime.quantization's QDQ file beyond doubt, or has a larger error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from ratios import default_path, environment, markdown

import attn_deploy
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.statistics import Comparison, compare_rounds
from attn_deploy.bench.timer import measure
from attn_deploy.errors import AttnDeployError, MissingDependencyError
from attn_deploy.files import write_atomic
from attn_deploy.graph.quantize.read_back import read_back
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.machine.environment import Environment, command_line, load_average
from attn_deploy.reading import typed
from attn_deploy.runtimes.base import Runner, run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from attn_deploy.runtimes.openvino import OpenVinoRunner
from attn_deploy.runtimes.optimised import optimised_graph

SCHEMA_VERSION = 1
NETS = {
    "resnet18": "resnet18:stem=imagenet",
    "resnet50": "resnet50:stem=imagenet",
    "mobilenet_v2": "mobilenet_v2:stem=imagenet",
    "efficientnet_b0": "efficientnet_b0:stem=imagenet",
    "shufflenet_v2": "shufflenet_v2:stem=imagenet",
    "resnet18+se": "resnet18:stem=imagenet+se",
    "resnet18+cbam": "resnet18:stem=imagenet+cbam",
    "resnet18+eca": "resnet18:stem=imagenet+eca",
    "resnet18+non_local": "resnet18:stem=imagenet+non_local",
    "vit_small": f"{Path(__file__).with_name('vit_small.py')}:VitSmall",
}
ATTENTION = ("resnet18+non_local", "vit_small")  # nets with products of two activations
BASELINE, OURS, QDQ = "fp32", "ours", "onnxruntime QDQ"
IMAGES, BATCH = 16, 4
MARGIN = 0.03
FULL = BenchOptions(threads=1, rounds=20, min_samples=60, min_seconds=0.2, max_seconds=10.0)
QUICK = BenchOptions(threads=1, rounds=12, min_samples=24, min_seconds=0.1, max_seconds=4.0)


@dataclass(frozen=True, slots=True)
class Side:
    """One way to run a net.

    Attributes:
        p50_ms: the median.
        error: of the outputs, against fp32 in ONNX Runtime.
        speedup: over fp32 in ONNX Runtime.
        against_qdq: over onnxruntime.quantization's QDQ file.
        note: what runs in 8 bits, or the precision that ran; or why there is no number.
    """

    p50_ms: float | None
    error: float | None
    speedup: Comparison | None
    against_qdq: Comparison | None
    note: str


@dataclass(frozen=True, slots=True)
class Net:
    """One net and its sides by name."""

    name: str
    sides: Mapping[str, Side]


def images(count: int, seed: int) -> NDArray[np.float32]:
    """Smooth noise with some grain, scaled as normalised photos are: (count, 3, 224, 224)."""
    rng = np.random.default_rng(seed)
    smooth = rng.standard_normal((count, 3, 14, 14)).repeat(16, 2).repeat(16, 3)
    return (0.7 * smooth + 0.4 * rng.standard_normal((count, 3, 224, 224))).astype(np.float32)


def batches(array: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [array[k : k + BATCH] for k in range(0, len(array), BATCH)]


def with_onnxruntime(source: Path, target: Path, name: str, data: NDArray[np.float32], form: str) -> None:
    """Quantize with onnxruntime.quantization."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(batches(data))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: batch}

    prepared = target.with_suffix(".prepared.onnx")
    try:
        quant_pre_process(str(source), str(prepared))
    except Exception:  # its shape inference fails on some graphs; the quantizer itself then takes them as they are
        prepared = source
    quantization.quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=getattr(quantization.QuantFormat, form),
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )


def make_files(name: str, folder: Path, data: NDArray[np.float32]) -> dict[str, Path | str]:
    """The files of a net by side; a text where one could not be made."""
    source = folder / "fp32.onnx"
    torch.manual_seed(0)
    attn_deploy.export(NETS[name], source, inputs=parse_inputs(["1x3x224x224"]), dynamic=["N"])
    taken = onnx.load(source).graph.input[0].name
    np.savez(folder / "calibration.npz", **{taken: data})
    files: dict[str, Path | str] = {BASELINE: source}

    def make(side: str, work: Callable[[Path], object]) -> None:
        path = folder / f"{side.replace(' ', '-')}.onnx"
        try:
            work(path)
            files[side] = path
        except Exception as error:  # theirs raises what it likes
            files[side] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"

    common = {"target": "cpu", "calibration": folder / "calibration.npz"}
    make(OURS, lambda path: attn_deploy.quantize(source, path, **common))
    if name in ATTENTION:
        make("ours --attention", lambda path: attn_deploy.quantize(source, path, attention=True, **common))
    make(QDQ, lambda path: with_onnxruntime(source, path, taken, data, "QDQ"))
    make("onnxruntime QOperator", lambda path: with_onnxruntime(source, path, taken, data, "QOperator"))
    return files


def make_runners(files: Mapping[str, Path | str], threads: int) -> tuple[dict[str, Runner], dict[str, str]]:
    """Runners by side, and notes: what runs in 8 bits, or why there is no runner."""
    runners: dict[str, Runner] = {}
    notes: dict[str, str] = {}
    for side, path in files.items():
        if isinstance(path, str):
            notes[side] = path
            continue
        try:
            runners[side] = OnnxRuntimeRunner(path, threads=threads)
            notes[side] = "" if side == BASELINE else str(read_back(optimised_graph(onnx.load(path))))
        except AttnDeployError as error:
            notes[side] = str(error)[:160]
    for side, origin, precision in (
        ("OpenVINO fp32", BASELINE, "fp32"),
        ("OpenVINO bf16", BASELINE, "bf16"),
        ("OpenVINO int8, our file", OURS, "int8"),
    ):
        path = files[origin]
        try:
            runner = OpenVinoRunner(str(path), precision=precision, threads=threads)
        except MissingDependencyError:
            continue
        except AttnDeployError as error:
            notes[side] = str(error).replace(str(path), "the file")[:160]
            continue
        runners[side] = runner
        counts = runner.info.settings["products"]
        notes[side] = "products: " + ", ".join(f"{n} in {kind}" for kind, n in counts.items())
    return runners, notes


def error_of(runner: Runner, name: str, right: Sequence[NDArray[np.float32]], data: NDArray[np.float32]) -> float:
    """The root mean square of the error over that of the right outputs."""
    ours = [next(iter(run_once(runner, {name: batch}).values())) for batch in batches(data)]
    difference = sum(float(((a - b).astype(np.float64) ** 2).sum()) for a, b in zip(ours, right, strict=True))
    return float(np.sqrt(difference / sum(float((b.astype(np.float64) ** 2).sum()) for b in right)))


def time_net(name: str, options: BenchOptions) -> Net:
    """Make all files of a net, see how exact they are, and time them interleaved."""
    data, others = images(IMAGES, 1), images(IMAGES, 2)
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
        files = make_files(name, Path(folder), data)
        runners, notes = make_runners(files, options.threads)
        taken = onnx.load(str(files[BASELINE])).graph.input[0].name
        right = [next(iter(run_once(runners[BASELINE], {taken: b}).values())) for b in batches(others)]
        errors = {side: error_of(runner, taken, right, others) for side, runner in runners.items()}
        for runner in runners.values():
            run_once(runner, {taken: others[:1]})
        results = measure(runners, options)
        for runner in runners.values():
            runner.close()
    rounds = {side: result.rounds for side, result in results.items() if not isinstance(result, Exception)}
    sides: dict[str, Side] = {}
    for side in dict.fromkeys([*files, *runners, *notes]):
        if side not in rounds:
            sides[side] = Side(None, errors.get(side), None, None, notes.get(side, ""))
            continue

        def over(base: str, side: str = side) -> Comparison | None:
            if base == side or base not in rounds:
                return None
            return compare_rounds(rounds[base], rounds[side], margin=MARGIN, seed=options.seed)

        sides[side] = Side(results[side].p50_ms, errors[side], over(BASELINE), over(QDQ), notes.get(side, ""))
    return Net(name, sides)


def failures(nets: Sequence[Net]) -> list[str]:
    """What our files do worse than onnxruntime.quantization's QDQ files."""
    problems = []
    for net in nets:
        ours, theirs = net.sides[OURS], net.sides[QDQ]
        if ours.error is None:
            problems.append(f"{net.name}: {ours.note}")
            continue
        if ours.against_qdq is not None and ours.against_qdq.interval.high < 1:
            problems.append(f"{net.name}: {ours.against_qdq.speedup:.2f}x the speed of the QDQ file")
        if theirs.error is not None and ours.error > theirs.error:
            problems.append(f"{net.name}: an error of {ours.error:.2%} in place of {theirs.error:.2%}")
        if net.name == "resnet18" and ours.speedup is not None and ours.speedup.speedup < 2.3:
            problems.append(
                f"{net.name}: {ours.speedup.speedup:.2f}x fp32, and 2.3x is the aim with 8-bit dot products"
            )
    return problems


def ratio(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"{comparison.speedup:.2f} ({comparison.interval.low:.2f} to {comparison.interval.high:.2f})"


def page(record: Mapping[str, object], nets: Sequence[Net]) -> str:
    """The record for readers."""
    rows = []
    for net in nets:
        for side, numbers in net.sides.items():
            p50 = "" if numbers.p50_ms is None else f"{numbers.p50_ms:.2f}"
            error = "" if numbers.error is None or side == BASELINE else f"{numbers.error:.2%}"
            name = f"`{net.name}`" if side == BASELINE else ""
            rows.append([name, side, numbers.note, p50, ratio(numbers.speedup), ratio(numbers.against_qdq), error])
    headings = ("net", "side", "what ran", "ms", "x fp32", "x onnxruntime QDQ", "error")
    problems = failures(nets)
    verdict = (
        "; ".join(problems) or "on no net slower than onnxruntime.quantization's QDQ file beyond doubt, nor less exact"
    )
    text = [
        "# Eight bits on a CPU",
        "",
        "One thread, batch 1, 224 x 224; medians, and ratios of interleaved rounds with 95 % intervals (above 1 is faster). "
        "Errors are against fp32 on images that no range was measured on. `python benchmarks/int8_cpu.py` makes this page.",
        "",
        f"`attn-deploy quantize --target cpu`: {verdict}. {record['foot']}",
        "",
        markdown(headings, rows, 3),
    ]
    return "\n".join(text) + "\n"


def read(path: Path) -> tuple[dict[str, object], list[Net]]:
    """A record made earlier."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["schema_version"] != SCHEMA_VERSION:
        raise SystemExit(f"{path} has schema version {record['schema_version']}, this reads {SCHEMA_VERSION}.")
    nets = [typed(net, Net) for net in record["nets"]]
    return record, nets


def show(net: Net) -> None:
    """One line for each side."""
    for side, numbers in net.sides.items():
        p50 = "" if numbers.p50_ms is None else f"{numbers.p50_ms:.2f} ms"
        error = "" if numbers.error is None else f"{numbers.error:.2%}"
        words = (net.name, side, p50, ratio(numbers.speedup), ratio(numbers.against_qdq), error, numbers.note)
        print("  ".join(w for w in words if w), file=sys.stderr, flush=True)


def record_of(nets: Sequence[Net], options: BenchOptions, before: Environment) -> dict[str, object]:
    """What is kept of a run that began in the environment ``before``."""
    after = load_average()
    dot_products = ", ".join(f for f in before.isa if "vnni" in f or "amx" in f) or "no 8-bit dot product"
    versions = ", ".join(
        f"{k} {before.packages[k]}" for k in ("onnxruntime", "openvino", "torch") if k in before.packages
    )
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    load = f"load {before.load_average} at the start and {after} at the end on {before.usable_cores} cores"
    return {
        "schema_version": SCHEMA_VERSION,
        "title": "Eight bits on a CPU",
        "created": created,
        "argv": list(command_line()),
        "environment": asdict(before),
        "options": asdict(options),
        "load_after": after,
        "foot": f"{before.cpu} ({dot_products}), {options.threads} thread; {versions}; {load}; {created}.",
        "nets": [asdict(n) for n in nets],
    }


def write(target: Path, record: Mapping[str, object], nets: Sequence[Net]) -> None:
    """The record as JSON, and the page for readers beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_atomic(target.with_suffix(".md"), page(record, nets))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--render", type=Path, metavar="RECORD", help="print a record made earlier; nothing is timed")
    parser.add_argument("--output", type=Path, help="write the record here, and a page beside it")
    options = parser.parse_args()
    if options.render:
        record, nets = read(options.render)
        if options.output is not None:
            write(options.output, record, nets)
    else:
        torch.set_num_threads(1)
        before = environment()
        timing = QUICK if options.quick else FULL
        target = options.output
        if target is None and not options.only and not options.quick:
            target = default_path(before, "int8-cpu")
        nets = []
        for name in options.only.split(",") if options.only else NETS:
            nets.append(time_net(name, timing))
            show(nets[-1])
            record = record_of(nets, timing, before)
            if target is not None:  # after each net: a run takes half an hour on a busy machine
                write(target, record, nets)
    print(page(record, nets))
    return int(bool(failures(nets)))


if __name__ == "__main__":
    raise SystemExit(main())
