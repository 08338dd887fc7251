"""One plan on every accelerator type of a Ray cluster: what is asked of Ray, and once for real on a local one."""

from __future__ import annotations

import builtins
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_deploy.bench.fleet import CPU, accelerator_types, connect, profile_fleet
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.bench.request import make_plan
from attn_deploy.errors import InvalidRequestError, MissingDependencyError
from attn_deploy.inputs import parse_inputs

QUICK = BenchOptions(
    min_samples=40, min_seconds=0, warmup_seconds=0.01, max_seconds=1, settle_seconds=0.001, threads=1, rounds=10
)


class Nodes:
    def __init__(self, *resources):
        self.resources = resources

    def nodes(self):
        return [{"Alive": i != "dead", "Resources": r} for i, r in self.resources]


def test_each_type_is_found_once_and_a_cluster_without_any_is_a_cpu():
    found = accelerator_types(
        Nodes(
            (0, {"CPU": 8.0}),
            (1, {"CPU": 8.0, "GPU": 4.0, "accelerator_type:H100": 1.0}),
            (2, {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}),
            (3, {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}),
            ("dead", {"CPU": 8.0, "GPU": 1.0, "accelerator_type:A100": 1.0}),
        )
    )
    assert found == {"H100": 1.0, "L4": 1.0}
    assert accelerator_types(Nodes((0, {"CPU": 8.0}))) == {CPU: 0.0}


def test_without_ray_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without_ray(name, *arguments, **settings):
        if name == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return real(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(MissingDependencyError, match=r"attn-deploy\[ray\]"):
        connect()


def test_a_folder_with_records_is_refused_before_a_cluster_is_asked(tmp_path):
    (tmp_path / "L4").mkdir()
    (tmp_path / "L4" / "record.json").write_text("{}")
    with pytest.raises(InvalidRequestError, match=r"records already \(L4\)"):
        profile_fleet(make_plan("se"), save=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        profile_fleet(make_plan("se"), save=tmp_path / "file" / "run")


@pytest.fixture
def cluster(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own making
        ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'attn-deploy[ray]'")
        from ray.cluster_utils import Cluster

        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        started.add_node(num_cpus=1, resources={"accelerator_type:ONE": 1})
        started.add_node(num_cpus=1, resources={"accelerator_type:TWO": 1})
        monkeypatch.setenv("RAY_ADDRESS", started.address)
        yield ray
        ray.shutdown()
        started.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_same_plan_on_two_types(cluster, tmp_path):
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [weight],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    plan = make_plan(path, batch=(1, 2), inputs=parse_inputs(["1x3x8x8"]), options=QUICK, timeout=120)
    found = profile_fleet(plan, save=tmp_path / "fleet", memory=False)
    assert found.passed, (found.failures, [r.reason for record in found.records.values() for r in record.rows])
    assert list(found.records) == ["ONE", "TWO"]
    for kind, record in found.records.items():
        assert record.device == kind
        assert [r.batch for r in record.rows] == [1, 2]
        assert ProfileRecord.read(tmp_path / "fleet" / kind / "record.json") == record
    again = profile_fleet(plan, save=tmp_path / "fleet", memory=False, resume=True)
    assert again.records["ONE"] == found.records["ONE"]
