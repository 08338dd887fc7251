"""Widths rounded to a multiple, as the networks for mobile devices round them."""

from __future__ import annotations


def make_divisible(width: float, divisor: int = 8, *, round_limit: float = 0.9) -> int:
    """The multiple of ``divisor`` nearest to a width, at least one.

    Args:
        width: what is rounded.
        divisor: what the result is a multiple of.
        round_limit: least share of the width that is left; below it, the next multiple is taken.
    """
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < round_limit * width else rounded
