"""What a trained model is worth after export: the same images in ONNX Runtime, its latency there, and after int8."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_deploy.accuracy.evaluate import evaluate
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.profiler import profile
from attn_deploy.conversion.quantize import quantize_file
from attn_deploy.data import ImageSet, load_dataset
from attn_deploy.errors import CheckpointError, ExportError, InvalidRequestError
from attn_deploy.exporters.pipeline import export
from attn_deploy.files import scratch_folder, sha256_of, write_atomic
from attn_deploy.graph.quantize import QuantOptions
from attn_deploy.reading import read_typed

SCHEMA_VERSION = 1
CALIBRATION_IMAGES = 512


@dataclass(frozen=True, slots=True)
class Deployed:
    """One file in ONNX Runtime on the CPU.

    Attributes:
        precision: fp32 or int8.
        correct, images: right answers on the test images; ``same`` answers that are those of PyTorch.
        p50_ms: median latency of one image, with its 95 % interval ``low_ms`` to ``high_ms``; one thread.
        busy: load of the machine when it was measured, where other work ran.
        sha256: of the file.
    """

    precision: str
    correct: int
    images: int
    same: int
    p50_ms: float
    low_ms: float
    high_ms: float
    busy: float | None
    sha256: str

    @property
    def top1(self) -> float:
        """Share of right answers."""
        return self.correct / self.images


def measure_deployed(
    run: Path,
    *,
    data_dir: Path | str | None = None,
    seconds: float = 1.0,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Deployed, ...]:
    """The finished run exported and measured: fp32, and int8 calibrated on the training images.

    Raises:
        CheckpointError: if the run is not finished.
        ExportError, ParityError: if the file is wrong.
    """
    with scratch_folder() as folder:
        path = Path(folder) / "model.onnx"
        progress(f"exporting {run.name}")
        export(str(run / "model.safetensors"), path)
        files = [_measured(run, path, "fp32", data_dir, seconds, progress)]
        images = _training_images(run, data_dir)
        small = Path(folder) / "model-int8.onnx"
        progress(f"quantizing {run.name}")
        form = QuantOptions(target="cpu")
        quantize_file(path, small, calibration=images, images=min(CALIBRATION_IMAGES, len(images)), form=form)
        files.append(_measured(run, small, "int8", data_dir, seconds, progress))
    return tuple(files)


def _training_images(run: Path, data_dir: Path | str | None) -> ImageSet:
    """What the model was trained on, normalised as in training."""
    from attn_deploy.resolve.names import parse_name
    from attn_deploy.resolve.trained import load_trained

    trained = load_trained(parse_name(str(run / "model.safetensors")))
    return trained.prepared(load_dataset(trained.dataset, "train", data_dir=data_dir))


def _measured(
    run: Path, path: Path, precision: str, data_dir: Path | str | None, seconds: float, progress: Callable[[str], None]
) -> Deployed:
    eager = run / "model.safetensors"
    dataset = json.loads((run / "record.json").read_text(encoding="utf-8"))["dataset"]["name"]
    result = evaluate(path, dataset=dataset, reference=eager, data_dir=data_dir, threads=1, progress=progress)[0]
    size = tuple(result.dataset["size"])
    progress(f"timing {run.name}")
    options = BenchOptions(min_seconds=seconds, max_seconds=max(20.0, 5 * seconds), threads=1)
    record = profile(path, runtimes=("ort-cpu",), batch=(1,), size=(size[0], size[1]), options=options)
    row = record.row("ort-cpu")
    if row.latency is None or result.agreement is None:
        raise ExportError(f"{run}: the exported file could not be timed: {row.reason}.")
    interval = row.latency.median_interval_ms(options.confidence, options.seed)
    return Deployed(
        precision=precision,
        correct=result.correct,
        images=result.count,
        same=result.agreement.same,
        p50_ms=row.latency.p50_ms,
        low_ms=interval.low,
        high_ms=interval.high,
        busy=record.environment.load_average if record.environment.busy else None,
        sha256=sha256_of(path),
    )


def write_deployed(path: Path, files: tuple[Deployed, ...], environment: Mapping[str, Any]) -> None:
    """Keep measurements, whole or not at all."""
    data = {"schema_version": SCHEMA_VERSION, "files": [asdict(f) for f in files], "environment": environment}
    write_atomic(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_deployed(path: Path) -> tuple[Deployed, ...]:
    """What `write_deployed` wrote; nothing where there is no such file.

    Raises:
        CheckpointError: if it cannot be read.
    """
    if not path.exists():
        return ()
    try:
        return read_typed(path, _DeployedFile, "the measurements of a row", schema=SCHEMA_VERSION, signed=()).files
    except InvalidRequestError as error:
        raise CheckpointError(f"{error} Remove it to measure again.") from error


@dataclass(frozen=True, slots=True)
class _DeployedFile:
    files: tuple[Deployed, ...]
