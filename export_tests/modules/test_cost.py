"""What the cost comparison rests on: the plain formulations are the same maths, and linear attention stays linear."""

from __future__ import annotations

import ast
import importlib
import importlib.util
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
from plain.second_wave import SECOND_WAVE  # noqa: E402
from plain.second_wave_blocks import SECOND_WAVE_BLOCKS  # noqa: E402

# Modules whose re-association makes them linear in the number of positions.
LINEAR = ("non_local_dot_product", "light_nl", "a2_double_attention", "efficient_attention", "fpt_ground_trans")
HEIGHT, WIDTH = 21, 22


# One step of training, in test_trained_as_published.py, holds these in the default tier.
SECOND = {*SECOND_WAVE, *SECOND_WAVE_BLOCKS}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SECOND else []) for n in CASES])
def test_a_plain_formulation_is_the_same_maths_on_the_same_weights(name):
    check_modules_agree(make_pair(name, CASES[name].at((64, 24, 24))))


# Entries without a rewritten form, and what they are exported as: any other has to be restated in benchmarks/plain.
WITHOUT_PLAIN_FORM = json.loads(Path(__file__).with_name("without_plain_form.json").read_text(encoding="utf-8"))


def test_every_attention_mechanism_has_a_plain_formulation():
    attention = {s.name for s in catalog.import_all() if s.family == "attention"}
    restated = {case.model or name for name, case in CASES.items()}
    assert attention - restated == WITHOUT_PLAIN_FORM.keys()
    assert all(len(reason) > 20 for reason in WITHOUT_PLAIN_FORM.values())


def test_every_script_imports_what_the_package_has():
    """A benchmark is run by hand, and a name that moved would be found then."""
    missing = []
    for path in sorted(BENCHMARKS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attn_deploy"):
                module = importlib.import_module(node.module)
                names = (a.name for a in node.names)
                missing += [
                    f"{path.name}: {node.module}.{n}"
                    for n in names
                    if not hasattr(module, n) and importlib.util.find_spec(f"{node.module}.{n}") is None
                ]
    assert not missing


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
