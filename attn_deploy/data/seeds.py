"""What random numbers begin from."""

from __future__ import annotations

from attn_deploy.errors import InvalidRequestError

LARGEST = 2**63 - 1  # that PyTorch takes


def require_seed(seed: int) -> int:
    """A seed that every generator takes.

    Raises:
        InvalidRequestError: if it is negative or too large.
    """
    if not 0 <= seed <= LARGEST:
        raise InvalidRequestError(f"the seed is {seed}, and must be from 0 to {LARGEST}.")
    return seed
