"""What torch's exporter is spared changes nothing of what it gives."""

from __future__ import annotations

import io

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from attn_deploy.exporters import torchlib
from attn_deploy.exporters.quiet import quiet_torch

library = pytest.importorskip("onnxscript._framework_apis.torch_2_5")


def facts():
    return [(m.qualified_name, m.name, m.domain, m.is_complex, m.function) for m in library.get_torchlib_ops()]


def test_what_is_not_read_is_what_would_be():
    read = facts()
    with torchlib._unread_sources():
        unread = facts()
    assert unread == read
    assert len(read) > 400
    assert facts() == read, "the library is as it was"


class Slices(nn.Module):
    """Normalised, split, cut twice, cast and reshaped: what the optimiser's rules look for, those with two outputs too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x):
        left, right = self.norm(self.conv(x)).split(4, dim=1)
        left = left.reshape(left.shape[0], 2, -1).reshape(left.shape)
        return (
            left.transpose(2, 3).transpose(2, 3) + right[:, :, 0:][:, :, :],
            right.to(torch.float64).to(torch.float32),
        )


def test_rules_tried_by_operator_give_the_same_graph(monkeypatch):
    matcher = pytest.importorskip("onnxscript.rewriter._matcher").SimplePatternMatcher
    tried = []
    match = matcher.match

    def counted(self, model, graph, node, **settings):
        result = match(self, model, graph, node, **settings)
        tried.append(bool(result))
        return result

    monkeypatch.setattr(matcher, "match", counted)
    with quiet_torch():
        program = torch.export.export(Slices().eval(), (torch.randn(2, 3, 8, 8),))

    def graph():
        tried.clear()
        with quiet_torch():
            model = torch.onnx.export(program, (), dynamo=True, optimize=True, verbose=False).model
        return ir.to_proto(model).graph.SerializeToString(deterministic=True), len(tried), sum(tried)

    at_every_node, attempts, matches = graph()
    with torchlib._rules_by_operator():
        by_operator, fewer, same = graph()
    assert by_operator == at_every_node
    assert same == matches > 0, "there is something for the rules to do"
    assert fewer * 10 < attempts
    assert graph()[1] == attempts, "the matcher is as it was"


@pytest.mark.parametrize("kind", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8])
def test_transposed_weights_are_written_as_they_would_be(kind, tmp_path):
    values = np.arange(-8, 7, dtype=np.int8).reshape(3, 5).T
    tensor = ir.Tensor(values.astype(kind.numpy()))

    def written():
        with (tmp_path / "weights").open("wb") as file:
            tensor.tofile(file)
        return (tmp_path / "weights").read_bytes()

    plain = written()
    assert plain == tensor.tobytes()
    with torchlib.contiguous_writes():
        assert written() == plain
    stream = io.BytesIO()
    with torchlib.contiguous_writes():
        tensor.tofile(stream)
    assert stream.getvalue() == plain


def test_the_decomposition_table_is_made_once_and_given_out_as_a_copy(monkeypatch):
    module = pytest.importorskip("torch.onnx._internal.exporter._decomp")
    monkeypatch.setattr(torchlib, "_decompositions", {})
    aten = torch.ops.aten
    registered = {aten.relu.default, aten.silu.default}
    right = module.create_onnx_friendly_decomposition_table(registered)
    with torchlib.shared_work({}):
        first, second = (module.create_onnx_friendly_decomposition_table(registered) for _ in range(2))
        other = module.create_onnx_friendly_decomposition_table({aten.relu.default})
    assert first == second
    assert first.keys() == right.keys(), "the functions of some are made at each call"
    assert first is not second
    assert aten.silu.default in other
    assert aten.silu.default not in right
    assert len(torchlib._decompositions) == 2


def test_an_operator_that_a_users_file_adds_is_in_the_next_table(monkeypatch):
    module = pytest.importorskip("torch.onnx._internal.exporter._decomp")
    monkeypatch.setattr(torchlib, "_decompositions", {})
    with torchlib.shared_work({}):
        module.create_onnx_friendly_decomposition_table(set())
    library = torch.library.Library("added_by_a_user", "DEF")
    try:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x + x, "CompositeImplicitAutograd")
        with torchlib.shared_work({}):
            table = module.create_onnx_friendly_decomposition_table(set())
        assert torch.ops.added_by_a_user.twice.default in table
    finally:
        library._destroy()
