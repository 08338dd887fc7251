"""What a user may say of the form of a quantized graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import onnx_ir as ir

from attn_deploy.errors import InvalidRequestError
from attn_deploy.graph.quantize.layers import module_of_node

TARGETS = ("cpu", "gpu")
ACTIVATIONS = ("uint8", "int8")
WRITTEN = ("qdq", "qoperator")


@dataclass(frozen=True, slots=True)
class QuantOptions:
    """The form of a quantized graph.

    Attributes:
        target: ``gpu``: symmetric pairs in front of products, for TensorRT and TensorRT-RTX. ``cpu``: zero points, and
            pairs on both sides of all that ONNX Runtime has kernels for. None: what runs here.
        activations: for CPUs, how activations are stored: uint8, which is faster there and the default, or int8.
        per_channel: weights have a scale for each output channel.
        attention: for CPUs, products of two activations are quantized too.
        written: ``qdq``, or ``qoperator``: as ONNX Runtime's optimiser makes it of the pairs, for ONNX Runtime alone.
        timed: for CPUs, time the graph here, and leave in float what is slower in 8 bits.
        only: patterns of nodes, modules or operator types; what matches none stays in float.
        exclude: patterns of what stays in float.
    """

    target: Literal["cpu", "gpu"] | None = None
    activations: Literal["uint8", "int8"] | None = None
    per_channel: bool = True
    attention: bool = False
    written: Literal["qdq", "qoperator"] = "qdq"
    timed: bool = True
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse words that are unknown, and options that the target does not have.

        Raises:
            InvalidRequestError: naming the option.
        """
        choices = (
            ("--target", self.target, (None, *TARGETS)),
            ("--activations", self.activations, (None, *ACTIVATIONS)),
            ("--format", self.written, WRITTEN),
        )
        for option, value, known in choices:
            if value not in known:
                words = " or ".join(k for k in known if k is not None)
                raise InvalidRequestError(f"{option} {value!r} is unknown; use {words}.")

    def check_gpu(self) -> None:
        """Refuse what graphs for GPUs do not have.

        Raises:
            InvalidRequestError: naming the option.
        """
        if self.activations == "uint8":
            raise InvalidRequestError(
                "--activations uint8 is for --target cpu: TensorRT takes int8 alone, which is the default for GPUs."
            )
        if self.attention:
            raise InvalidRequestError("--attention is for --target cpu: on GPUs attention is fused in half precision.")
        if self.written != "qdq":
            raise InvalidRequestError(
                f"--format {self.written} is for --target cpu: TensorRT builds only explicit pairs, --format qdq."
            )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which nodes may be quantized by the patterns of `QuantOptions`."""

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def reason(self, node: ir.Node) -> str:
        """Why a node stays in float; empty if it may be quantized."""
        excluded = next((p for p in self.exclude if matches(node, p)), None)
        if excluded is not None:
            return f"--exclude {excluded!r} names it"
        if self.only and not any(matches(node, p) for p in self.only):
            return f"--only {', '.join(map(repr, self.only))} does not name it"
        return ""

    def check(self, model: ir.Model) -> None:
        """Refuse a pattern that matches no node.

        Raises:
            InvalidRequestError: naming the pattern, and modules that there are.
        """
        nodes = list(model.graph)
        for option, patterns in (("--only", self.only), ("--exclude", self.exclude)):
            for pattern in patterns:
                if not any(matches(n, pattern) for n in nodes):
                    modules = list(dict.fromkeys(m for n in nodes if (m := module_of_node(n))))
                    raise InvalidRequestError(
                        f"{option} {pattern!r} matches no node, module or operator type. Nodes are called "
                        f"{_few([str(n.name) for n in nodes])}; modules {_few(modules) or '(the file names none)'}; "
                        f"operator types {_few(sorted({n.op_type for n in nodes}))}."
                    )


def matches(node: ir.Node, pattern: str) -> bool:
    """Whether a pattern with ``*`` and ``?`` names a node, its operator type, its module or a module around that."""
    module = module_of_node(node)
    names = [str(node.name), node.op_type]
    if module:
        parts = module.split(".")
        names += [".".join(parts[: n + 1]) for n in range(len(parts))]
    return any(fnmatchcase(name, pattern) for name in names)


def _few(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
