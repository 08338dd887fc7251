"""The rule of attentions that read the previous block's: whether there is one is settled when the block is made."""

from __future__ import annotations

from torch import Tensor


def require_predecessor(previous: Tensor | None, previous_channels: int, owner: str, what: str) -> None:
    """A previous tensor must be given exactly if the block was made for one; a branch on it is then a constant.

    Raises:
        ValueError: naming the module, what it was made for and what was given.
    """
    if (previous is None) != (previous_channels == 0):
        value = "none" if previous is None else f"one of shape {tuple(previous.shape)}"
        raise ValueError(
            f"{owner}: made with previous_channels={previous_channels}, but the previous {what} given is {value}: "
            "use previous_channels=0 in the first block of a network and nowhere else."
        )
