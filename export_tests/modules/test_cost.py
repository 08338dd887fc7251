"""What the cost comparison rests on: the plain formulations are the same maths, and linear attention stays linear."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attn_deploy import export, fuse
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.resolve import catalog
from attn_deploy.resolve.resolve import resolve

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not (BENCHMARKS / "plain").is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

from plain import CASES, make_pair  # noqa: E402 - found through the path above
from plain.exports import check_modules_agree  # noqa: E402

# Modules whose re-association makes them linear in the number of positions.
LINEAR = ("non_local_dot_product", "light_nl", "a2_double_attention", "efficient_attention", "fpt_ground_trans")
HEIGHT, WIDTH = 21, 22


@pytest.mark.parametrize("name", CASES)
def test_a_plain_formulation_is_the_same_maths_on_the_same_weights(name):
    check_modules_agree(make_pair(name, CASES[name].at((64, 24, 24))))


# Entries whose usual formulation is not restated in benchmarks/plain yet: a new one has to be, or to be named there.
WITHOUT_PLAIN_FORM = set(json.loads(Path(__file__).with_name("without_plain_form.json").read_text(encoding="utf-8")))


def test_every_attention_mechanism_has_a_plain_formulation():
    attention = {s.name for s in catalog.import_all() if s.family == "attention"}
    restated = {case.model or name for name, case in CASES.items()}
    assert attention - restated == WITHOUT_PLAIN_FORM


class SquareMaps(TorchDispatchMode):
    """Collects the shapes of results with two axes as long as there are positions."""

    def __init__(self, positions):
        super().__init__()
        self.positions, self.found = positions, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and list(leaf.shape).count(self.positions) > 1:
                self.found.append((str(function), tuple(leaf.shape)))
        return result


def module_at(name):
    model = resolve(name)
    sizes = {s: {"H": HEIGHT, "W": WIDTH}.get(s[0], 1) for i in model.inputs for s in i.sizes}
    return model, example_arrays(model.inputs, {**sizes, "N": 1})


@pytest.mark.parametrize("deployed", [False, True], ids=["as written", "fused"])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_attention_builds_no_map_of_all_pairs(name, deployed):
    model, arrays = module_at(name)
    module = fuse(model.module) if deployed else model.module
    watch = SquareMaps(HEIGHT * WIDTH)
    with torch.no_grad(), watch:
        module(*[torch.from_numpy(a) for a in arrays.values()])
    assert not watch.found


def test_the_check_sees_a_map_of_all_pairs():
    model, arrays = module_at("danet_pam")
    watch = SquareMaps(HEIGHT * WIDTH)
    with torch.no_grad(), watch:
        model.module(*[torch.from_numpy(a) for a in arrays.values()])
    assert watch.found


@pytest.mark.parametrize("name", LINEAR)
def test_the_exported_graph_builds_no_map_of_all_pairs(name, tmp_path):
    _, arrays = module_at(name)
    path = export(name, tmp_path / "linear.onnx", opset=17, exporter="torchscript", verify=False).path
    graph = onnx.load(path)
    for value, array in zip(graph.graph.input, arrays.values(), strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, array.shape, strict=True):
            dim.dim_value = size
    del graph.graph.value_info[:]
    for output in graph.graph.output:
        output.type.tensor_type.ClearField("shape")
    known = onnx.shape_inference.infer_shapes(graph, data_prop=True, strict_mode=True).graph
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in known.value_info]
    assert len(shapes) >= len(known.node) - len(known.output)
    assert any(HEIGHT * WIDTH in s for s in shapes)
    assert not [s for s in shapes if s.count(HEIGHT * WIDTH) > 1]
