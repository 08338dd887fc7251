"""A plan into rows, each shape in a process of its own: what crashes, hangs or takes too much memory is a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.bench.evidence import MemoryPeak
from attn_deploy.bench.files import Made, described_in, read_index
from attn_deploy.bench.fit import Need
from attn_deploy.bench.group import blank_row
from attn_deploy.bench.maker import Begun
from attn_deploy.bench.plan import ProfilePlan, Variant, inputs_from_dicts, inputs_to_dicts
from attn_deploy.bench.row import ProfileRow, line_of_error
from attn_deploy.errors import AttnDeployError, MissingDependencyError, WorkerError
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.isolate import run_isolated
from attn_deploy.processes import available_memory
from attn_deploy.runtimes.table import RUNTIMES

_CHILDREN = "attn_deploy.bench.children"
Progress = Callable[[str], None]


class ChildMaker:
    """Makes rows in child processes: one that makes the files, one that starts each row, one that times them in turn.

    A row whose start crashes, hangs or runs out of memory is not timed. Should the process that times them die, the
    trail that it left names the row; that one is left out, and the others are timed anew.

    Args:
        plan: what to make.
        folder: for files, engines and trails.
        memory: start each row once in a process of its own, and measure its peak memory and import there.
        progress: is called with a few words at each step.
    """

    def __init__(self, plan: ProfilePlan, folder: Path, *, memory: bool, progress: Progress) -> None:
        self._plan, self._folder, self._memory, self._progress = plan, folder, memory, progress
        self._missing: list[MissingDependencyError] = []
        self._begun: Begun | None = None

    def begin(self) -> Begun:
        """Make the model once, in a child, and ask it for its shapes."""
        self._progress("making the model")
        answer = self._call("model_shapes", "making the model", {})
        inputs = dict(zip(self._plan.shapes, map(inputs_from_dicts, answer["shapes"]), strict=True))
        needs = {s: Need(**n) for s, n in zip(self._plan.shapes, answer["needs"], strict=True)}
        self._begun = Begun(answer["name"], inputs, answer["has_module"], needs)
        return self._begun

    def rows(self, inputs: tuple[TensorInput, ...]) -> list[ProfileRow]:
        """The rows of one shape."""
        rows = {v.key: blank_row(v, inputs) for v in self._plan.variants}
        left = list(self._plan.variants)
        left = self._with_files(left, rows, inputs)
        if self._memory:
            left = [v for v in left if self._starts(v, rows, inputs)]
        while left:
            trail = self._folder / "trail"
            trail.write_text("", encoding="ascii")
            arguments = {"variants": [asdict(v) for v in left], "inputs": inputs_to_dicts(inputs)}
            try:
                answer = self._call("time_group", "timing", arguments, timeout=self._patience(len(left)))
            except WorkerError as error:
                left = self._blame(error, left, rows, trail.read_text(encoding="ascii").strip())
                continue
            for variant, data in zip(left, answer["rows"], strict=True):
                rows[variant.key] = _merged(rows[variant.key], ProfileRow.from_dict(data))
            self._missing += [MissingDependencyError(m) for m in answer["missing"]]
            break
        return list(rows.values())

    def accuracy(self, variant: Variant) -> AccuracyResult:
        """The plan's images through one variant, in a child."""
        self._progress(f"accuracy of {variant.key}")
        data = self._call("accuracy", f"testing {variant.key}", {"variant": asdict(variant)})
        return AccuracyResult.from_dict(data)

    def files(self) -> tuple[Mapping[str, Any], ...]:
        """Descriptions of the ONNX files that were used."""
        return described_in(self._index())

    def missing(self) -> list[MissingDependencyError]:
        """Dependencies that rows lacked."""
        return self._missing

    def _index(self) -> list[Made]:
        return read_index(self._folder, self._plan.onnx or self._plan.model)

    def _with_files(
        self, variants: list[Variant], rows: dict[str, ProfileRow], inputs: tuple[TensorInput, ...]
    ) -> list[Variant]:
        """Those whose files could be made; the others get the reason."""
        failed: dict[tuple[str, str], Exception] = {}
        files = [_file_of(v) for v in variants if RUNTIMES[v.runtime].needs == "onnx"]
        for precision, target in dict.fromkeys(files):
            if any(m.serves(inputs, precision, target) and m.error is None for m in self._index()):
                continue
            self._progress(f"making the {precision or 'ONNX'} file")
            try:
                self._call(
                    "make_file",
                    "exporting",
                    {"precision": precision, "target": target, "inputs": inputs_to_dicts(inputs)},
                )
            except AttnDeployError as error:
                if error.exit_code == 2 and not isinstance(error, ValueError):
                    raise
                failed[precision, target] = error
        kept = []
        for variant in variants:
            why = failed.get(_file_of(variant))
            if why is None or RUNTIMES[variant.runtime].needs != "onnx":
                kept.append(variant)
                continue
            rows[variant.key] = replace(rows[variant.key], reason=line_of_error(why))
            if isinstance(why, MissingDependencyError):
                self._missing.append(why)
        return kept

    def _starts(self, variant: Variant, rows: dict[str, ProfileRow], inputs: tuple[TensorInput, ...]) -> bool:
        """Start a row in a process of its own; whether it ran."""
        self._progress(f"starting {variant.key}")
        arguments = {"variant": asdict(variant), "inputs": inputs_to_dicts(inputs)}
        try:
            answer = self._call("start_row", f"starting {variant.key}", arguments)
        except WorkerError as error:
            rows[variant.key] = replace(rows[variant.key], reason=line_of_error(error))
            return False
        if answer["missing"]:
            self._missing.append(MissingDependencyError(answer["missing"]))
        row = ProfileRow.from_dict(answer["row"])
        memory = MemoryPeak(**answer["memory"]) if answer["memory"] else None
        rows[variant.key] = replace(row, memory=memory)
        return bool(answer["ran"])

    def _blame(self, error: WorkerError, left: list[Variant], rows: dict[str, ProfileRow], trail: str) -> list[Variant]:
        """Give the row that was running the reason, and return the others; all, if nothing tells which it was."""
        guilty = [v for v in left if v.key == trail] or left
        for variant in guilty:
            rows[variant.key] = replace(rows[variant.key], status="failed", reason=line_of_error(error), latency=None)
        return [v for v in left if v not in guilty]

    def _patience(self, count: int) -> float:
        options = self._plan.options
        return self._plan.timeout + count * 2 * (options.max_seconds + 5 * options.warmup_seconds)

    def _call(self, name: str, what: str, given: Mapping[str, Any], *, timeout: float | None = None) -> Any:
        arguments = {"plan": self._plan.to_dict(), "folder": str(self._folder.absolute()), **given}
        return run_isolated(
            f"{_CHILDREN}:{name}",
            arguments,
            what=what,
            timeout=self._plan.timeout if timeout is None else timeout,
            memory=_memory(self._plan),
            on_event=lambda event: self._progress(event["text"]),
        )


def _merged(started: ProfileRow, timed: ProfileRow) -> ProfileRow:
    """The timed row with what was measured when it was started in a process of its own."""
    cold = started.cold if started.cold is not None and timed.cold is not None else timed.cold
    return replace(timed, cold=cold, memory=started.memory)


def _memory(plan: ProfilePlan) -> int | None:
    """Bytes for a child. Drivers of GPUs reserve far more than they use, so there only what the user says is a limit."""
    gpu = any(Path("/dev", name).exists() for name in ("nvidiactl", "nvhost-ctrl-gpu"))
    return plan.memory_limit if plan.memory_limit is not None or gpu else available_memory()


def _file_of(variant: Variant) -> tuple[str, str]:
    """The precision and the target of the file that a row runs."""
    runtime = RUNTIMES[variant.runtime]
    return runtime.file_precision(variant.precision), runtime.target
