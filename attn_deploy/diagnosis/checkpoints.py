"""Where a graph can be looked into: the tensors that leave its modules, and in a graph without modules every tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from attn_deploy.diagnosis.trials import module_at
from attn_deploy.graph.parts import Parts

_FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
)


@dataclass(frozen=True, slots=True)
class Exit:
    """A tensor leaves a module as the ``index``-th of ``count``, in order of computation."""

    module: str
    index: int
    count: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tensor that can be compared.

    Attributes:
        tensor: its name in the graph.
        node: index of the node that makes it.
        module: path of the module of that node; empty if unknown.
        operator: type of that node.
        exits: the modules that it leaves, innermost first.
    """

    tensor: str
    node: int
    module: str
    operator: str
    exits: tuple[Exit, ...] = ()


def checkpoints(parts: Parts) -> tuple[Checkpoint, ...]:
    """The floating-point tensors at module boundaries and between modules, in order of computation."""
    paths = [module_at(parts, i) for i in range(len(parts.nodes))]
    exits: dict[str, list[Exit]] = {}
    members: dict[str, list[int]] = {}
    for node, path in enumerate(paths):
        for module in _around(path):
            members.setdefault(module, []).append(node)
    for module in sorted(members, key=lambda m: (-m.count("."), m)):
        leaving = [n for n in parts.leaving(members[module]) if is_float(parts, n)]
        for index, name in enumerate(leaving):
            exits.setdefault(name, []).append(Exit(module, index, len(leaving)))
    between = [o for i, p in enumerate(paths) if not p for o in parts.nodes[i].output]
    return at_tensors(parts, [*exits, *between, *parts.outputs], exits)


def at_tensors(
    parts: Parts, names: Iterable[str], exits: Mapping[str, list[Exit]] | None = None
) -> tuple[Checkpoint, ...]:
    """Checkpoints at those of the tensors that can be compared, in order of computation."""
    points = []
    for name in dict.fromkeys(names):
        maker = parts.maker.get(name)
        if maker is None or not is_float(parts, name) or not (parts.can_enter(name) or name in parts.outputs):
            continue
        out = tuple((exits or {}).get(name, ()))
        points.append(Checkpoint(name, maker, module_at(parts, maker), parts.nodes[maker].op_type, out))
    return tuple(sorted(points, key=lambda c: c.node))


def is_float(parts: Parts, name: str) -> bool:
    """Whether a tensor is known to be of a floating-point type."""
    value = parts.values.get(name)
    return value is not None and value.type.tensor_type.elem_type in _FLOATS


def _around(path: str) -> list[str]:
    """``a.b.c`` and the modules around it: ``a.b``, ``a``."""
    words = path.split(".") if path else []
    return [".".join(words[: k + 1]) for k in range(len(words))]
