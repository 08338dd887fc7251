"""Where in the user's model something happened: module path, file and line."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

_LIBRARY = Path(torch.__file__).resolve().parent
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a model's source; each part may be unknown.

    Attributes:
        module: module path as ``named_modules`` has it; empty for the model itself.
        file: path of the source file.
        line: line number, 0 if unknown.
    """

    module: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        parts = [self.module] if self.module else []
        if self.file:
            parts.append(Path(self.file).name)
        if self.line:
            parts.append(f"line {self.line}")
        return ", ".join(parts)

    @property
    def phrase(self) -> str:
        """`` (layer1.0, net.py, line 12)`` to follow a phrase; nothing if nothing is known."""
        text = str(self)
        return f" ({text})" if text else ""


@functools.lru_cache(maxsize=4096)
def is_users(filename: str) -> bool:
    """Whether a source file is the user's: not torch, not this package outside its zoo, and a file at all."""
    path = Path(filename)
    if not filename or filename.startswith("<") or not path.is_file():
        return False
    resolved = path.resolve()
    if _LIBRARY in resolved.parents:
        return False
    rooms = (_PACKAGE / "modules", _PACKAGE / "backbones", _PACKAGE / "ops")
    return _PACKAGE not in resolved.parents or any(room in resolved.parents for room in rooms)


def is_stand_in(function: object) -> bool:
    """Whether a ``forward`` is one of this package that calls that of the user's class."""
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    return _PACKAGE in Path(file).resolve().parents and not is_users(file)


def module_paths(model: nn.Module | None) -> dict[int, str]:
    """The path of each module of a model, by identity."""
    return {} if model is None else {id(m): p for p, m in model.named_modules()}


def place_of_error(error: BaseException, model: nn.Module | None = None) -> Place:
    """The innermost place in the user's source that led to an error, its chained causes included."""
    paths = module_paths(model)
    place = Place()
    current: BaseException | None = error
    for _ in range(8):
        if current is None:
            break
        frames = [(t.tb_frame, t.tb_lineno) for t in _tracebacks(current.__traceback__)]
        candidate = _innermost(reversed(frames), paths)
        if candidate.file:
            place = candidate
        current = current.__cause__
    return place


def place_here(paths: Mapping[int, str]) -> Place:
    """The place in the user's source that is running now; ``paths`` as `module_paths` gives them."""
    frame: types.FrameType | None = sys._getframe(1)
    frames = []
    while frame is not None:
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return _innermost(iter(frames), paths)


def place_of_line(model: nn.Module, file: str, line: int) -> Place:
    """The module whose class holds a line; its path is empty when the line is of a function outside all classes."""
    for path, module in model.named_modules():
        cls = type(module)
        try:
            lines, first = inspect.getsourcelines(cls)
            source = inspect.getsourcefile(cls)
        except (OSError, TypeError):
            continue
        if source and Path(source).resolve() == Path(file).resolve() and first <= line < first + len(lines):
            return Place(path, file, line)
    return Place("", file, line)


def _tracebacks(traceback: types.TracebackType | None) -> Iterator[types.TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _innermost(frames: Iterator[tuple[types.FrameType, int]], paths: Mapping[int, str]) -> Place:
    """From the innermost frame outwards: the first user's line, and the first module of the model that was running."""
    module: str | None = None
    file, line = "", 0
    for frame, number in frames:
        owner = frame.f_locals.get("self")
        if module is None and isinstance(owner, nn.Module):
            module = paths.get(id(owner))
        if not file and is_users(frame.f_code.co_filename):
            file, line = frame.f_code.co_filename, number
        if file and (module is not None or not paths):
            break
    return Place(module or "", file, line)
