"""Cells on a Ray cluster of two workers, started here."""

from __future__ import annotations

import builtins
import warnings
from pathlib import Path

import pytest

from attn_deploy.errors import MissingDependencyError
from attn_deploy.matrix.options import MatrixOptions
from attn_deploy.matrix.run import run_matrix
from attn_deploy.matrix.workers import worker_factory

NETS = str(Path(__file__).with_name("matrix_models.py"))


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTE_OF_THE_SLEEPER", str(tmp_path / "sleeper"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own making
        ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'attn-deploy[ray]'")
        from ray.cluster_utils import Cluster

        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        started.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", started.address)
        yield ray
        ray.shutdown()
        started.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_cells_are_spread_over_a_cluster_of_two_workers(cluster):
    models = tuple(f"{NETS}:{c}" for c in ("Crashes", "Hangs", "Good", "NanWeights"))
    options = MatrixOptions(
        models=models, opsets=(13, 17), exporters=("torchscript",), runtimes=("ort",), inputs=("2x4x9x12",)
    )
    record = run_matrix(options, executor="ray", jobs=2, timeout=20)
    assert len(cluster.nodes()) == 2
    found = {(c.id.model.rpartition(":")[2], c.id.opset): c for c in record.cells}
    assert {k for k, c in found.items() if c.status == "passed"} == {("Good", 13), ("Good", 17)}
    assert {found["Crashes", n].kind for n in (13, 17)} == {"crash"}
    assert {found["Hangs", n].kind for n in (13, 17)} == {"timeout"}
    assert {found["NanWeights", n].failed_check for n in (13, 17)} == {"parity"}
    assert not record.interrupted


def test_without_ray_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without_ray(name, *arguments, **settings):
        if name == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return real(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(MissingDependencyError, match=r"attn-deploy\[ray\]"):
        worker_factory("ray", 2)
