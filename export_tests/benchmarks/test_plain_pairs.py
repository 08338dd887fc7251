"""Both files of a pair that `benchmarks/attention_cost.py` times: made, and each right against the plain formulation."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest

from attn_deploy.errors import ParityError
from attn_deploy.runtimes.base import run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from export_tests.conftest import ROOT


@pytest.fixture
def benchmark(monkeypatch):
    """A module of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module
    for name in [n for n in sys.modules if n == "plain" or n.startswith("plain.")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["effective_se", "mlca"])
def test_both_files_of_a_pair_give_the_same(name, benchmark):
    exports, cases = benchmark("plain.exports"), benchmark("plain.cases")
    pair = cases.make_pair(name, (16, 12, 10))
    plain, zoo, reason = exports.export_pair(pair)
    assert plain is not None, reason
    assert zoo is not None, reason
    x = {pair.inputs[0].name: np.random.default_rng(3).normal(size=(1, 16, 12, 10)).astype(np.float32)}
    first, second = (list(run_once(OnnxRuntimeRunner(m.model), x).values()) for m in (plain, zoo))
    for a, b in zip(first, second, strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_file_of_other_maths_is_not_timed(benchmark):
    exports, cases = benchmark("plain.exports"), benchmark("plain.cases")
    pair = cases.make_pair("effective_se", (16, 12, 10))
    _, zoo, _ = exports.export_pair(pair)
    other = cases.make_pair("effective_se", (16, 12, 10), seed=1)
    with pytest.raises(ParityError):
        exports._check_file(other, zoo.model, other.inputs, (), "zoo")
