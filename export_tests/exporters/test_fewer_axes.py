"""The order in which axes are given up where an exporter cannot make all of them move."""

from __future__ import annotations

from torch import nn

from attn_deploy.errors import AttnDeployError, DynamicAxisError
from attn_deploy.exporters.fewer_axes import with_fewer_and_fewer_axes
from attn_deploy.exporters.prepare import prepare
from attn_deploy.inputs.grammar import parse_inputs


def axes_after(*refused: str) -> list[tuple[str, ...]]:
    """The axes of each attempt, where the first ones are refused with these words."""
    prepared = prepare(nn.Conv2d(3, 4, 3).eval(), inputs=parse_inputs(["1x3x16x16"]))
    refusals: list[AttnDeployError] = []
    made = []
    for attempt in with_fewer_and_fewer_axes(prepared, refusals):
        made.append(attempt.dynamic)
        if len(refusals) == len(refused):
            break
        refusals.append(DynamicAxisError(f"m: {refused[len(refusals)]}", rule="fixed-size"))
    return made


def test_what_a_refusal_names_is_given_up_first():
    assert axes_after("the axis W cannot be dynamic, since it is 16.") == [("N", "H", "W"), ("N", "H")]


def test_a_refusal_that_names_all_axes_leaves_the_batch_to_be_tried():
    words = "the axis N, H, W cannot be dynamic, since the values of H and W must always be equal."
    assert axes_after(words, words, words) == [("N", "H", "W"), ("N",), ("H", "W"), ()]
