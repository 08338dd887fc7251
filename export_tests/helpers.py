from __future__ import annotations

import copy
import json
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn_deploy.parity.tolerance import NOISE_FACTOR
from attn_deploy.registry import ModelSpec
from attn_deploy.resolve.seeding import enliven as randomize
from attn_deploy.specs.sources import CATALOG

__all__ = [
    "EXEMPLARS",
    "as_tuple",
    "assert_matches_official",
    "assert_same_function",
    "cheap_first",
    "randomize",
    "read_vectors",
    "tiered",
]

# One of each kind that is hard in another way: where a step costs seconds, the default tier takes these and the slow all.
EXEMPLARS = ("se", "eca", "cbam", "ghostmodule", "non_local_embedded_gaussian", "psp", "condconv", "criss_cross")

# Backbones of the default tier; the others take minutes in both exporters, and are the slow tier's.
LIGHT_BACKBONES = ("resnet8", "resnet18")


def tiered(specs: Iterable[ModelSpec], default: Container[str] | None = None) -> list[Any]:
    """Registry entries as test parameters, marked slow: heavy backbones, and what is not in ``default`` where that is given."""
    heavy = {s.name for s in specs if s.family == "backbone" and s.name not in LIGHT_BACKBONES}
    slow = heavy | {s.name for s in specs if default is not None and s.name not in default}
    return [pytest.param(s, id=s.name, marks=[pytest.mark.slow] if s.name in slow else []) for s in specs]


CHEAP = 9_000_000  # multiply-accumulates at 32x32: a third of the zoo


def cheap_first(specs: Iterable[ModelSpec]) -> list[Any]:
    """Registry entries as test parameters: the light third for the default tier, the others marked slow."""
    work = {entry["name"]: entry["macs"] or 0 for entry in json.loads(CATALOG.read_text(encoding="utf-8"))}
    return [pytest.param(s, id=s.name, marks=[pytest.mark.slow] if work[s.name] > CHEAP else []) for s in specs]


def read_vectors(path: Path) -> dict[str, Any]:
    """A vector file: inputs and outputs as lists of arrays, the official state dict in order, the configuration."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {k: file[k] for k in file.files}
    names = sorted((k for k in arrays if k.startswith("input")), key=lambda k: int(k[5:] or 0))
    outputs = sorted((k for k in arrays if k.startswith("output")), key=lambda k: int(k[6:] or 0))
    state = {k.split("__", 1)[1]: torch.from_numpy(np.array(v)) for k, v in arrays.items() if k[0] == "p" and "__" in k}
    config = json.loads(str(arrays["config"])) if "config" in arrays else {}
    return {
        "inputs": [torch.from_numpy(arrays[k]) for k in names],
        "outputs": [arrays[k] for k in outputs],
        "state": state,
        "config": config,
        "extra": {k: v for k, v in arrays.items() if not k.startswith(("input", "output", "config")) and "__" not in k},
    }


def assert_matches_official(actual: np.ndarray, expected: np.ndarray, what: str, rtol: float = 1e-4) -> None:
    """The rule of the vectors: rtol 1e-4, atol 1e-5 * max(1, max|output|)."""
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, official {expected.shape}"
    atol = 1e-5 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=what)


def assert_same_function(changed: nn.Module, original: nn.Module, given: list[Tensor]) -> None:
    """``changed`` is an exact rewriting of ``original``: rtol and atol 1e-5 of the output's scale.

    Where float32 itself is less certain than that (near-ties in a softmax of large sums), its distance from float64 is
    the measure, as it is for exported files.
    """
    with torch.no_grad():
        expected, got = as_tuple(original(*given)), as_tuple(changed(*given))
        for index, (e, g) in enumerate(zip(expected, got, strict=True)):
            allowed = 1e-5 * max(1.0, float(e.abs().max())) + 1e-5 * e.abs()
            if bool(((g - e).abs() <= allowed).all()):
                continue
            precise = [t.double() if t.is_floating_point() else t for t in given]
            exact = as_tuple(copy.deepcopy(original).double()(*precise))[index]
            noise, error = float((e - exact).abs().max()), float((g - exact).abs().max())
            assert error <= NOISE_FACTOR * noise, f"output {index}: {error:.3g} from float64, before {noise:.3g}"


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    if isinstance(outputs, Tensor):
        return (outputs,)
    return tuple(outputs.values()) if isinstance(outputs, dict) else tuple(outputs)
