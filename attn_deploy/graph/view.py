"""A graph by its values, for rewrites that look at what is around a node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

_SMALL = 16  # elements of a constant that may be a factor or an index


@dataclass(frozen=True, slots=True)
class View:
    """A graph by its values: what makes them, how many read them, and small constants."""

    makers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, int]
    constants: Mapping[str, NDArray[np.generic]]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> View:
        """The view of a graph as it is now."""
        constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer if math.prod(i.dims) <= _SMALL}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        readers = Counter(i for n in graph.node for i in n.input)
        readers.update(o.name for o in graph.output)
        return cls({o: n for n in graph.node for o in n.output}, readers, constants)

    def only(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The node of an operator that makes a value which one other node reads."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == operator and self.readers[name] == 1 else None

    def is_number(self, name: str, value: float) -> bool:
        """Whether a value is a constant of one element, close to a number."""
        constant = self.constants.get(name)
        return constant is not None and constant.size == 1 and math.isclose(float(constant.item()), value, rel_tol=1e-3)

    def beside(self, node: onnx.NodeProto, value: float) -> str | None:
        """The other operand of a node of two, one of which is a number."""
        if len(node.input) != 2:
            return None
        for own, other in ((0, 1), (1, 0)):
            if self.is_number(node.input[own], value):
                return str(node.input[other])
        return None

    def ints(self, name: str) -> list[int] | None:
        """The elements of a constant of integers."""
        constant = self.constants.get(name)
        return None if constant is None else [int(n) for n in constant.reshape(-1)]
