"""Runs a file in ONNX Runtime, and images to run it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort


def run(path: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def images(count: int = 4, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32)).astype(np.float32)
