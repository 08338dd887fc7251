"""Every rule, by operator, opset and direction."""

from __future__ import annotations

from attn_deploy.graph.opset import (
    rules_activation,
    rules_attention,
    rules_norm,
    rules_quantize,
    rules_reduce,
    rules_resize,
    rules_sample,
    rules_shape,
)
from attn_deploy.graph.opset.rule import Direction, OpsetRule

RULES: tuple[OpsetRule, ...] = (
    *rules_activation.RULES,
    *rules_attention.RULES,
    *rules_norm.RULES,
    *rules_quantize.RULES,
    *rules_reduce.RULES,
    *rules_resize.RULES,
    *rules_sample.RULES,
    *rules_shape.RULES,
)

_BY_KEY = {(r.operator, r.version, r.direction): r for r in RULES}


def rule_for(operator: str, version: int, direction: Direction) -> OpsetRule | None:
    """The rule for an operator's change at opset ``version``, if it is more than a change of allowed types."""
    return _BY_KEY.get((operator, version, direction))
