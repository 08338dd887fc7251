"""ONNX files that were sound once: fields set to something else, bits flipped, cut short, weights changed after the proof."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from hostile_inputs.case import NUMBERS, WORDS, Case, on_file
from hostile_inputs.graphs import made, proven

CHANGED = "changed after it was proven"
ELEMENTS = (0, 2, 7, 8, 9, 10, 14, 16, 17, 23, 9999)


def protobuf_edit(chance: random.Random, folder: Path) -> Case:
    """A valid graph with one to three fields set to something else."""
    model = onnx.load_from_string(proven())
    for _ in range(chance.randint(1, 3)):
        chance.choice(EDITS)(chance, model)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return on_file(chance, path)


def _word(chance: random.Random) -> str:
    return chance.choice(WORDS)


def _edit_node(chance: random.Random, model: onnx.ModelProto) -> None:
    if not model.graph.node:
        return
    node = chance.choice(model.graph.node)
    kind = chance.randrange(8)
    if kind == 0:
        node.op_type = chance.choice(
            ("Div", "Loop", "If", "Gather", "NoSuchOp", "Reshape", "Einsum", "Resize", "", "Attention", "Split", "TopK",
             "QuantizeLinear", "DequantizeLinear", "Constant", "GridSample", "NonMaxSuppression", "Concat", "Pad", "Slice")
        )  # fmt: skip
    elif kind == 1 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(("", "y", "nothing", "x", _word(chance)))
    elif kind == 2:
        node.output[0] = chance.choice(("y", "x", "", "w1", _word(chance)))
    elif kind == 3 and node.attribute:
        attribute = chance.choice(node.attribute)
        attribute.type = chance.randint(0, 14)
        attribute.i = chance.choice(NUMBERS)
        attribute.ints.append(chance.choice(NUMBERS))
    elif kind == 4 and node.attribute:
        attribute = chance.choice(node.attribute)
        del attribute.ints[:]
        attribute.ints.extend(chance.choice(NUMBERS) for _ in range(chance.randint(0, 5)))
    elif kind == 5:
        node.attribute.append(
            helper.make_attribute(chance.choice(("group", "axis", "pads", "auto_pad", "value", "to")), 1)
        )
        node.attribute[-1].type = chance.choice((AttributeProto.GRAPH, AttributeProto.FLOATS, AttributeProto.STRING, 0))
    elif kind == 6:
        model.graph.node.append(node)
    else:
        node.domain = chance.choice(("com.microsoft", "evil", "ai.onnx.ml", _word(chance)))


def _edit_value(chance: random.Random, model: onnx.ModelProto) -> None:
    value = chance.choice([*model.graph.input, *model.graph.output])
    tensor = value.type.tensor_type
    kind = chance.randrange(8)
    if kind == 0:
        tensor.elem_type = chance.choice(ELEMENTS)
    elif kind == 1 and tensor.shape.dim:
        chance.choice(tensor.shape.dim).dim_value = chance.choice(NUMBERS)
    elif kind == 2 and tensor.shape.dim:
        chance.choice(tensor.shape.dim).dim_param = _word(chance)
    elif kind == 3:
        tensor.ClearField("shape")
    elif kind == 4:
        value.type.Clear()
    elif kind == 5:
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    elif kind == 6:
        tensor.shape.dim.add().dim_value = chance.choice(NUMBERS)
    else:
        value.name = _word(chance)


def _edit_weight(chance: random.Random, model: onnx.ModelProto) -> None:
    if not model.graph.initializer:
        return
    tensor = chance.choice(model.graph.initializer)
    kind = chance.randrange(8)
    if kind == 0 and tensor.data_location != TensorProto.EXTERNAL:
        try:
            array = numpy_helper.to_array(tensor).copy()
        except Exception:  # an edit before this one
            return
        if array.dtype.kind == "f" and array.size:
            array.flat[0] = chance.choice((np.nan, np.inf, -np.inf, 3e38, 1e-40))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    elif kind == 1 and tensor.dims:
        tensor.dims[0] = chance.choice(NUMBERS)
    elif kind == 2:
        tensor.data_type = chance.choice(ELEMENTS)
    elif kind == 3:
        tensor.dims.append(chance.choice(NUMBERS))
    elif kind == 4:
        tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data) + 1)]
    elif kind == 5:
        chance.choice((tensor.float_data, tensor.double_data)).append(1.0)
    elif kind == 6:
        sparse = model.graph.sparse_initializer.add()
        sparse.values.CopyFrom(tensor)
        sparse.indices.CopyFrom(numpy_helper.from_array(np.array([chance.choice(NUMBERS)]), "i"))
        sparse.dims.append(chance.choice(NUMBERS))
    else:
        tensor.data_location = TensorProto.EXTERNAL
        for key in chance.choice((("location",), ("location", "offset", "length"), ())):
            entry = tensor.external_data.add()
            names = ("../secret", "/etc/passwd", "missing.bin", "", "m.onnx", "sound.npz", "/dev/zero")
            entry.key, entry.value = key, chance.choice(names) if key == "location" else str(chance.choice(NUMBERS))


def _edit_model(chance: random.Random, model: onnx.ModelProto) -> None:
    kind = chance.randrange(8)
    if kind == 0:
        model.opset_import[0].version = chance.choice((0, 1, 6, 99, 2**40))
    elif kind == 1:
        model.opset_import.add().version = chance.choice((1, 17))
    elif kind == 2:
        model.ir_version = chance.choice((0, 1, 99, 2**40))
    elif kind == 3:
        model.graph.output.add().CopyFrom(model.graph.output[0])
    elif kind == 4:
        del model.graph.output[:]
    elif kind == 5:
        function = model.functions.add()
        function.name, function.domain = "Conv", chance.choice(("", "evil"))
        function.input.append("a")
        function.output.append("b")
        function.node.append(helper.make_node(chance.choice(("Conv", "Identity")), ["a"], ["b"]))
    elif kind == 6:
        note = model.graph.quantization_annotation.add()
        note.tensor_name = _word(chance)
    elif model.metadata_props:
        chance.choice(model.metadata_props).value = chance.choice(
            ("{no", "[" * 3000, "null", '{"a": NaN}', "[]", '{"history": 3}', "\ufffe", _word(chance))
        )


EDITS = (_edit_node, _edit_value, _edit_weight, _edit_model)


def evidence(chance: random.Random, folder: Path) -> Case:
    """A graph with evidence of a stranger's making: words of any kind where facts are expected."""
    model = onnx.load_from_string(proven())
    entries = {p.key: p for p in model.metadata_props}
    names = ("record", "history", "parity", "typing", "quantization", "precision", "opset", "dynamic_axes", "arguments")
    texts = (
        "{}", "[]", "null", "3", '"x"', "NaN", "[[[[]]]]", '[{"step": {"a": 1}}]', '{"parity": 7, "versions": []}',
        '{"preprocess": 3, "postprocess": {"topk": "x"}}', '{"inputs": [{"name": 1}], "multiple": "N"}',
        '{"model": "<script>alert(1)</script>", "verified_shapes": [3]}', '{"max_abs_error": "<b>", "cases": {}}',
        '{"weights": 5, "dynamic": {"N": 1}, "fused": [1], "multiple": {"N": -1}}', "\u202e", "x" * 100_000,
        '{"preprocess": {"mean": [1], "std": [0], "layout": "evil", "dtype": "object"}}', '{"labels": [1, 2]}',
    )  # fmt: skip
    for _ in range(chance.randint(1, 2)):
        key = "attn_deploy." + chance.choice(names)
        entry = entries.get(key) or model.metadata_props.add(key=key)
        entry.value = chance.choice(texts)
    if chance.random() < 0.7:  # whoever writes evidence can write a seal too
        from attn_deploy.graph import evidence as writer

        kept = [p for p in model.metadata_props if p.key != writer.SEAL]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        model.metadata_props.add(key=writer.SEAL, value=writer._seal(model, {p.key: p.value for p in kept}))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return on_file(chance, folder / "m.onnx")


def flip(chance: random.Random, folder: Path) -> Case:
    """A proven file with a few bits flipped: what still reads must be called changed, if anything sealed is another."""
    content = bytearray(proven())
    for _ in range(chance.choice((1, 1, 1, 3, 20))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    (folder / "m.onnx").write_bytes(content)
    return on_file(chance, folder / "m.onnx", must_say=CHANGED if _is_changed(bytes(content)) else "")


def _is_changed(content: bytes) -> bool:
    """Whether a file's graph is another than that of the proven one: by protobuf, and not by the project's own seal."""
    try:
        model = onnx.load_from_string(content)
    except Exception:  # nobody can read it
        return False
    first = onnx.load_from_string(proven())
    notes, before = ({p.key: p.value for p in m.metadata_props} for m in (model, first))
    for graph in (model.graph, first.graph):
        del graph.value_info[:]
        graph.ClearField("doc_string")
        graph.ClearField("name")
        for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
            part.ClearField("doc_string")
            if hasattr(part, "metadata_props"):
                del part.metadata_props[:]
    if "attn_deploy.seal" not in notes:
        return False
    ours = (
        {k: v for k, v in m.items() if isinstance(k, str) and k.startswith("attn_deploy.")} for m in (notes, before)
    )
    return (
        len({repr(sorted(o.items(), key=repr)) for o in ours}) > 1
        or model.graph.SerializeToString() != first.graph.SerializeToString()
    )


def sealed(chance: random.Random, folder: Path) -> Case:
    """A proven file whose weights or evidence were changed, the seal still inside."""
    model = onnx.load_from_string(proven())
    if chance.random() < 0.7:
        tensor = chance.choice([i for i in model.graph.initializer if i.data_type == TensorProto.FLOAT])
        array = numpy_helper.to_array(tensor).copy()
        array.flat[chance.randrange(array.size)] += chance.choice((0.5, -3.0, 1e-2))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    else:
        entry = chance.choice(
            [p for p in model.metadata_props if p.key in ("attn_deploy.history", "attn_deploy.conversion")]
        )
        entry.value = entry.value.replace("1", "0", 1) if "1" in entry.value else entry.value + " "
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    if chance.random() < 0.3:
        return Case(("inspect", "m.onnx", "--check"), must_fail=True)
    return on_file(chance, folder / "m.onnx", must_say=CHANGED)


def external(chance: random.Random, folder: Path) -> Case:
    """Weights in a file beside the graph: flipped, cut, gone, a link, or a pipe that never ends."""
    made("external", folder)
    data = folder / "m.onnx.data"
    content = bytearray(data.read_bytes())
    kind = chance.randrange(6)
    must_fail, must_say = kind in (1, 2, 3, 4), ""
    if kind == 0:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        data.write_bytes(content)
        must_say = CHANGED
    elif kind == 1:
        data.write_bytes(content[: chance.randrange(len(content) // 2)])
    elif kind == 2:
        data.unlink()
    elif kind == 3:
        data.unlink()
        data.symlink_to(chance.choice(("/etc/passwd", "/dev/zero", "m.onnx.data", "/")))
    elif kind == 4:
        data.unlink()
        data.mkdir()
    else:
        data.write_bytes(content + bytes(1000))
    return on_file(chance, folder / "m.onnx", must_fail=must_fail, must_say=must_say)


def truncation(chance: random.Random, folder: Path) -> Case:
    """A file cut short, or followed by something else, or another kind of file."""
    content = proven()
    kind = chance.randrange(6)
    cut = content[: chance.randrange(len(content))]
    half = bytearray(content)
    start = chance.randrange(len(half))
    half[start : start + 200] = bytes(min(200, len(half) - start))
    texts = (
        cut, content + chance.randbytes(64), b"PK\x03\x04" + chance.randbytes(200), chance.randbytes(500), bytes(half), b"",
    )  # fmt: skip
    (folder / "m.onnx").write_bytes(texts[kind])
    return on_file(chance, folder / "m.onnx", must_fail=kind in (2, 5))
