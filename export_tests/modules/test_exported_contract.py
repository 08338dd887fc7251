"""What the plug-and-play page asks of its modules as exported files: inputs, sizes, parameter counts, smaller graphs."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from attn_deploy import create, export, fuse, registry
from attn_deploy.cli import app
from attn_deploy.fusing import fuse_with_report
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.ops import Fusible
from attn_deploy.resolve import catalog
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import as_tuple, assert_same_function, randomize

SPECS = catalog.import_all()

# Modules that take more than one tensor, with the names of their inputs.
INPUTS = {
    "aff": ("x", "residual"),
    "afnb": ("low", "high"),
    "border_align": ("x", "boxes"),
    "border_branch": ("x", "boxes"),
    "dca_cbam": ("x", "previous_channel", "previous_spatial"),
    "dca_gc": ("x", "previous"),
    "dca_se": ("x", "previous"),
    "deformable_attention": ("query", "reference", "value0", "value1", "value2", "value3"),
    "feature_concat": ("x0", "x1", "x2"),
    "fpt_ground_trans": ("low", "high"),
    "fpt_render_trans": ("high", "low"),
    "iaff": ("x", "residual"),
    "ocr": ("feats", "logits"),
    "octave_conv": ("high", "low"),
    "octave_conv_last": ("high", "low"),
    "ocr_object_attention": ("x", "proxy"),
    "ocr_spatial_gather": ("feats", "logits"),
    "seb": ("high", "low"),
    "weighted_feature_fusion": ("x0", "x1", "x2"),
    "yolo_weighted_fusion": ("x0", "x1", "x2"),
    "afpn": ("x0", "x1", "x2", "x3"),
    "asff": ("coarse", "middle", "fine"),
    "bifpn_layer": ("x0", "x1", "x2", "x3", "x4"),
    "bifusion": ("coarse", "middle", "fine"),
    "fpn": ("x0", "x1", "x2"),
    "pan": ("x0", "x1", "x2"),
}
OF_THIS_PAGE = ("border_align", "seb", "yolo_weighted_fusion", "feature_concat")


def test_every_module_with_several_inputs_is_in_the_table():
    assert {s.name for s in SPECS if len(resolve(s.name).inputs) > 1} == INPUTS.keys()


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        pytest.param(
            name, exporter, marks=() if name in OF_THIS_PAGE and exporter == "torchscript" else pytest.mark.slow
        )
        for name in INPUTS
        for exporter in ("torchscript", "dynamo")
    ],
)
def test_all_inputs_are_named_and_dynamic(name, exporter, tmp_path):
    model = resolve(name)
    artifact = export(name, tmp_path / "model.onnx", exporter=exporter, opset=18)
    graph = onnx.load(artifact.path).graph
    assert tuple(i.name for i in graph.input) == INPUTS[name]
    assert tuple(o.name for o in graph.output) == model.outputs
    for given, found in zip(model.inputs, graph.input, strict=True):
        for dim, written in zip(given.dims, found.type.tensor_type.shape.dim, strict=True):
            if isinstance(dim, int):
                assert written.dim_value == dim
            else:
                assert written.dim_param, f"{given.name}: {dim} is {written.dim_value} in the file"
    proven = artifact.record["verified_shapes"]
    traced = {i.name: i.shape() for i in model.inputs}
    for given in model.inputs:
        for axis, dim in enumerate(given.dims):
            lengths = {tuple(shapes[given.name])[axis] for shapes in proven} - {traced[given.name][axis]}
            assert lengths if isinstance(dim, str) else not lengths, f"{given.name}: {dim} was not moved"


# Sizes that follow from arguments.

STRIDED = [
    s
    for s in SPECS
    if "stride" in {a.name for a in s.arguments} and s.name not in ("rfb_s", "fpt_render_trans", "outlook_attention")
]


@pytest.mark.parametrize("spec", STRIDED, ids=lambda s: s.name)
def test_a_stride_works_at_the_sizes_that_are_declared_for_it(spec):
    model = resolve(f"{spec.name}:stride=2")
    for sizes in (None, *verification_sizes(model.inputs, ("N", "H", "W"), 2)):
        given = [torch.from_numpy(a) for a in example_arrays(model.inputs, sizes).values()]
        with torch.no_grad():
            assert as_tuple(model.module(*given))[0].shape[2] < given[0].shape[2]


@pytest.mark.parametrize("name", ["blaze_block", "spconv"])
def test_declared_sizes_follow_the_stride(name):
    plain, strided = resolve(name).inputs[0], resolve(f"{name}:stride=2").inputs[0]
    assert [(i.sizes["H"], i.multiple["H"]) for i in (plain, strided)] == [(17, 1), (18, 2)]
    assert registry.ModelSpec.from_dict(json.loads(json.dumps(registry.get(name).to_dict()))) == registry.get(name)
    assert resolve("blaze_block:stride=2,residual=False").inputs[0].sizes["H"] == 17


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("blaze_block:stride=2", "torchscript"),
        ("spconv:stride=2", "torchscript"),
        pytest.param("spconv:stride=2", "dynamo", marks=pytest.mark.slow),
        pytest.param("blaze_block:stride=2", "dynamo", marks=pytest.mark.slow),
        pytest.param("blaze_block:stride=2,tflite=True", "dynamo", marks=pytest.mark.slow),
        pytest.param("double_blaze_block:stride=2", "torchscript", marks=pytest.mark.slow),
    ],
)
def test_strided_blocks_are_exported_by_name(name, exporter, tmp_path):
    artifact = export(name, tmp_path / "model.onnx", exporter=exporter, opset=18)  # verified at even sizes
    (given,) = onnx.load(artifact.path).graph.input
    assert all(given.type.tensor_type.shape.dim[axis].dim_param for axis in (0, 2, 3))


# Parameter counts of the page, other than those of the reference configurations.

COUNTS = [
    ("swish", {"learnable": True}, 1),
    ("aspp", {"out_channels": 256}, 805_888),
    ("aspp", {"out_channels": 64}, 140_032),
    ("depthwise_separable_conv", {}, 4_672),
    ("depthwise_separable_conv", {"bias": True, "depthwise_bias": True}, 4_800),
    ("depthwise_separable_conv", {"norm": "last"}, 4_800),
    ("depthwise_separable_conv", {"norm": "both"}, 4_928),
    ("mixconv", {"kernel_size": (3, 5, 7), "depthwise": True}, 1_752),
    ("mixconv", {"kernel_size": (3, 5, 7, 9), "depthwise": True}, 2_624),
    ("seb", {"project_low": False}, 36_928),
    ("ssh", {"norm": False}, 34_656),
    ("context_gating", {"add_batch_norm": False}, 4_160),
    ("context_gating", {"linear_bias": True}, 4_288),
    ("effnet_block", {"out_channels": 128}, 21_504),
    ("border_branch", {"border_channels": 32}, 20_704),
    ("border_branch", {"border_channels": 64}, 41_344),
    ("condconv", {"routing": False}, 147_456),
    ("blaze_block", {"tflite": True}, 4_800),
    ("double_blaze_block", {}, 5_800),
]
FUSED_COUNTS = [("acblock", 36_928), ("doconv", 36_928), ("fused_conv_bn", 36_928), ("psconv", 36_864 + 9_216)]


@pytest.mark.parametrize(("name", "arguments", "count"), COUNTS)
def test_parameter_counts_of_variants(name, arguments, count):
    assert sum(p.numel() for p in create(name, **arguments).parameters()) == count


@pytest.mark.parametrize(("name", "count"), FUSED_COUNTS)
def test_parameter_counts_of_deployed_forms(name, count):
    assert sum(p.numel() for p in fuse(create(name)).parameters()) == count


# Re-parameterisations: equal, and smaller.

REPARAMETERISED = {
    "acblock": "merged three branches into one convolution",
    "doconv": "multiplied both factors into one convolution",
    "psconv": "merged the grouped convolution into the dense one",
    "psconv:deploy_form=one_conv": "merged three convolutions into one of 5x5",
    "psgconv": "merged the grouped convolution into the dense one",
    "spconv": "folded two BatchNorms",
    "spconv:deploy_form=one_conv": "folded two BatchNorms, merged two convolutions",
    "rfb": "folded the scale into the projection",
    "spp": "each max pool works on the one before it",
    "ghostmodule:out_channels=49": "dropped 1 unused depthwise group",
    "dynamic_conv": "folded the temperature",
}


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_reparameterisations_are_exact_and_reported(name):
    model = resolve(name)
    result = fuse_with_report(randomize(model.module))
    assert REPARAMETERISED[name] in {words for _, words in result.changes}
    for sizes in (None, *verification_sizes(model.inputs, ("N", "H", "W"), 2)):
        given = [torch.from_numpy(a) for a in example_arrays(model.inputs, sizes).values()]
        assert_same_function(result.model, model.module, given)
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in result.model.modules())
    assert result.left == ()


# Equal in count: pools of 5, 9 and 13 are as many as three of 5, and a smaller group is the same nodes.
SAME_NODES = {"spp", "ghostmodule:out_channels=49"}
LIGHT = (
    "acblock",
    "doconv",
    "psconv:deploy_form=one_conv",
    "spconv:deploy_form=one_conv",
    "ghostmodule:out_channels=49",
)
HEAVY = [n for n in dict.fromkeys([*REPARAMETERISED, *(s.name for s in SPECS)]) if n not in LIGHT]


@pytest.mark.parametrize("name", [*LIGHT, *(pytest.param(n, marks=pytest.mark.slow) for n in HEAVY)])
def test_the_exported_graph_shrinks(name, tmp_path):
    if name not in REPARAMETERISED and not any(isinstance(m, Fusible) for m in create(name).modules()):
        pytest.skip("nothing of it is fused")
    count, weight = {}, {}
    for fused in (True, False):
        options = {"opset": 17, "exporter": "torchscript", "simplify": False, "verify": False}  # sizes only
        artifact = export(name, tmp_path / "m.onnx", fuse=fused, **options)
        model = onnx.load(artifact.path)
        count[fused] = sum(n.op_type != "Constant" for n in model.graph.node)
        weight[fused] = sum(np.prod(t.dims) for t in model.graph.initializer)
    if name in REPARAMETERISED and name not in SAME_NODES:
        assert count[True] < count[False], "a re-parameterised module has fewer operators"
    assert count[True] <= count[False]
    if name == "ghostmodule:out_channels=49":
        assert weight[True] < weight[False]


# The list.


def test_list_shows_every_field_as_json():
    run = CliRunner().invoke(app, ["list", "--json"])
    assert run.exit_code == 0
    shown = {entry["name"]: entry for entry in json.loads(run.stdout)}
    assert shown.keys() == {s.name for s in SPECS}
    fields = set(registry.ModelSpec.__dataclass_fields__)
    for spec in registry.list_models():
        assert shown[spec.name].keys() == fields
        assert registry.ModelSpec.from_dict(shown[spec.name]) == spec


def test_list_groups_by_family_with_one_line_for_each():
    run = CliRunner().invoke(app, ["list"])
    lines = [line.strip() for line in run.stdout.splitlines()]
    families = list(dict.fromkeys(s.family for s in registry.list_models()))
    starts = [next(i for i, line in enumerate(lines) if line.startswith(f)) for f in families]
    assert starts == sorted(starts)
    for spec in registry.list_models():
        (line,) = [one for one in lines if one.split(" ")[0] == spec.name]
        start = starts[families.index(spec.family)]
        following = [s for s in starts if s > start]
        assert start < lines.index(line) < min(following, default=len(lines))
        assert line.removeprefix(spec.name).split(".")[0].split("...")[0].strip()
