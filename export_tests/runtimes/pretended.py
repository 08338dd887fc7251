"""A pretended TensorRT and GPU, with images and right answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attn_deploy.engine.flavors import FLAVORS, Flavor
from attn_deploy.machine.gpu import Gpu
from attn_deploy.runtimes import tensorrt as runner_module
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from export_tests.runtimes.fake_gpu import FakeTensorRT

ADA = Gpu("NVIDIA GeForce RTX 4090", "sm89", "13.0")
PROFILES = ("x:1x3x8x8,2x3x8x8,4x3x16x16", "x:8x3x8x8")


def pretend(library: FakeTensorRT, flavor: str, version: str, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    monkeypatch.setattr(runner_module, "find_gpu", lambda device: ADA if device == 0 else None)
    monkeypatch.setattr(runner_module, "load_runtime", lambda spec, **_: Flavor(FLAVORS[flavor], library, version))
    return library


def image(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def expected(onnx: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    return run_once(OnnxRuntimeRunner(onnx, threads=1), arrays)["y"]
