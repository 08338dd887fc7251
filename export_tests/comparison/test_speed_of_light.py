"""Work counted by hand, device limits, and what is said of a time against them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import attn_deploy
from attn_deploy.comparison import speed_of_light as roofline
from attn_deploy.comparison.speed_of_light import graph_limit, match_gpu, speed_of_light
from attn_deploy.errors import GraphError, InvalidRequestError
from attn_deploy.graph.work import GraphWork, graph_work, node_work
from attn_deploy.machine.devices import DeviceProfile, list_devices, load_device, read_device

CPU = DeviceProfile(
    "test", "Test", "cpu", ("fp32", "int8"), bandwidth_gbs=10, peaks_tflops={"fp32": 0.1, "int8": 0.2},
    caches=((1.0, 100.0),), launch_us=2.0,
)  # fmt: skip


def network(dtype=np.float32, quantized=False):
    """Conv 3 -> 4 with a 3 x 3 window and padding, then a ReLU; with Q/DQ pairs around the product if wanted."""
    rng = np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = rng.standard_normal((4, 3, 3, 3)).astype(dtype)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    held = [numpy_helper.from_array(weights, "w")]
    if quantized:
        scale, zero = numpy_helper.from_array(np.array(0.1, np.float32), "s"), numpy_helper.from_array(np.int8(0), "z")
        held = [numpy_helper.from_array((weights * 20).astype(np.int8), "wq"), scale, zero]
        nodes[0].input[:] = ["xd", "wd"]
        nodes[:0] = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
        ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("y", kind, ["batch", 4, "height", "width"])],
        held,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_work_is_what_paper_and_pencil_say():
    work = graph_work(network(), {"x": (2, 3, 5, 7)})
    assert work.macs == 2 * 4 * 5 * 7 * 3 * 9
    assert work.flops == 2 * work.macs
    assert work.macs_by_precision == {"fp32": work.macs}
    x, y, w = 2 * 3 * 5 * 7 * 4, 2 * 4 * 5 * 7 * 4, 4 * 3 * 9 * 4
    assert (work.input_bytes, work.output_bytes, work.weight_bytes) == (x, y, w)
    assert work.bytes == x + y + w
    assert work.unfused_bytes == (x + w + y) + (y + y), "the convolution's tensors, then those of the ReLU"
    assert work.nodes == 2
    assert not work.unknown
    assert GraphWork.from_dict(json.loads(json.dumps(work.to_dict()))) == work


def test_half_the_bytes_in_half_precision():
    full, half = (graph_work(network(t), {"x": (1, 3, 8, 8)}) for t in (np.float32, np.float16))
    assert half.bytes * 2 == full.bytes
    assert half.macs_by_precision == {"fp16": full.macs}


def test_a_product_between_dequantizers_is_int8_and_its_weights_are_bytes():
    work = graph_work(network(quantized=True), {"x": (1, 3, 8, 8)})
    assert work.macs_by_precision == {"int8": 4 * 64 * 27}
    assert work.weight_bytes == 4 * 27 + 4 + 1, "weights as int8, one scale, one zero point"


@pytest.mark.parametrize("name", ["criss_cross", pytest.param("psp", marks=pytest.mark.slow)])
def test_every_tensor_of_real_graphs_is_known(name, tmp_path):
    """Sizes that pass through comparisons, masks and casts, where the library's inference stops, included."""
    artifact = attn_deploy.export(name, tmp_path / "model.onnx")
    model = onnx.load(artifact.path)
    for shape in ((1, 64, 32, 32), (3, 64, 24, 48)):
        work = graph_work(artifact.path, {model.graph.input[0].name: shape})
        assert not work.unknown
        assert work.input_bytes == 4 * int(np.prod(shape))
        assert work.output_bytes == work.input_bytes * {"criss_cross": 1, "psp": 2}[name]
        assert work.sha256 == artifact.sha256
    assert all(w.macs is not None for w in node_work(model, {model.graph.input[0].name: (1, 64, 32, 32)}))


def test_work_at_shapes_that_do_not_fit_is_refused():
    with pytest.raises(GraphError, match="does not take x 1x5x8x8"):
        graph_work(network(), {"x": (1, 5, 8, 8)})
    with pytest.raises(GraphError, match="shape of the input 'x' is not given"):
        graph_work(network(), {})


def test_the_floor_is_the_larger_of_both_times():
    found = speed_of_light(CPU, macs=50_000_000, ideal_bytes=10_000, measured_ms=3.0)
    assert found.compute_ms == pytest.approx(1.0), "100 MFLOP at 100 GFLOP/s"
    assert found.memory_ms == pytest.approx(10_000 / 100e9 * 1e3), "it fits into the cache"
    assert found.floor_ms == pytest.approx(1.0)
    assert found.multiple == pytest.approx(3.0)
    assert found.bound == "compute"
    found = speed_of_light(CPU, macs=0, ideal_bytes=20_000_000, unfused_bytes=60_000_000, measured_ms=5.0)
    assert found.memory_ms == pytest.approx(2.0), "it does not"
    assert found.unfused_ms == pytest.approx(6.0)
    assert found.bound == "memory"


def test_launches_are_the_limit_only_where_they_explain_the_time():
    small = {"macs": 1000, "ideal_bytes": 1000, "nodes": 10}
    assert speed_of_light(CPU, **small, measured_ms=0.03).bound == "launch", "20 of 30 microseconds"
    assert speed_of_light(CPU, **small, measured_ms=1.0).bound != "launch", "20 of 1000 microseconds"
    assert speed_of_light(CPU, **{**small, "nodes": None}, measured_ms=0.03).bound != "launch", "replayed from a graph"


def test_a_precision_without_a_peak_is_computed_in_fp32():
    times = {p: speed_of_light(CPU, macs=10**6, ideal_bytes=1, measured_ms=1, precision=p) for p in ("int8", "fp16")}
    assert times["fp16"].compute_ms == pytest.approx(2 * times["int8"].compute_ms)


def test_without_peak_and_bandwidth_there_is_no_floor():
    assert speed_of_light(DeviceProfile("x", "X", "cpu", ("fp32",)), macs=1, ideal_bytes=1, measured_ms=1) is None


def test_limits_follow_the_number_of_threads(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ntitle = "Mine"\nkind = "cpu"\nprecisions = ["fp32"]\nbandwidth_gbs = 30\n'
        "caches = [[8, 60], [1, 200]]\ncores = 4\nlaunch_us = 1.5\n[peaks_tflops]\nfp32 = 0.4\n"
        "[threads.1]\nbandwidth_gbs = 12\ncaches = [[0.5, 50]]\n[threads.1.peaks_tflops]\nfp32 = 0.1\n"
    )
    device = read_device(path)
    assert device.limits(1).peaks_tflops["fp32"] == 0.1
    assert device.limits(2).peaks_tflops["fp32"] == device.limits(None).peaks_tflops["fp32"] == 0.4
    assert [device.limits().bandwidth(n << 20) for n in (1, 8, 9)] == [200, 60, 30]
    work = graph_work(network(), {"x": (1, 3, 64, 64)})
    one, all_ = (graph_limit(work, device, 1.0, threads=n) for n in (1, 2))
    assert graph_limit(work, device, 1.0, threads=5) is None, "nobody knows what five threads reach"
    assert one.compute_ms == pytest.approx(4 * all_.compute_ms)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("caches = 3", "has the caches 3"),
        ("caches = [[1, -2]]", "has the caches"),
        ("launch_us = 0", "number that is not above 0"),
        ("threads = 2", "table for each number of threads"),
        ('bandwidth_gbs = "fast"', "bandwidth_gbs 'fast'"),
    ],
)
def test_limits_that_make_no_sense_are_refused(tmp_path, line, message):
    path = tmp_path / "bad.toml"
    path.write_text(f'name = "x"\ntitle = "X"\nkind = "cpu"\nprecisions = ["fp32"]\n{line}\n')
    with pytest.raises(InvalidRequestError, match=message):
        read_device(path)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("Tesla T4", "t4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 5090 Laptop GPU", "rtx5090-laptop"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3060 Ti", None),
        ("NVIDIA GeForce RTX 5070 Ti", None),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GeForce RTX 4080", None),
    ],
)
def test_gpus_are_known_by_the_name_that_their_driver_gives(driver, name):
    found = match_gpu(driver)
    assert (found.name if found else None) == name


def test_every_profile_gives_a_floor():
    for name in list_devices():
        found = speed_of_light(load_device(name), macs=10**9, ideal_bytes=10**8, measured_ms=100, nodes=10)
        assert found.floor_ms > 0
        json.dumps(found.to_dict(), allow_nan=False)


def test_gpu_work_is_told_from_cpu_work():
    assert roofline.on_gpu("NVIDIA H100", "eager")
    assert roofline.on_gpu("TensorrtExecutionProvider", "ort-tensorrt")
    assert not roofline.on_gpu("CPU", "eager")
    assert not roofline.on_gpu("CPUExecutionProvider", "ort-cpu")
