"""What a conversion rule is: how one operator changes its form at one opset, in one direction."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from attn_deploy.graph.opset.builder import Builder

Replacement = ir.Value | Sequence[ir.Value] | None


class Direction(enum.Enum):
    """Which way a rule goes across the opset at which an operator changes."""

    DOWN = "down"
    UP = "up"


class NoFormError(Exception):
    """Raised by a rule: this node has no equivalent in the opset that is being written; the text says why."""


@dataclass(frozen=True, slots=True)
class OpsetRule:
    """A change of form.

    Attributes:
        operator: operator type in the standard domain.
        version: the opset at which the operator changes. Down rules turn the form of ``version`` into that of the opset
            before it, up rules the other way round.
        direction: down or up.
        what: the change in a few words, as shown to people.
        apply: gets the node and a builder of nodes in the form to be written. It returns the values that replace the
            node's outputs, each of them made by the builder, or None to leave the node as it is.
    """

    operator: str
    version: int
    direction: Direction
    what: str
    apply: Callable[[ir.Node, Builder], Replacement]


def down(
    operators: str | Sequence[str], version: int, what: str, apply: Callable[[ir.Node, Builder], Replacement]
) -> tuple[OpsetRule, ...]:
    """Rules from the form of opset ``version`` to the one before it."""
    names = [operators] if isinstance(operators, str) else operators
    return tuple(OpsetRule(n, version, Direction.DOWN, what, apply) for n in names)


def up(
    operators: str | Sequence[str], version: int, what: str, apply: Callable[[ir.Node, Builder], Replacement]
) -> tuple[OpsetRule, ...]:
    """Rules from the form before opset ``version`` to that of ``version``."""
    names = [operators] if isinstance(operators, str) else operators
    return tuple(OpsetRule(n, version, Direction.UP, what, apply) for n in names)
