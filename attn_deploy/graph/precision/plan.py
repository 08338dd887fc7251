"""Which node computes in which type: the rules of the table, the measured ranges, and what lies between."""

from __future__ import annotations

import collections
import difflib
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from attn_deploy.errors import InvalidRequestError
from attn_deploy.graph.inference import is_tensor
from attn_deploy.graph.opset.schemas import STANDARD_DOMAINS, schema_at
from attn_deploy.graph.precision import rules
from attn_deploy.graph.precision.ranges import Range
from attn_deploy.graph.precision.types import HalfType
from attn_deploy.graph.scopes import NAME_SCOPES, module_path

MARGIN = 4.0  # real data reaches further than what is measured on; masks of -1e4 are not near the end
LEVELS = 4  # of care
_WITH_SIGMOID = 2
_FLOAT = ir.DataType.FLOAT
_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64, ir.DataType.INT16, ir.DataType.INT8, ir.DataType.UINT8})


@dataclass(frozen=True, slots=True)
class Kept:
    """A node that stays in fp32.

    Attributes:
        node, operator: name and type of the node.
        module: path of the PyTorch module that it came from; empty if the file does not say.
        reason: in words.
        largest: the largest magnitude among its inputs and outputs, where that is the reason.
    """

    node: str
    operator: str
    module: str
    reason: str
    largest: float | None = None

    def __str__(self) -> str:
        where = f"module {self.module!r}" if self.module else f"node {self.node!r}"
        return f"{self.operator} in {where}: {self.reason}"


@dataclass(slots=True)
class PrecisionPlan:
    """The decision for a graph.

    Attributes:
        half: the type asked for.
        wide: the nodes that stay in fp32, with the reason, by name.
        overflow: the first tensor, in order of computation, beyond the largest half value: its node and its magnitude.
    """

    half: HalfType
    wide: dict[str, Kept] = field(default_factory=dict)
    overflow: Kept | None = None

    def keeps(self, node: ir.Node) -> bool:
        """Whether a node stays in fp32."""
        return node.name in self.wide


def plan_precision(
    model: ir.Model,
    half: HalfType,
    ranges: Mapping[str, Range] | None,
    *,
    margin: float = MARGIN,
    careful: int = 0,
    keep: Sequence[str] = (),
) -> PrecisionPlan:
    """Decide for each node of a prepared graph.

    Args:
        model: as `attn_deploy.graph.precision.prepared_graph` gives it; every node has a name.
        half: the type asked for.
        ranges: magnitudes by tensor name; None leaves the rule of the range out.
        margin: how far from the end of the range a magnitude must stay.
        careful: keep in fp32 also what feeds an exponential or a comparison, through two products (1), what feeds a sigmoid
            too (2), and through any number of products (3); from 1 on, also the product that predicts a position.
        keep: patterns of names of nodes, modules or operators that stay in fp32, as ``head.*`` or ``Softmax``.

    Raises:
        InvalidRequestError: if a pattern fits nothing.
    """
    plan = PrecisionPlan(half)
    nodes = list(model.graph)
    opset = model.opset_imports.get("", 0)
    sizes = _from_sizes(nodes)
    _by_name(plan, nodes, keep)
    for node in nodes:
        reason = _by_rule(node, half, opset, sizes) or _by_constant(node, half)
        if reason:
            _keep(plan, node, reason)
        if ranges is not None:
            _by_range(plan, node, ranges, margin)
    _before_indices(plan, nodes, careful)
    if careful:
        _before_decisions(plan, nodes, careful)
    _between(plan, nodes)
    _decided_on(plan, nodes)
    return plan


def _by_name(plan: PrecisionPlan, nodes: Iterable[ir.Node], keep: Sequence[str]) -> None:
    unused = dict.fromkeys(keep)
    places = []
    for node in nodes:
        name, operator, module = describe_plan(node)
        places.append(module or name)
        for pattern in keep:
            if any(fnmatch.fnmatchcase(word, pattern) for word in (name, operator, module) if word):
                unused.pop(pattern, None)
                _keep(plan, node, rules.BY_NAME)
    if unused:
        near = difflib.get_close_matches(next(iter(unused)), dict.fromkeys(places), n=3, cutoff=0.3)
        hint = f" The nearest names: {', '.join(near)}." if near else ""
        raise InvalidRequestError(f"--keep {next(iter(unused))!r} fits no node, module or operator of the graph.{hint}")


def describe_plan(node: ir.Node) -> tuple[str, str, str]:
    """Name, operator and module path of a node."""
    return node.name or "", node.op_type, module_path(node.name or "", node.metadata_props.get(NAME_SCOPES))


def _keep(plan: PrecisionPlan, node: ir.Node, reason: str, largest: float | None = None) -> None:
    if node.name is not None and node.name not in plan.wide:
        plan.wide[node.name] = Kept(*describe_plan(node), reason, largest)


def _by_rule(node: ir.Node, half: HalfType, opset: int, sizes: set[ir.Value]) -> str:
    if node.domain not in STANDARD_DOMAINS or any(a.type in _GRAPHS for a in node.attributes.values()):
        return rules.NO_HALF_FORM
    if not all(is_tensor(v) for v in (*node.inputs, *node.outputs) if v is not None):
        return rules.NO_HALF_FORM  # what it holds would have to change with it, wherever it goes
    if any(v in sizes for v in _floats(node.inputs)) or any(v in sizes for v in _floats(node.outputs)):
        return rules.TAKES_SIZE
    if node.op_type in rules.INDIFFERENT:
        return ""
    if not has_half_form(node, half, opset):
        return rules.NO_HALF_FORM
    reduction = node.attributes.get("reduction")
    if node.op_type in rules.SCATTERS and reduction is not None and reduction.as_string() != "none":
        return rules.SCATTERED
    return rules.reason_to_keep(node.op_type, half.word)


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def has_half_form(node: ir.Node, half: HalfType, opset: int) -> bool:
    """Whether the standard lets the node's first floating-point result, or else its first such input, be a half."""
    schema = schema_at(node.op_type, opset)
    if schema is None:
        return False
    kind = f"tensor({half.name})"
    for values, formals in ((node.outputs, schema.outputs), (node.inputs, schema.inputs)):
        for index, value in enumerate(values):
            if value is not None and value.dtype == _FLOAT and formals:
                return kind in formals[min(index, len(formals) - 1)].types
    return True


def has_float_result(node: ir.Node) -> bool:
    """Whether a node gives a float32 tensor."""
    return any(True for _ in _floats(node.outputs))


# These give integers that are extents or positions; other integers are data: the bytes of an image, a mask, a label.
_MAKE_SIZES = frozenset(
    {"Shape", "Size", "Range", "CumSum", "NonZero", "ArgMax", "ArgMin", "TopK", "NonMaxSuppression"}
)


def _from_sizes(nodes: Iterable[ir.Node]) -> set[ir.Value]:
    """Floating-point values that are computed from extents and positions alone."""
    sizes: set[ir.Value] = set()
    for node in nodes:
        moving = [v for v in node.inputs if v is not None and not _is_constant(v)]
        integers = [v for v in node.outputs if v.dtype in _INTEGERS]
        floats = list(_floats(node.outputs))
        if node.op_type in _MAKE_SIZES or (moving and all(v in sizes for v in moving)):
            sizes.update(integers)
        operands = [v for v in _floats(node.inputs) if not _is_constant(v)]
        if node.op_type == "Cast":
            operands = moving
        if node.op_type in ("Range", "CumSum") or (operands and all(v in sizes for v in operands)):
            sizes.update(floats)
    return sizes


def _by_constant(node: ir.Node, half: HalfType) -> str:
    """A constant that the half type cannot hold; small weights of a product may vanish, a lone number may not."""
    if node.op_type in rules.INDIFFERENT:
        return ""
    for value in _floats(node.inputs):
        if not _is_constant(value) or value.const_value is None:
            continue
        array = np.abs(value.const_value.numpy())
        if array.size == 0:
            continue
        largest = float(array.max())
        if largest > half.largest:
            return f"the constant {value.name!r} holds {largest:.4g}"
        if array.size == 1 and 0 < largest < half.smallest:
            return f"the constant {value.name!r} is {largest:.4g}, below the smallest normal value"
    return ""


def _by_range(plan: PrecisionPlan, node: ir.Node, ranges: Mapping[str, Range], margin: float) -> None:
    if node.op_type == "Shape":
        return
    half = plan.half
    here = [ranges[str(v.name)] for v in (*_floats(node.inputs), *_floats(node.outputs)) if str(v.name) in ranges]
    result = max((ranges[str(v.name)].largest for v in _floats(node.outputs) if str(v.name) in ranges), default=0.0)
    if result > half.largest and plan.overflow is None:
        plan.overflow = Kept(
            *describe_plan(node), f"reaches {result:.4g}, {half.word} ends at {half.largest:.5g}", result
        )
    largest = max((r.largest for r in here), default=0.0)
    if largest * margin > half.largest:
        _keep(plan, node, f"range: values up to {largest:.4g}, and {half.word} ends at {half.largest:.5g}", largest)
    elif 0 < result < half.smallest:
        _keep(
            plan,
            node,
            f"range: no value above {result:.4g}, and {half.word} loses digits below {half.smallest:.2g}",
            result,
        )


def _before_indices(plan: PrecisionPlan, nodes: Iterable[ir.Node], careful: int) -> None:
    """What becomes a position, through cheap nodes and, if careful, through the product that predicts it."""
    seeds = [n for n in nodes if n.op_type == "Cast" and _is_integer(n.outputs[0]) and any(_floats(n.inputs))]
    whole = [n for n in nodes if n.op_type in ("Floor", "Ceil", "Round")]
    seeds += whole
    admitted = rules.CHEAP | rules.PRODUCTS if careful else rules.CHEAP
    for node in _ancestors(seeds, lambda n: n.op_type in admitted, products=min(careful, 1)):
        _keep(plan, node, rules.INDEX)
    for node in nodes:
        if node.op_type == "Sub" and any(v.producer() in whole for v in _floats(node.inputs)):
            _keep(plan, node, rules.FRACTION)


def _before_decisions(plan: PrecisionPlan, nodes: Iterable[ir.Node], careful: int) -> None:
    """What feeds an exponential or a comparison: its error there is not a rounding any more."""
    decisive = rules.DECISIVE | ({"Sigmoid"} if careful >= _WITH_SIGMOID else set())
    seeds = [n for n in nodes if n.op_type in decisive and any(_floats(n.inputs))]
    for node in seeds:
        if has_float_result(node):
            _keep(plan, node, rules.DECIDES)
    for node in _ancestors(
        seeds, lambda n: n.op_type not in rules.INDIFFERENT, products=2 if careful <= _WITH_SIGMOID else None
    ):
        _keep(plan, node, rules.DECIDES)


def _ancestors(
    seeds: Iterable[ir.Node], admits: Callable[[ir.Node], bool], products: int | None = None
) -> Iterator[ir.Node]:
    """Producers of the seeds' floating-point inputs that are admitted, and theirs, with so many products on the way."""
    pending = collections.deque((s, 0) for s in seeds)
    seen: set[ir.Node] = set()
    while pending:
        node, passed = pending.popleft()
        for value in _floats(node.inputs):
            producer = value.producer()
            if producer is None or producer in seen or not admits(producer):
                continue
            count = passed + (producer.op_type in rules.PRODUCTS)
            if products is not None and count > products:
                continue
            seen.add(producer)
            yield producer
            pending.append((producer, count))


def _between(plan: PrecisionPlan, nodes: list[ir.Node]) -> None:
    """Cheap nodes whose floating-point neighbours are all in fp32 stay there; until nothing changes."""
    changed = True
    while changed:
        changed = False
        for node in nodes:
            if plan.keeps(node) or node.op_type not in rules.CHEAP or not any(_floats(node.outputs)):
                continue
            before = [v for v in _floats(node.inputs) if not _is_constant(v)]
            if not before or any(v.producer() is None or not plan.keeps(_producer(v)) for v in before):
                continue
            after = [u.node for v in _floats(node.outputs) for u in v.uses()]
            if after and all(plan.keeps(n) for n in after) and not any(v.is_graph_output() for v in node.outputs):
                _keep(plan, node, rules.BETWEEN)
                changed = True


def _decided_on(plan: PrecisionPlan, nodes: Iterable[ir.Node]) -> None:
    """Comparisons of what stays in fp32 read it there: rounded just before, a value near the threshold changes sides."""
    for node in nodes:
        before = [v for v in _floats(node.inputs) if not _is_constant(v)]
        if node.op_type not in rules.DECISIVE or has_float_result(node) or not before:
            continue
        if all(v.producer() is not None and plan.keeps(_producer(v)) for v in before):
            _keep(plan, node, rules.DECIDED_ON)


def _producer(value: ir.Value) -> ir.Node:
    producer = value.producer()
    if producer is None:
        raise ValueError("asked only of values that a node makes")
    return producer


def _floats(values: Iterable[ir.Value | None]) -> Iterator[ir.Value]:
    return (v for v in values if v is not None and v.dtype == _FLOAT and is_tensor(v))


def _is_integer(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in _INTEGERS


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer()
