"""Golden inputs with the right outputs, which a package is checked on wherever it goes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attn_deploy.deploy.package.standalone.verify import wrong_outputs
from attn_deploy.errors import ParityError
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.parity.tolerance import TOLERANCES
from attn_deploy.runtimes.base import Runner, run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

if TYPE_CHECKING:
    from attn_deploy.exporters.prepared import PreparedModel

Case = tuple[Arrays, Arrays]
_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "fp8": "int8"}
_MANY = 12  # sets of inputs that are tried for golden ones without near ties


def golden_tolerance(precision: str) -> dict[str, Any]:
    """The tolerance of a precision as JSON-ready data."""
    return asdict(TOLERANCES[_TYPES.get(precision, "float32")])


def golden_cases(
    path: Path,
    inputs: Sequence[TensorInput],
    symbols: Sequence[str],
    reference: Runner | None,
    precision: str,
    owner: str,
) -> list[Case]:
    """Inputs at the traced and at two other sizes, with the reference's outputs, which the file must give too.

    A choice between scores that are nearly equal says nothing of a file, so inputs are chosen on which the file and the
    reference agree; numbers must be right on all of them.

    Args:
        path: the file.
        inputs: of the file.
        symbols: those that move.
        reference: what is right; None for the file itself in ONNX Runtime.
        precision: whose tolerance is applied.
        owner: the model's name in messages.

    Raises:
        ParityError: if the file gives other numbers than the reference.
    """
    candidate = OnnxRuntimeRunner(path)
    tolerance = golden_tolerance(precision)
    cases = []
    for index, sizes in enumerate([{}, *verification_sizes(inputs, symbols)[:2]]):
        problems: list[str] = []
        for attempt in range(_MANY):
            arrays = example_arrays(inputs, sizes, seed=1000 + 100 * index + attempt)
            right = dict(run_once(reference or candidate, arrays))
            results = dict(run_once(candidate, arrays))
            problems = wrong_outputs(results, right, tolerance)
            if not problems:
                cases.append((arrays, right))
                break
            if any("choices are right" not in p for p in problems):
                break
        if problems:
            raise ParityError(f"{owner}: the file and its reference disagree on golden inputs: {problems[0]}")
    candidate.close()
    return cases


def golden_bytes(cases: Sequence[Case]) -> bytes:
    """The cases as an ``.npz``: ``0/input/image``, ``0/output/scores`` ..."""
    arrays: dict[str, Any] = {}
    for number, (inputs, outputs) in enumerate(cases):
        arrays |= {f"{number}/input/{n}": a for n, a in inputs.items()}
        arrays |= {f"{number}/output/{n}": a for n, a in outputs.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def eager_runner(prepared: PreparedModel) -> Runner:
    """The prepared model in eager mode."""
    from attn_deploy.runtimes.eager import EagerRunner

    return EagerRunner(prepared.original, output_names=prepared.outputs)
