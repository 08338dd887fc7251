"""Graphs whose weights lie in files: read, written as one file or as a pair, and never as half of each."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from attn_deploy.errors import GraphError, InvalidRequestError
from attn_deploy.graph import placed
from attn_deploy.graph.artifact import load_model, read_onnx
from attn_deploy.graph.evidence import Evidence, write_evidence
from attn_deploy.graph.fold_placed import fold_placed
from attn_deploy.graph.light import light_model
from attn_deploy.graph.placed import array_of, filled, hollow, inflated, place_of, placed_tensors, weight_bytes
from attn_deploy.graph.seal import seal_of
from attn_deploy.graph.simplify import simplify_model
from attn_deploy.graph.written import atomic_model, data_path, refers_to_data, write_whole

SIZE = 300  # a weight of 360,000 bytes, more than stays in a graph


def graph(value: float = 1.0) -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32) * value
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", SIZE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", SIZE))],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.ones(SIZE, np.float32), "b")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_evidence(model, Evidence(model="net", version="0"))
    return model


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.onnx"
    onnx.save(graph(), path)
    return path


@pytest.fixture
def pair(tmp_path):
    path = tmp_path / "net.onnx"
    with atomic_model(graph(), path, external=True):
        pass
    return path


def test_a_light_graph_holds_all_but_the_large_weights(whole):
    full, light = onnx.load(whole), light_model(whole)
    assert [t.name for t in placed_tensors(light)] == ["w"]
    assert light.ByteSize() < 10_000 < full.ByteSize()
    assert weight_bytes(light) == weight_bytes(full) == 4 * (SIZE * SIZE + SIZE)
    assert np.array_equal(array_of(placed_tensors(light)[0]), numpy_helper.to_array(full.graph.initializer[0]))
    assert inflated(light).graph.SerializeToString(deterministic=True) == full.graph.SerializeToString(
        deterministic=True
    )
    assert seal_of(light) == seal_of(full)


def test_one_file_is_written_without_loading(whole, tmp_path):
    light = light_model(whole)
    write_whole(light, tmp_path / "again.onnx")
    again = onnx.load(tmp_path / "again.onnx")
    onnx.checker.check_model(again, full_check=True)
    assert seal_of(again) == seal_of(onnx.load(whole))
    assert read_onnx(tmp_path / "again.onnx").seal == "whole"


def test_a_pair_is_what_onnx_reads(pair):
    artifact = read_onnx(pair)
    assert artifact.seal == "whole"
    assert artifact.data == {"net.onnx.data": data_path(pair).stat().st_size}
    onnx.checker.check_model(str(pair), full_check=True)
    assert seal_of(onnx.load(pair)) == seal_of(graph())
    assert sorted(p.name for p in pair.parent.iterdir()) == ["net.onnx", "net.onnx.data"]


def test_the_seal_covers_the_data_file(pair):
    data = data_path(pair)
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    with pytest.warns(UserWarning, match="does not match"):
        assert read_onnx(pair).seal == "broken"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: d.unlink(), "holds no such file"),
        (lambda d: d.write_bytes(d.read_bytes()[:-9]), "cut short"),
    ],
)
def test_a_pair_that_is_not_whole_is_refused(pair, damage, words):
    damage(data_path(pair))
    with pytest.raises(GraphError, match=words):
        read_onnx(pair)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "", "link"])
def test_weights_are_read_from_the_folder_of_the_graph_only(pair, location):
    (pair.parent / "link").symlink_to("/etc/hostname")
    model = onnx.load(pair, load_external_data=False)
    for entry in (e for t in model.graph.initializer for e in t.external_data if e.key == "location"):
        entry.value = location
    pair.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="leads out of its folder"):
        read_onnx(pair)


def test_a_hollow_graph_has_inputs_for_weights_and_gets_them_back(pair):
    light = light_model(pair)
    bare = hollow(light)
    assert [i.name for i in bare.graph.input] == ["x", "w"]
    onnx.checker.check_model(bare, full_check=True)
    again = filled(bare, light)
    assert [i.name for i in again.graph.input] == ["x"]
    assert seal_of(again) == seal_of(light)


def test_simplifying_leaves_weights_where_they_are(pair):
    simplified = simplify_model(light_model(pair))
    assert simplified.tool
    (tensor,) = placed_tensors(simplified.model)
    assert place_of(tensor).path == data_path(pair)


def test_what_needs_weights_in_memory_says_where_it_ends(pair, monkeypatch):
    monkeypatch.setattr(placed, "LARGEST_FILE", 1000)
    with pytest.raises(GraphError, match="2 GiB"):
        load_model(pair)
    with pytest.raises(GraphError, match="2 GiB"):
        inflated(light_model(pair))
    assert load_model(pair, light=True)


def test_a_pair_that_becomes_one_file_leaves_no_data(pair):
    with atomic_model(graph(2.0), pair):
        pass
    assert [p.name for p in pair.parent.iterdir()] == ["net.onnx"]


def test_writing_over_a_pair_leaves_one_pair(pair):
    with atomic_model(graph(2.0), pair, external=True):
        pass
    assert seal_of(light_model(pair)) == seal_of(graph(2.0))
    assert sorted(p.name for p in pair.parent.iterdir()) == ["net.onnx", "net.onnx.data"]


@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize("old", [True, False])
def test_a_kill_leaves_the_old_pair_or_the_new_one(tmp_path, moment, old, monkeypatch):
    path = tmp_path / "net.onnx"
    seals = {seal_of(graph(2.0))}
    if old:
        with atomic_model(graph(), path, external=True):
            pass
        seals.add(seal_of(graph()))
    child = os.fork()
    if not child:
        calls = 0
        rename = Path.replace

        def replace(self: Path, target: Path) -> Path:
            nonlocal calls
            if calls == moment:
                os._exit(9)  # as a kill, or a power cut: nothing is tidied
            calls += 1
            return rename(self, target)

        Path.replace = replace
        with atomic_model(graph(2.0), path, external=True):
            pass
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if path.exists() or old:
        assert seal_of(light_model(path)) in seals
    with atomic_model(graph(3.0), path, external=True):  # and the next one tidies up
        pass
    assert seal_of(light_model(path)) == seal_of(graph(3.0))
    left = [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")]
    assert sorted(left) == ["net.onnx", "net.onnx.data"]
    assert os.waitstatus_to_exitcode(status) in (0, 9)


def test_a_full_disk_leaves_the_old_pair(pair):
    before = pair.read_bytes(), data_path(pair).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with (
            pytest.raises(InvalidRequestError, match="could not be written"),
            atomic_model(graph(2.0), pair, external=True),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (pair.read_bytes(), data_path(pair).read_bytes()) == before
    assert sorted(p.name for p in pair.parent.iterdir()) == ["net.onnx", "net.onnx.data"]


def test_a_graph_of_another_name_does_not_own_the_data(pair):
    moved = pair.rename(pair.with_name("other.onnx"))
    assert not refers_to_data(moved)
    assert read_onnx(moved).seal == "whole"  # the location inside still leads to the data


def test_what_depends_on_weights_alone_is_computed_once(tmp_path):
    model = graph()
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("ReduceMean", ["t"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["t", "mean"], ["standard"]),
        helper.make_node("Expand", ["standard", "many"], ["large"]),  # more than it is made of: stays
        helper.make_node("MatMul", ["x", "standard"], ["m"]),
        helper.make_node("ReduceMean", ["large"], ["one"], axes=[0, 1, 2], keepdims=0),
        helper.make_node("Add", ["m", "one"], ["y"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([9, SIZE, SIZE]), "many"))
    onnx.save(model, tmp_path / "net.onnx")
    light = light_model(tmp_path / "net.onnx")
    assert fold_placed(light, tmp_path / "folded") == 3
    assert [n.op_type for n in light.graph.node] == ["Expand", "MatMul", "ReduceMean", "Add"]
    assert [t.name for t in light.graph.initializer] == ["many", "standard"]
    write_whole(light, tmp_path / "folded.onnx")
    x = np.random.default_rng(1).standard_normal((2, SIZE)).astype(np.float32)
    right, got = (ReferenceEvaluator(str(tmp_path / n)).run(None, {"x": x})[0] for n in ("net.onnx", "folded.onnx"))
    assert np.allclose(right, got, atol=1e-4)
    assert fold_placed(light_model(tmp_path / "folded.onnx"), tmp_path / "again") == 0
