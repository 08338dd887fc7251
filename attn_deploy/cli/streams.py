"""Standard output is the result's: what code of the user's prints meanwhile goes to standard error."""

from __future__ import annotations

import contextlib
import sys
from contextlib import AbstractContextManager
from typing import Any


def output_aside() -> AbstractContextManager[Any]:
    """Send what is printed to standard error, so that a record on standard output stays whole."""
    return contextlib.redirect_stdout(sys.stderr)
