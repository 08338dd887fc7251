"""Whether files may be read that run code when they are read: only where the user says so, with ``--trust``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_VARIABLE = "ATTN_DEPLOY_TRUST"  # in the environment, so that the processes which measure a model know it too


@contextlib.contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Inside, whole pickled models are loaded, and with them whatever code they hold.

    Args:
        trust: False changes nothing.
    """
    if not trust or trusted():
        yield
        return
    os.environ[_VARIABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE, None)


def trusted() -> bool:
    """Whether the user has said that the files named are to be trusted."""
    return os.environ.get(_VARIABLE) == "1"
