"""What the zoo's rewritings are worth: each attention mechanism against its straightforward formulation.

    python benchmarks/attention_cost.py [--only cbam,gsop] [--quick] [--markdown] [--resume RECORD.json | --render RECORD.json]

Both run in ONNX Runtime on one CPU thread at batch 1, on the same weights. The zoo's side is `attn_deploy.export` (fused,
simplified); the other is the formulation in `benchmarks/plain`, exported by torch.onnx at the same opset and put through
onnxsim, as its users do. Axes move in both files or in none: where the plain form does not survive moving axes, both are
exported for the one size. Before anything is timed, both modules must agree in eager mode and both files with eager.
Runs are interleaved, in several pairs of sessions, since a session keeps the memory that it was given and two sessions
of one file differ by up to a tenth at megabyte sizes; a speed-up is the median over rounds of the ratio of medians, with
a bootstrap interval. The record is written after every row, and a run that was stopped goes on with --resume.

Exit code 1: the geometric mean over the mechanisms is below 1.3, or one is more than 5 % slower beyond doubt.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from plain import CASES, make_pair
from plain.exports import Exported, check_modules_agree, export_pair

from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.statistics import (
    Comparison,
    Rounds,
    compare_rounds,
    pooled,
    round_medians,
)
from attn_deploy.bench.timer import measure
from attn_deploy.errors import AttnDeployError
from attn_deploy.files import write_atomic
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.machine.environment import Environment, command_line, describe_environment, load_average
from attn_deploy.reading import typed
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

SCHEMA_VERSION = 1
SIZES = ((64, 32, 32), (256, 56, 56))
LEAST_MEAN = 1.3
SLOWER = 0.95
SESSIONS = 6  # pairs of sessions that the rounds of a row are spread over
FULL = BenchOptions(threads=1, rounds=24, min_samples=48, min_seconds=1.5, max_seconds=30.0)
QUICK = BenchOptions(threads=1, rounds=12, min_samples=24, min_seconds=0.3, max_seconds=8.0)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two files: its median in milliseconds, the medians of its rounds, and what it is."""

    p50_ms: float
    round_medians_ms: tuple[float, ...]
    samples: int
    nodes: int
    exporter: str


@dataclass(frozen=True, slots=True)
class Row:
    """One mechanism at one size.

    Attributes:
        name, size: the case, and (channels, height, width).
        status: ``ok`` or ``skipped``.
        dynamic: the axes that move in both files.
        opset: of both files.
        plain, zoo: both sides; None when skipped.
        speedup: plain over zoo.
        note: what is special about the configuration; ``reason``: why axes do not move, or why it was skipped.
    """

    name: str
    size: tuple[int, int, int]
    status: str
    dynamic: tuple[str, ...] = ()
    opset: int = 0
    plain: Side | None = None
    zoo: Side | None = None
    speedup: Comparison | None = None
    note: str = ""
    reason: str = ""

    @property
    def verdict(self) -> str:
        """``slower``: by more than 5 % beyond doubt; ``within noise``: perhaps; ``equal`` within 5 %; or ``faster``."""
        if self.speedup is None:
            return self.status
        if self.speedup.interval.high < SLOWER:
            return "slower"
        if self.speedup.speedup < SLOWER:
            return "within noise"
        return "faster" if self.speedup.interval.low > 1 / SLOWER else "equal"


@dataclass(frozen=True, slots=True)
class Record:
    """One run over some or all mechanisms."""

    environment: Environment
    options: BenchOptions
    rows: tuple[Row, ...]
    argv: tuple[str, ...]
    created: str
    load_after: float | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def by_mechanism(self) -> dict[str, float]:
        """Geometric mean of each mechanism's speed-ups over its sizes."""
        found: dict[str, list[float]] = {}
        for row in self.rows:
            if row.speedup is not None:
                found.setdefault(row.name, []).append(row.speedup.speedup)
        return {name: geometric_mean(values) for name, values in found.items()}

    @property
    def mean(self) -> float:
        """Geometric mean over the mechanisms."""
        return geometric_mean(self.by_mechanism.values())

    @property
    def slow(self) -> list[Row]:
        """The rows that fail the run."""
        return [r for r in self.rows if r.verdict == "slower"]

    @property
    def passed(self) -> bool:
        """Whether something was timed, the mean is high enough and no row is slower."""
        return bool(self.by_mechanism) and self.mean >= LEAST_MEAN and not self.slow

    def to_json(self) -> str:
        """The record as JSON text, with the summary for readers without this script."""
        data = asdict(self)
        data["summary"] = {
            "geometric_mean": self.mean if self.by_mechanism else None,
            "by_mechanism": self.by_mechanism,
            "slower": [(r.name, r.size) for r in self.slow],
            "passed": self.passed,
        }
        text = json.dumps(data, indent=1, allow_nan=False)
        return re.sub(r"\[[\s\d.,eE+-]+\]", lambda found: " ".join(found[0].split()), text) + "\n"

    @classmethod
    def read(cls, path: Path) -> Record:
        """The inverse of `to_json`."""
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("schema_version") != SCHEMA_VERSION:
            raise SystemExit(f"{path} has schema version {data.get('schema_version')}, this reads {SCHEMA_VERSION}.")
        rows = tuple(_row(r) for r in data["rows"])
        options, environment = BenchOptions(**data["options"]), typed(data["environment"], Environment)
        return cls(environment, options, rows, tuple(data["argv"]), data["created"], data["load_after"])


def _row(data: dict[str, Any]) -> Row:
    sides = {k: Side(**data[k]) if data[k] else None for k in ("plain", "zoo")}
    speedup = typed(data["speedup"], Comparison) if data["speedup"] else None
    return Row(**{**data, **sides, "speedup": speedup, "size": tuple(data["size"]), "dynamic": tuple(data["dynamic"])})


def geometric_mean(values: Iterable[float]) -> float:
    """The exponential of the mean logarithm."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))


def time_case(name: str, asked: tuple[int, int, int], options: BenchOptions) -> Row:
    """Export, check and time one mechanism at one size; what cannot be exported plainly is a skipped row."""
    case = CASES[name]
    size = case.at(asked)
    pair = make_pair(name, size)
    check_modules_agree(pair)
    try:
        plain, zoo, reason = export_pair(pair)
    except AttnDeployError as error:
        return Row(name, size, "skipped", note=case.note, reason=str(error))
    rounds = _sample({"plain": plain.model, "zoo": zoo.model}, example_arrays(pair.inputs), options)
    speedup = compare_rounds(rounds["plain"], rounds["zoo"], margin=1 / SLOWER - 1, seed=options.seed)
    sides = {k: _side(rounds[k], e) for k, e in (("plain", plain), ("zoo", zoo))}
    return Row(name, size, "ok", plain.dynamic, plain.opset, **sides, speedup=speedup, note=case.note, reason=reason)


def _sample(models: dict[str, bytes], arrays: Arrays, options: BenchOptions) -> dict[str, Rounds]:
    """Samples in nanoseconds by round, of both files in turn, in `SESSIONS` pairs of sessions."""
    share = replace(
        options,
        rounds=-(-options.rounds // SESSIONS),
        min_samples=-(-options.min_samples // SESSIONS),
        min_seconds=options.min_seconds / SESSIONS,
        max_seconds=options.max_seconds / SESSIONS,
    )
    rounds: dict[str, Rounds] = dict.fromkeys(models, ())
    for session in range(SESSIONS):
        runners = {name: OnnxRuntimeRunner(model, threads=1) for name, model in models.items()}
        for runner in runners.values():
            runner.prepare(arrays)
        for name, result in measure(runners, replace(share, seed=options.seed + session)).items():
            if isinstance(result, Exception):
                raise result
            rounds[name] = (*rounds[name], *result.rounds)
        for runner in runners.values():
            runner.close()
    return rounds


def _side(rounds: Rounds, exported: Exported) -> Side:
    medians = tuple(round(float(m) / 1e6, 6) for m in round_medians(rounds))
    samples = pooled(rounds)
    return Side(float(np.median(samples)) / 1e6, medians, len(samples), exported.nodes, exported.exporter)


def columns(row: Row) -> list[str]:
    """A row as text cells."""
    size = "x".join(map(str, row.size))
    if row.speedup is None or row.plain is None or row.zoo is None:
        return [row.name, size, "", "", "", "", "", row.verdict]
    interval = f"{row.speedup.interval.low:.2f} to {row.speedup.interval.high:.2f}"
    times = [f"{row.plain.p50_ms:.3f}", f"{row.zoo.p50_ms:.3f}"]
    nodes = f"{row.plain.nodes} / {row.zoo.nodes}"
    return [row.name, size, *times, f"{row.speedup.speedup:.2f}", interval, nodes, row.verdict]


HEADINGS = ("mechanism", "C x H x W", "plain ms", "ours ms", "faster by", "95 % interval", "nodes", "verdict")


def lines(record: Record) -> list[str]:
    """The summary as sentences."""
    found = record.by_mechanism
    if not found:
        return ["Nothing was timed."]
    timed = sum(r.speedup is not None for r in record.rows)
    doubtful = [f"{r.name} {'x'.join(map(str, r.size))}" for r in record.rows if r.verdict == "within noise"]
    slow = [f"{r.name} {'x'.join(map(str, r.size))}" for r in record.slow]
    told = [
        f"Geometric mean over {len(found)} mechanisms ({timed} rows): {record.mean:.2f} times faster; least "
        f"{min(found.values()):.2f}, median {float(np.median(list(found.values()))):.2f}, most {max(found.values()):.2f}.",
        f"More than 5 % slower: {', '.join(slow) or 'none'}.",
    ]
    if doubtful:
        told.append(f"Slower, but within noise: {', '.join(doubtful)}.")
    environment = record.environment
    versions = ", ".join(
        f"{k} {environment.packages[k]}" for k in ("onnxruntime", "torch") if k in environment.packages
    )
    load = f"load {environment.load_average} at the start, {record.load_after} at the end"
    return [*told, f"{environment.cpu}, 1 thread, batch 1; {versions}; {load}; {record.created}."]


def notes(record: Record) -> list[str]:
    """What is special about single mechanisms, once for each."""
    told = dict.fromkeys((r.name, r.note) for r in record.rows if r.note)
    fixed = sorted({r.name for r in record.rows if r.speedup is not None and not {"H", "W"} & set(r.dynamic)})
    skipped = [
        (f"{r.name} {'x'.join(map(str, r.size))} skipped", r.reason) for r in record.rows if r.status == "skipped"
    ]
    plainly = [(f"{name}", note) for name, note in told]
    bound = [("H and W fixed in both files, as the plain form demands", ", ".join(fixed))] if fixed else []
    return [f"{name}: {text}." for name, text in [*plainly, *skipped, *bound]]


def as_text(record: Record) -> str:
    """The record as a table of text."""
    cells = [list(HEADINGS), *(columns(r) for r in record.rows)]
    widths = [max(len(c[i]) for c in cells) for i in range(len(HEADINGS))]
    table = []
    for row in cells:
        left = [v.ljust(w) for v, w in zip(row[:2], widths[:2], strict=True)]
        table.append("  ".join([*left, *(v.rjust(w) for v, w in zip(row[2:], widths[2:], strict=True))]))
    return "\n".join([*table, "", *lines(record), *notes(record)])


def as_markdown(record: Record) -> str:
    """The record as Markdown."""
    rule = "|" + "|".join(["---"] * 2 + ["---:"] * (len(HEADINGS) - 2)) + "|"
    table = [f"| {' | '.join(c)} |" for c in [list(HEADINGS), *(columns(r) for r in record.rows)]]
    return "\n".join([*lines(record), "", table[0], rule, *table[1:], "", *(f"- {n}" for n in notes(record))])


def default_path(environment: Environment) -> Path:
    """Where the record of this processor belongs."""
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", environment.cpu.lower())).strip("-")
    return Path(__file__).resolve().parents[1] / "profiles" / slug / "attention-cost.json"


def run(
    names: list[str],
    options: BenchOptions,
    sizes: tuple[tuple[int, int, int], ...],
    *,
    output: Path | None = None,
    done: Record | None = None,
) -> Record:
    """Time the named cases, but for rows already done; progress goes to standard error, the record so far to output."""
    environment, created = describe_environment(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    rows: list[Row] = []
    known = {(r.name, r.size): r for r in done.rows} if done else {}
    record = Record(environment, options, (), command_line(), created, load_average())
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        for size in dict.fromkeys(CASES[name].at(s) for s in sizes):
            rows.append(known.get((name, size)) or time_case(name, size, options))
            print(*columns(rows[-1]), rows[-1].reason[:60], sep="  ", file=sys.stderr, flush=True)
            record = replace(record, rows=tuple(rows), load_after=load_average())
            if output:
                write_atomic(output, record.to_json())
    return record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names of mechanisms, separated by commas")
    parser.add_argument("--quick", action="store_true", help="the small size alone, fewer samples, no record")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of a table of text")
    parser.add_argument("--render", type=Path, metavar="RECORD", help="print a record made earlier; nothing is timed")
    parser.add_argument("--resume", type=Path, metavar="RECORD", help="keep the rows of a run that was stopped")
    parser.add_argument(
        "--output", type=Path, help="the record; by default that of this processor, for a full run only"
    )
    given = parser.parse_args()
    if given.render:
        record = Record.read(given.render)
    else:
        names = given.only.split(",") if given.only else list(CASES)
        unknown = [n for n in names if n not in CASES]
        if unknown:
            parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(CASES)}")
        full = not given.only and not given.quick
        output = given.output or given.resume or (default_path(describe_environment()) if full else None)
        done = Record.read(given.resume) if given.resume else None
        options, sizes = (QUICK, SIZES[:1]) if given.quick else (FULL, SIZES)
        record = run(names, options, sizes, output=output, done=done)
    print(as_markdown(record) if given.markdown else as_text(record))
    return 0 if record.passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
