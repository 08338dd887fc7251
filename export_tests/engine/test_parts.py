"""The parts of the engine builder that need no TensorRT: profiles, options, progress, module paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attn_deploy.engine.network import precision_word
from attn_deploy.engine.options import BuildOptions, parse_size, parse_targets
from attn_deploy.engine.profile import Profile, make_profiles, unusual_sizes
from attn_deploy.engine.progress import ProgressTree
from attn_deploy.engine.scopes import NodePlace, mentioned, module_of
from attn_deploy.errors import InvalidRequestError
from attn_deploy.graph.artifact import OnnxArtifact, read_onnx
from export_tests.engine.engine_graphs import FLOAT, node, save, two_inputs

# Profiles


def graph(path: Path, shapes: dict[str, list[Any]], record: dict[str, Any] | None = None) -> OnnxArtifact:
    nodes = [node("Relu", [n], [f"out_{n}"]) for n in shapes]
    outputs = [(f"out_{n}", FLOAT, s) for n, s in shapes.items()]
    metadata = {} if record is None else {"record": json.dumps(record)}
    return read_onnx(save(path, nodes, [(n, FLOAT, s) for n, s in shapes.items()], outputs, metadata=metadata))


def texts(profiles: tuple[Profile, ...]) -> list[str]:
    return [str(p) for p in profiles]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"x": ["N", 3, "H", "W"]}, "x:1x3x32x32,8x3x224x224,32x3x448x448"),
        ({"x": ["batch_size", 5]}, "x:1x5,8x5,32x5"),
        ({"x": ["N", "L", 16]}, "x:1x1x16,8x64x16,32x512x16"),
        ({"x": ["N", 3, "H", "2*W"]}, "x:1x3x32x64,8x3x224x448,32x3x448x896"),
        ({"x": ["N", 3, 8, 8], "y": ["N", 2]}, "x:1x3x8x8,8x3x8x8,32x3x8x8 y:1x2,8x2,32x2"),
        ({"x": ["N", 3, "H/what?", None]}, "x:1x3x32x32,8x3x224x224,32x3x448x448"),
    ],
)
def test_ranges_are_derived_from_the_axes(shapes, expected, tmp_path):
    assert texts(make_profiles(graph(tmp_path / "net.onnx", shapes))) == [expected]


def test_ranges_are_derived_around_the_sizes_that_were_proven(tmp_path):
    record = {"traced_shapes": {"x": [2, 3, 40, 20]}, "verified_shapes": [{"x": [1, 3, 24, 15]}, {"x": [5, 3, 56, 31]}]}
    onnx = graph(tmp_path / "net.onnx", {"x": ["N", 3, "H", "W"]}, record)
    # H moved in steps of 8 wherever it ran, and never below 24
    assert texts(make_profiles(onnx)) == ["x:1x3x24x15,8x3x40x20,32x3x80x40"]


@pytest.mark.parametrize(
    ("arguments", "multiple", "expected", "usual"),
    [
        ({"num_classes": 10, "stem": "cifar"}, {}, "32x3x224x224", 32),
        ({"num_classes": 1000, "stem": "imagenet"}, {}, "32x3x448x448", 224),
        ({"num_classes": 10, "blocks": 3}, {}, "32x3x224x224", 32),
        ({"num_classes": 80, "decode": True}, {"H": 32, "W": 32}, "32x3x1280x1280", 640),
        ({"channels": 3}, {}, "32x3x70x52", None),
    ],
)
def test_a_backbone_gets_the_sizes_of_its_images_and_not_of_its_trace(arguments, multiple, expected, usual, tmp_path):
    record = {"model": "net", "arguments": arguments, "multiple": multiple, "traced_shapes": {"image": [2, 3, 35, 26]}}
    onnx = graph(tmp_path / "net.onnx", {"image": ["N", 3, "H", "W"]}, record)
    profiles = make_profiles(onnx)
    assert texts(profiles)[0].endswith(expected)
    assert not unusual_sizes(onnx, profiles)
    given = make_profiles(onnx, "image:1x3x480x480,1x3x480x480,1x3x480x480")
    warned = unusual_sizes(onnx, given)
    assert bool(warned) is (usual is not None)
    assert not usual or f"{usual}x{usual}" in warned[0]


def test_given_profiles_are_grouped_and_completed(tmp_path):
    onnx = graph(tmp_path / "net.onnx", {"x": ["N", "H"], "y": ["N", "H"], "z": [4]})
    one = ["x:1x2,2x4,4x8"]
    assert texts(make_profiles(onnx, one)) == ["x:1x2,2x4,4x8 y:1x2,2x4,4x8"]
    two = [*one, "y:1x2,2x4,4x8", "x:1x3"]
    assert texts(make_profiles(onnx, two)) == ["x:1x2,2x4,4x8 y:1x2,2x4,4x8", "x:1x3,1x3,1x3 y:1x3,1x3,1x3"]
    mapping = {"x": [(1, 2), (2, 4), (4, 8)]}
    assert make_profiles(onnx, [mapping, "y:1x3"]) == make_profiles(onnx, two)
    assert make_profiles(onnx, mapping) == make_profiles(onnx, one)
    static = graph(tmp_path / "static.onnx", {"x": [1, 2]})
    assert make_profiles(static) == make_profiles(static, "x:1x2") == ()
    assert Profile.from_dict(make_profiles(onnx, one)[0].to_dict()) == make_profiles(onnx, one)[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("x:2x8,1x8,4x8", "'x' is not in order on axis 0: min 2, opt 1, max 4"),
        ("x:1x8,4x8,2x8", "'x' is not in order on axis 0: min 1, opt 4, max 2"),
        ("x:1x8x1,2x8x1,4x8x1", r"min shape 1x8x1 of 'x' has 3 axes; the graph has 2: x float\[N, 8\]"),
        ("x:1x8,2x8,4x9", "max shape 4x9 of 'x' has 9 on axis 1, which is fixed to 8"),
        ("x:0x8,2x8,4x8", "min shape 0x8 of 'x' has an axis of length 0"),
        ("y:1x8", "names the input 'y'; .* has 'x', 'mask'"),
        ("x:1x8,2x8", "gives 2 shapes for 'x'"),
        ("x=1x8", "'x=1x8' cannot be read; write NAME:MIN,OPT,MAX"),
        (":1x8", "cannot be read"),
        ("x:1x-8", "cannot be read"),
        ("x:", "cannot be read"),
        ("x:1x8,2x8,4x8", "leaves out the input 'mask', and its axis 'L' is not known"),
        (["x:1x8,2x8,4x8", "mask:1x4,2x4,8x4"], "'N' is shared by 'x' and 'mask', .* 1,2,4 in one and 1,2,8"),
    ],
)
def test_profiles_that_do_not_fit_are_refused(given, words, tmp_path):
    with pytest.raises(InvalidRequestError, match=words):
        make_profiles(read_onnx(two_inputs(tmp_path / "net.onnx")), given)


# Options


def test_targets_are_read_in_all_usual_spellings():
    assert parse_targets("sm86, SM_89,8.6,12.0,120,current") == ("sm86", "sm89", "sm120", "current")
    assert parse_targets(["sm86", "75,87"]) == ("sm86", "sm75", "sm87")
    assert parse_targets(None) == parse_targets("") == ()
    for word in ("sm8", "8.6.1", "ampere", "sm_"):
        with pytest.raises(InvalidRequestError, match="not a compute capability"):
            parse_targets(word)


def test_sizes_are_read_in_bytes_and_units():
    assert [parse_size(s) for s in ("4096", "1KiB", "1.5 MB", "2GiB", 7, None)] == [
        4096,
        1024,
        1500000,
        2 << 30,
        7,
        None,
    ]
    for word in ("", "GiB", "-1", "1 TiB", "1e9"):
        with pytest.raises(InvalidRequestError, match="cannot be read"):
            parse_size(word)


def test_options_survive_the_way_to_the_child():
    options = BuildOptions(("sm86",), True, 5, 3, "ampere-plus", True, "cache")
    assert BuildOptions.from_dict(options.to_dict()) == options


# Progress


def test_progress_is_the_share_of_nested_steps_and_never_falls():
    tree = ProgressTree()

    def start(phase: str, steps: int) -> float:
        return tree.update({"event": "start", "phase": phase, "steps": steps}).fraction

    def step(phase: str, index: int) -> float:
        return tree.update({"event": "step", "phase": phase, "step": index}).fraction

    assert start("all", 4) == 0.0
    assert step("all", 0) == 0.25
    assert start("part", 2) == 0.25
    assert step("part", 0) == 0.375
    assert tree.update({"event": "finish", "phase": "part"}).phase == "all"
    assert start("part", 2) == 0.375  # began again: what was reached stays reached
    assert step("all", 1) == 0.5
    assert tree.update({"event": "finish", "phase": "part"}).fraction == 0.5
    assert tree.update({"event": "finish", "phase": "all"}).fraction == 1.0


# Modules


@pytest.mark.parametrize(
    ("name", "scopes", "module"),
    [
        ("node_conv", "['', 'a', 'a.f', 'a.f.0', 'conv2d']", "a.f.0"),
        ("node_add", "['', 'add']", ""),
        ("node_shape", "['_empty_nn_module_stack_from_metadata_hook', 'sym_size']", ""),
        ("node_bad", "not a list", ""),
        ("/a1/f/f.0/Conv", None, "a1.f.0"),
        ("/layer1/layer1.0/conv1/Conv", None, "layer1.0.conv1"),
        ("/Add", None, ""),
        ("plain", None, ""),
    ],
)
def test_nodes_lead_back_to_modules(name, scopes, module):
    made = node("Add", ["a", "b"], ["c"])
    made.name = name
    if scopes is not None:
        made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    assert module_of(made) == module


def test_node_names_are_found_in_messages_whole():
    places = tuple(NodePlace(n, "Conv", "") for n in ("conv", "conv_1", "/a/Conv", "", "other", "a.b", "b"))
    text = "Could not find any implementation for node {ForeignNode[conv_1.../a/Conv]} or a.b. In compileGraph"
    assert [p.name for p in mentioned(text, places)] == ["conv_1", "/a/Conv", "a.b"]


def test_precisions_are_named_by_what_is_multiplied():
    assert precision_word({"float16": 3, "int8": 5}, {"float32": 50}) == "int8+fp16"
    assert precision_word({}, {"int64": 9, "bfloat16": 2}) == "bf16"
    assert precision_word({}, {"int32": 1}) == "int32"
