"""Whether the rows of one shape compute the same: held against eager, or against the file itself, before they are timed."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from attn_deploy.bench.row import ProfileRow, line_of_error
from attn_deploy.bench.stand import Bench, ReadyRunner
from attn_deploy.bench.subject import is_engine
from attn_deploy.errors import ParityError
from attn_deploy.graph.heads import Reading, read_outputs
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.parity.judge import LARGEST_ERROR
from attn_deploy.parity.neighbours import neighbouring_module
from attn_deploy.parity.report import ParityReport
from attn_deploy.parity.rounding import Rounding
from attn_deploy.parity.share import compare_by_share
from attn_deploy.parity.tolerance import TOLERANCES
from attn_deploy.parity.verify import compare
from attn_deploy.runtimes.base import Runner
from attn_deploy.runtimes.table import REFERENCE


@dataclass(frozen=True, slots=True)
class _Right:
    """What the rows are held against.

    Attributes:
        runner: gives the right outputs.
        word: for messages.
        rounding: how to learn what it rounds, where there is that.
        reading: how outputs are compared, where a graph says so.
    """

    runner: Runner
    word: str
    rounding: Rounding | None = None
    reading: Reading | None = None


def check_rows(
    bench: Bench,
    inputs: tuple[TensorInput, ...],
    rows: dict[str, ProfileRow],
    ready: dict[str, ReadyRunner],
    stack: contextlib.ExitStack,
) -> None:
    """Compare each candidate at the shape that is about to be timed; drop those that disagree from ``ready``."""
    module = bench.subject.module
    references = [n for n in ready if rows[n].runtime == REFERENCE and rows[n].precision == "fp32"][:1]
    others = [n for n in ready if n not in references]
    for name in others if module is None else references if not others else []:
        _refuse_unusable(rows, ready, name)
    others = [n for n in others if n in ready]
    own = bench.subject.onnx
    if not others or (module is None and (own is None or is_engine(own))):
        return
    right = _eager(bench, ready, references, stack) if module is not None else _file(bench, Path(str(own)), stack)
    for name in others:
        bench.progress(f"comparing {name} with {right.word}")
        bench.trail(name)
        try:
            report = _compared(bench, right, ready[name], inputs)
        except Exception as error:  # eager itself raises what it likes
            why = f"it could not be compared with {right.word}: {line_of_error(error)}"
            rows[name] = replace(rows[name], status="invalid", reason=why)
            del ready[name]
            continue
        rows[name] = replace(rows[name], parity=report)
        try:
            report.raise_if_failed(bench.subject.name)
        except ParityError as error:
            rows[name] = replace(rows[name], status="invalid", reason=str(error))
            del ready[name]
    for name in references:
        _refuse_unusable(rows, ready, name)


def _eager(bench: Bench, ready: dict[str, ReadyRunner], references: list[str], stack: contextlib.ExitStack) -> _Right:
    from attn_deploy.runtimes.eager import EagerRunner

    module = bench.subject.module
    if module is None:
        raise ValueError("eager needs a module")
    eager = functools.partial(EagerRunner, output_names=bench.subject.outputs, device=bench.device)

    def precise() -> Runner:
        import torch

        return eager(module, dtype=torch.float64, threads=bench.threads)

    def neighbour(seed: int, steps: int) -> Runner:
        return eager(neighbouring_module(module, seed, steps), threads=bench.threads)

    rounding = Rounding(precise, neighbour)
    if references:
        return _Right(ready[references[0]].runner, "eager", rounding)
    runner = eager(module, threads=bench.threads)
    stack.callback(runner.close)
    return _Right(runner, "eager", rounding)


def _file(bench: Bench, path: Path, stack: contextlib.ExitStack) -> _Right:
    """The user's file as it says, step by step: optimisers and converted files are held against that."""
    from attn_deploy.graph.artifact import load_model
    from attn_deploy.runtimes.graphs import graph_runner

    wider, reading = read_outputs(load_model(path, light=True))
    runner = graph_runner(wider, threads=bench.threads, optimize=False)
    stack.callback(runner.close)
    return _Right(runner, "the file without optimisations", reading=reading)


def _compared(bench: Bench, right: _Right, candidate: ReadyRunner, inputs: tuple[TensorInput, ...]) -> ParityReport:
    if candidate.info.precision == "int8":
        batches = bench.samples(inputs) or [example_arrays(inputs, seed=bench.options.seed)]
        return compare_by_share(right.runner, candidate.runner, batches, LARGEST_ERROR, jointly=True)
    return compare(
        right.runner,
        candidate.runner,
        inputs,
        (),
        tolerance=TOLERANCES.get(candidate.info.precision, TOLERANCES["float32"]),
        rounding=right.rounding,
        seed=bench.options.seed,
        reading=right.reading,
    )


def _refuse_unusable(rows: dict[str, ProfileRow], ready: dict[str, ReadyRunner], name: str) -> None:
    """Nobody compares the reference, or a file without its model; NaN is wrong wherever it comes from, and so is nothing."""
    outputs = ready[name].outputs
    bad = next((o for o, values in outputs.items() if not np.isfinite(values.astype(np.float64)).all()), None)
    if outputs and bad is None:
        return
    why = f"the output {bad!r} is NaN or infinite" if outputs else "it gives no tensor: forward must return one"
    rows[name] = replace(rows[name], status="invalid", reason=why)
    del ready[name]
