"""Which functions of Python ran while a model was called: a line in one that did not is the cause of nothing."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

from torch import nn

from attn_deploy.rules.location import Place, is_users


class Ran:
    """The functions that ran, of the user's files.

    Args:
        model: whose forward is called; where it ends in an error, nothing is known of what it did not come to.
    """

    def __init__(self, model: nn.Module) -> None:
        self._codes: set[CodeType] = set()
        self._root: Any = getattr(inspect.unwrap(type(model).forward), "__code__", None)
        self._called = self._failed = False
        self._lines: dict[str, list[tuple[int, int]]] | None = None

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        """What Python calls at each call and return; an error ends a function without a result."""
        if event == "call":
            self._codes.add(frame.f_code)
            self._called = self._called or frame.f_code is self._root
        elif event == "return" and frame.f_code is self._root and argument is None:
            self._failed = True

    def rules_out(self, place: Place) -> bool:
        """Whether a place is in a function that did not run."""
        if not self._called or self._failed or not place.line or not place.file:
            return False
        if self._lines is None:
            self._lines = defaultdict(list)
            for code in self._codes:
                if is_users(code.co_filename):
                    lines = [line for _, _, line in code.co_lines() if line]
                    file = os.path.realpath(code.co_filename)
                    self._lines[file].append((code.co_firstlineno, max(lines, default=0)))
        functions = self._lines.get(os.path.realpath(place.file), ())
        return not any(first <= place.line <= last for first, last in functions)


@contextlib.contextmanager
def noting(model: nn.Module) -> Iterator[Ran]:
    """Note the functions that run inside; under a profiler, which has Python's only place for this, none is ruled out."""
    ran = Ran(model)
    if sys.getprofile() is not None:
        yield ran
        return
    sys.setprofile(ran.note)
    try:
        yield ran
    finally:
        sys.setprofile(None)
