"""The lines below a profile's table: machine, software, inputs, files, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attn_deploy.bench.record import ProfileRecord
from attn_deploy.comparison.speed_of_light import row_limits
from attn_deploy.machine.environment import Environment
from attn_deploy.report.profile.conditions import cold_text
from attn_deploy.report.text import file_words


def caption(record: ProfileRecord, dropped: Sequence[str]) -> list[str]:
    """The lines; ``dropped`` are the columns that the terminal had no room for."""
    lines = [f"Machine: {machine(record.environment)}.", _software(record), _input(record)]
    lines += [*_samples(record), *_files(record), *_comparison(record)]
    cold = cold_text(record)
    lines += [cold] if cold else []
    lines += [*_accuracy(record), *_floor(record)]
    if dropped:
        lines.append(f"Left out for the width of the terminal: {', '.join(reversed(dropped))}.")
    if "attn-deploy" in record.environment.packages:
        lines.append(f"attn-deploy {record.environment.packages['attn-deploy']}, {record.created}.")
    return lines


def machine(environment: Environment) -> str:
    """The machine in one line."""
    parts = [f"{environment.cpu}, {environment.usable_cores} of {environment.cores} cores"]
    strongest = [f for f in environment.isa if f.startswith(("avx", "amx", "asimd", "sve"))]
    if strongest:
        parts.append(" ".join(strongest))
    if environment.load_average is not None:
        parts.append(f"load {environment.load_average:g}")
    parts += [f"{g.name} (driver {g.driver})" for g in environment.gpus]
    return "; ".join(parts)


def _software(record: ProfileRecord) -> str:
    versions = dict.fromkeys(r.info.version for r in record.rows if r.info)
    environment = record.environment
    return f"Software: {', '.join(versions) or 'none ran'}; {environment.python}, {environment.os}."


def _input(record: ProfileRecord) -> str:
    shapes = dict.fromkeys(
        ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in row.shapes.items()) for row in record.rows
    )
    kinds = dict.fromkeys(r.info.precision for r in record.rows if r.info)
    sizes = [r.latency.n for r in record.rows if r.latency]
    counts = f"{min(sizes)} to {max(sizes)} samples a row, " if sizes else ""
    threads = record.options.threads
    return (
        f"Input: {'; '.join(shapes)}; {', '.join(kinds)}; {threads} thread{'' if threads == 1 else 's'}. {counts}"
        f"{record.options.rounds} interleaved rounds, seed {record.options.seed}."
    )


def _samples(record: ProfileRecord) -> Iterator[str]:
    together = max((r.latency.calls_per_sample for r in record.rows if r.latency), default=1)
    if together > 1:
        yield f"Runs are so short that a sample is the mean of up to {together} of them; percentiles are of means."


def _files(record: ProfileRecord) -> Iterator[str]:
    for file in record.onnx:
        fused = f", fused ({'; '.join(file['fused'])})" if file["fused"] else ""
        yield f"{file_words(file)}, {file['made']}{fused}."


def _comparison(record: ProfileRecord) -> Iterator[str]:
    if any(r.status == "ok" and r.parity is None and r.runtime != record.baseline for r in record.rows):
        yield "Outputs were not compared: there is no eager model to compare with."
    report = next((r.parity for r in record.rows if r.parity), None)
    if report is not None:
        yield (
            f"Max error is against {report.reference} at these shapes; allowed: rtol {report.rtol:g}, "
            f"atol {report.atol:g} * max(1, max|y|)."
        )


def _accuracy(record: ProfileRecord) -> Iterator[str]:
    accuracy = next((r.accuracy for r in record.rows if r.accuracy), None)
    if accuracy is not None:
        yield (
            f"Top-1 on {accuracy.images} images of {accuracy.dataset} ({accuracy.split}, sha256 {accuracy.sha256[:12]})."
        )


def _floor(record: ProfileRecord) -> Iterator[str]:
    devices = dict.fromkeys(limit.device for limit in row_limits(record).values())
    if devices:
        yield (
            f"The floor is the least time that {', '.join(devices)} needs for the arithmetic and for moving inputs, outputs "
            "and weights once."
        )
