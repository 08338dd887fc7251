"""One plan on every accelerator type of a Ray cluster: what is asked of Ray, and once for real on a local one."""

from __future__ import annotations

import builtins
import json
import re
import types
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.bench.request import plan_profile
from attn_deploy.cli import app
from attn_deploy.comparison import fleet
from attn_deploy.comparison.collection import machine_label
from attn_deploy.comparison.fleet import CPU, accelerator_types, connect, profile_fleet
from attn_deploy.errors import InvalidRequestError, MissingDependencyError
from attn_deploy.inputs.grammar import parse_inputs
from export_tests.bench.profile_records import CPU as CPU_MACHINE
from export_tests.bench.profile_records import GPU, failed, record, row

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
    with pytest.raises(InvalidRequestError, match=r"already holds records \(L4\)"):
        profile_fleet(plan_profile("se"), save=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        profile_fleet(plan_profile("se"), save=tmp_path / "file" / "run")


class Ray(Nodes):
    """A cluster of one node a type, that answers with records already made; the user stops it after some."""

    def __init__(self, answers, together, stop_after):
        super().__init__(*((i, {f"accelerator_type:{kind}": 1.0}) for i, kind in enumerate(answers)))
        self.answers, self.together, self.left, self.cancelled = answers, together, stop_after, []

    def remote(self, *, resources, **_):
        kind = next(iter(resources)).removeprefix("accelerator_type:")
        return lambda _: types.SimpleNamespace(remote=lambda *_: kind)

    def wait(self, tasks, *, num_returns, timeout=None):
        if timeout == 0:
            ready = [t for t in tasks if t in self.together]
            return ready, [t for t in tasks if t not in ready]
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task):
        return self.answers[task]

    def cancel(self, task):
        self.cancelled.append(task)


def test_a_stop_keeps_what_has_come_and_the_rest_is_told_and_cancelled(tmp_path, monkeypatch):
    made = {kind: record(row("eager", 1.0), row("ort-cpu", 0.5)).to_json() for kind in ("A10", "H100", "L4", "T4")}
    ray = Ray(made, together=("L4",), stop_after=1)
    monkeypatch.setattr(fleet, "connect", lambda: ray)
    done = CliRunner().invoke(app, ["profile", "se", "--executor", "ray", "--save", str(tmp_path)])
    assert done.exit_code == 130, done.output
    assert "stopped; H100, T4 is still to be made" in " ".join(done.stderr.split())
    assert sorted(p.parent.name for p in tmp_path.glob("*/record.json")) == ["A10", "L4"]
    assert ProfileRecord.read(tmp_path / "L4" / "record.json").device == "L4"
    assert ray.cancelled == ["H100", "T4"]
    assert json.loads((tmp_path / "fleet.json").read_text())["stopped"] == ["H100", "T4"]
    again = Ray(made, together=(), stop_after=-1)
    monkeypatch.setattr(fleet, "connect", lambda: again)
    done = CliRunner().invoke(app, ["profile", "se", "--executor", "ray", "--save", str(tmp_path), "--resume"])
    assert done.exit_code == 0, done.output
    assert again.left == -3, "the two that were kept are not made again"


def test_all_types_stand_beside_each_other_in_one_result(tmp_path, monkeypatch):
    made = {
        "H100": record(row("eager", 1.0), row("ort-cpu", 0.5), environment=GPU),
        "L4": record(row("eager", 4.0), failed("ort-cpu", "no provider")),
    }
    monkeypatch.setattr(fleet, "connect", lambda: Ray({k: r.to_json() for k, r in made.items()}, (), -1))
    done = CliRunner().invoke(app, ["profile", "se", "--executor", "ray", "--save", str(tmp_path)])
    assert done.exit_code == 1, done.output
    table = done.stdout[done.stdout.index("model: resnet18+se") :]
    assert re.search(r"^H100 80GB HBM3 .*eager", table, re.MULTILINE)
    assert re.search(r"^L4 .*eager", table, re.MULTILINE)
    text = (tmp_path / "report.md").read_text()
    eager = [f"{made[k].rows[0].latency.p50_ms:.2f}" for k in ("H100", "L4")]
    assert f"| eager fp32 b1 32x32 | {eager[0]} | {eager[1]} |" in text
    speedup = made["H100"].rows[1].speedup.speedup
    assert re.search(rf"\| ort-cpu fp32 b1 32x32 \| [\d.]+ \({speedup:.2f}x\) \| failed \|", text)
    page = (tmp_path / "report.html").read_text()
    assert re.search(r'<table id="beside">.*L4, ms.*?</table>', page)


def test_a_node_without_accelerator_is_the_machine_that_it_is_without_a_cluster():
    assert machine_label(CPU_MACHINE, "cpu") == machine_label(CPU_MACHINE) == "AMD EPYC, 2 cores"
    assert machine_label(CPU_MACHINE, "TPU-V4") == "TPU-V4"
    assert machine_label(GPU, "H100") == "H100 80GB HBM3"


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
    plan = plan_profile(path, batch=(1, 2), inputs=parse_inputs(["1x3x8x8"]), options=QUICK, timeout=120)
    found = profile_fleet(plan, save=tmp_path / "fleet", memory=False)
    assert found.passed, (found.failures, [r.reason for made in found.records.values() for r in made.rows])
    assert list(found.records) == ["ONE", "TWO"]
    for kind, made in found.records.items():
        assert made.device == kind
        assert [r.batch for r in made.rows] == [1, 2]
        assert ProfileRecord.read(tmp_path / "fleet" / kind / "record.json") == made
    again = profile_fleet(plan, save=tmp_path / "fleet", memory=False, resume=True)
    assert again.records["ONE"] == found.records["ONE"]
