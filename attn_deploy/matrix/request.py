"""The words of the command line as a request, and what a finished record means for the exit code."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attn_deploy.errors import InvalidRequestError
from attn_deploy.matrix.diff import diff_records, left_out_text
from attn_deploy.matrix.options import MatrixOptions, parse_models, parse_opsets, parse_shard
from attn_deploy.matrix.plan import expand_models, in_registry
from attn_deploy.matrix.record import MatrixRecord, read_record
from attn_deploy.matrix.store import stored_request
from attn_deploy.resolve.names import parse_name

DEFAULT_FOLDER = Path("matrix-results")
BASELINE = Path(__file__).resolve().parents[2] / "profiles" / "matrix.json"
FAIL_ON = ("any", "regressions")
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class MatrixRequest:
    """What the command line asked for; ``notes`` are lines to print before the run."""

    options: MatrixOptions
    folder: Path
    resume: bool
    shard: tuple[int, int] | None
    baseline: MatrixRecord | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The exit code, and the words that go with it."""

    exit_code: int
    words: str = ""


def matrix_request(
    *,
    models: str | None = None,
    opsets: str | None = None,
    exporters: str | None = None,
    dynamic: str | None = None,
    precisions: str | None = None,
    runtimes: str | None = None,
    engine_opset: str | None = None,
    inputs: Sequence[str] | None = None,
    shard: str | None = None,
    output: Path | None = None,
    resume: Path | None = None,
    fail_on: str = "any",
    baseline: Path | None = None,
) -> MatrixRequest:
    """Read the options; what is not given comes from the run that goes on, or is the default.

    Raises:
        InvalidRequestError: naming the option that cannot be used.
    """
    if output is not None and resume is not None and output != resume:
        raise InvalidRequestError(f"--output {output} and --resume {resume} name two folders; give one of them.")
    if fail_on not in FAIL_ON:
        raise InvalidRequestError(f"--fail-on {fail_on!r} is not among {', '.join(FAIL_ON)}.")
    changes: dict[str, Any] = {}
    if models is not None:
        changes["models"] = parse_models(models)
    if opsets is not None:
        changes["opsets"] = parse_opsets(opsets)
    for name, text in (
        ("exporters", exporters),
        ("dynamic", dynamic),
        ("precisions", precisions),
        ("runtimes", runtimes),
    ):
        if text is not None:
            changes[name] = tuple(dict.fromkeys(w.strip().lower() for w in text.split(",") if w.strip()))
    if engine_opset is not None:
        changes["engine_opset"] = _engine_opset(engine_opset)
    if inputs:
        changes["inputs"] = tuple(inputs)
    start = stored_request(resume)[0] if resume is not None else MatrixOptions()
    if resume is not None and models is None:
        _refuse_code(start.models, resume)
    asked_opsets = changes.get("opsets", ())
    if engine_opset is None and asked_opsets and start.engine_opset not in (None, *asked_opsets):
        changes["engine_opset"] = max(asked_opsets)
    options = replace(start, **changes)
    return MatrixRequest(
        options=options,
        folder=resume or output or DEFAULT_FOLDER,
        resume=resume is not None,
        shard=None if shard is None else parse_shard(shard),
        baseline=_baseline(baseline) if fail_on == "regressions" else None,
        notes=() if resume is None else _changes(resume, start, options),
    )


def _refuse_code(models: Sequence[str], folder: Path) -> None:
    """A folder comes from anywhere, and what it says must not choose code to run."""
    foreign = _foreign(models)
    if foreign:
        raise InvalidRequestError(
            f"{folder} is a run of {', '.join(foreign)}, which is not of the registry; what a folder says must not choose "
            f"code to run. If you trust it, name the models yourself: attn-deploy matrix -o {folder} --resume --models "
            f"{shlex.quote(','.join(models))}."
        )


def _foreign(models: Sequence[str]) -> list[str]:
    return [m for m in expand_models(models) if not in_registry(parse_name(m))]


def _changes(folder: Path, before: MatrixOptions, now: MatrixOptions) -> tuple[str, ...]:
    """What a run that goes on is asked for now and was not before."""
    old, new = before.to_dict(), now.to_dict()
    changed = [f"{name} {_told(old[name])} -> {_told(new[name])}" for name in new if new[name] != old[name]]
    if not changed:
        return ()
    return (f"{folder} is resumed with other options than before; its record has their cells: {'; '.join(changed)}.",)


def _told(value: Any) -> str:
    values = ("all",) if value is None else value if isinstance(value, tuple | list) else (value,)
    return ",".join(map(str, values)) or "none"


def _engine_opset(text: str) -> int | None:
    if text.strip().lower() == "all":
        return None
    if not text.strip().isdigit():
        raise InvalidRequestError(f"--engine-opset {text!r} is neither an opset nor all.")
    return int(text)


def _baseline(path: Path | None) -> MatrixRecord:
    if path is None and not BASELINE.is_file():
        raise InvalidRequestError("--fail-on regressions needs a record to compare with: --baseline RECORD.")
    return read_record(path or BASELINE)


def outcome(record: MatrixRecord, request: MatrixRequest) -> Outcome:
    """What the record means: 0 good, 1 red cells or regressions, 130 interrupted."""
    if record.interrupted:
        words = ["attn-deploy", "matrix", "-o", str(request.folder), "--resume"]
        if _foreign(request.options.models):
            words += ["--models", ",".join(request.options.models)]
        return Outcome(INTERRUPTED, f"interrupted; continue with: {shlex.join(words)}")
    if request.baseline is None:
        return Outcome(1 if record.failures else 0)
    comparison = diff_records(request.baseline, record, subset=True)
    left_out = f" {left_out_text(comparison)}" if comparison.left_out else ""
    worse = comparison.regressions
    if not worse:
        return Outcome(0, f"no regression against the baseline.{left_out}")
    first = worse[0]
    return Outcome(1, f"{len(worse)} regressions against the baseline, the first: {first.id}: {first.reason}{left_out}")
