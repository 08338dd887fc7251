from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attn_deploy.weights import enliven as randomize

__all__ = ["as_tuple", "assert_matches_official", "randomize", "read_vectors"]


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


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    if isinstance(outputs, Tensor):
        return (outputs,)
    return tuple(outputs.values()) if isinstance(outputs, dict) else tuple(outputs)
