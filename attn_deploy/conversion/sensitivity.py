"""Which layers of a quantized graph cause its error: many are judged together, few by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attn_deploy.graph.quantize import Layer
from attn_deploy.parity.judge import LARGEST_ERROR

SINGLY = 8  # layers, up to which each is judged by itself
QUIET = LARGEST_ERROR / 5  # of a group of layers that is not to blame
MOST_JUDGEMENTS = 14
_EXACTLY = 16  # of how many layers the search may miss one


def sensitivities(
    layers: Sequence[Layer],
    error: Callable[[Sequence[Layer]], float],
    *,
    by_halves: bool,
    progress: Callable[[str], None],
) -> list[tuple[Layer, float]]:
    """The error of each layer alone, largest first.

    Args:
        layers: those that can be quantized.
        error: of the outputs with some layers quantized and no other.
        by_halves: judge halves together and look only into those with an error; the layers of a quiet group share its
            error. Otherwise, and for few layers, each is judged by itself.
        progress: called with how far it is.
    """
    pending: list[tuple[Sequence[Layer], float]] = [((y,), 0.0) for y in layers]
    if by_halves and len(layers) > SINGLY:
        # A graph that is good with half of its layers in 8 bits is rare among those that come here.
        pending = [(quarter, 0.0) for half in _halves(layers) for quarter in _halves(half)]
    alone: list[tuple[Layer, float]] = []
    judgements = 0
    while pending:
        group, share = pending.pop(0)
        progress(f"sensitivity of layers: {len(alone)} of {len(layers)}")
        if by_halves and judgements >= MOST_JUDGEMENTS:  # what is left shares what its group was judged by
            alone += [(y, share) for y in group]
            continue
        together = error(group)
        judgements += 1
        if len(group) == 1 or together <= QUIET:
            alone += [(y, together / len(group)) for y in group]
        else:
            pending += [(half, together / len(group)) for half in _halves(group)]
    return sorted(alone, key=lambda pair: -pair[1])


def _halves(group: Sequence[Layer]) -> list[Sequence[Layer]]:
    middle = len(group) // 2
    return [group[:middle], group[middle:]]


def fewest(most: int, met: Callable[[int], bool]) -> int:
    """About the smallest count from 1 to ``most`` for which ``met`` is true, as it is for every larger one.

    What it gives was asked and is true, unless it is ``most``, which is not asked. One in sixteen of ``most`` is as near as
    it looks: each question is a run of the graph on all samples.
    """
    low, high = 1, most
    while low < high and (high == most or high - low > most // _EXACTLY):
        count = (low + high) // 2
        low, high = (low, count) if met(count) else (count + 1, high)
    return high
