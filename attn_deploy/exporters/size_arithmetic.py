"""Integer arithmetic on sizes that exporters write for positive numbers only."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram


def make_divisions_exact_(program: ExportedProgram) -> None:
    """Write ``a // b`` of a negative number, or by one, as a division of positive numbers, in place.

    ONNX divides integers towards zero, Python towards minus infinity: ``-(-n // 2)`` and ``-(n // -2)``, the usual ways
    to round a size up, come out rounded down, and the file is wrong at every odd size. Both are ``(n + 1) // 2``.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is not operator.floordiv:
            continue
        dividend, divisor = node.args
        negative, by_negative = _value(dividend) < 0, _value(divisor) < 0
        if negative == by_negative:
            continue
        with graph.inserting_before(node):
            if by_negative:  # a // -b is -((a + b - 1) // b)
                positive = -divisor if isinstance(divisor, int) else _call(graph, operator.neg, divisor)
                raised = _call(graph, operator.add, dividend, _less_one(graph, positive))
            else:  # -a // b is -((a + b - 1) // b)
                positive = divisor
                raised = _call(graph, operator.sub, _less_one(graph, positive), dividend)
            quotient = _call(graph, operator.floordiv, raised, positive)
            whole = _call(graph, operator.mul, quotient, -1)
        node.replace_all_uses_with(whole)
        graph.erase_node(node)
    program.graph_module.recompile()


def _less_one(graph: fx.Graph, number: Any) -> Any:
    return number - 1 if isinstance(number, int) else _call(graph, operator.sub, number, 1)


def _call(graph: fx.Graph, function: Callable[..., Any], *arguments: Any) -> fx.Node:
    node = graph.call_function(function, arguments)
    node.meta["val"] = function(*map(_symbolic, arguments))
    return node


def _symbolic(argument: Any) -> Any:
    return argument.meta["val"] if isinstance(argument, fx.Node) else argument


def _value(argument: Any) -> int:
    """The number at the traced size; 0 where it depends on values."""
    number = _symbolic(argument)
    if isinstance(number, torch.SymInt):
        hint = number.node.hint
        return int(hint) if hint is not None else 0
    return int(number)
