"""What a model keeps outside its modules: in its classes, in globals of its files, in functions and their closures.

A copy of a model has the same classes and functions as the model, so that what the first run puts there is seen by every later
run of every copy, and a stale value would be compared with itself.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from attn_deploy.rules.location import is_users

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_DATA = (*_PLAIN, tuple, Tensor)
_CONTAINERS = (list, dict, set)
_LONG = 4096  # elements
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class _Slot:
    """A named place with the value that it had, and what that held."""

    label: str
    owner: Any
    name: str
    value: Any
    contents: list[Any] | None

    def now(self) -> Any:
        if isinstance(self.owner, types.CellType):
            return self.owner.cell_contents
        return _space(self.owner).get(self.name, _ABSENT)

    @property
    def changed(self) -> bool:
        value = self.now()
        if isinstance(self.value, _CONTAINERS):
            return value is not self.value or _marks(_held(value)) != _marks(self.contents)
        return bool(_mark(value) != _mark(self.value))

    def restore(self) -> None:
        if isinstance(self.value, _CONTAINERS) and self.contents is not None:
            self.value.clear()
            (self.value.extend if isinstance(self.value, list) else self.value.update)(self.contents)
        if isinstance(self.owner, types.CellType):
            self.owner.cell_contents = self.value
        elif isinstance(self.owner, type):
            setattr(self.owner, self.name, self.value)
        elif self.name != "defaults":
            _space(self.owner)[self.name] = self.value


class Outside:
    """The state around a model, as it is when this is made.

    Args:
        model: never run before, as far as can be known.
    """

    def __init__(self, model: nn.Module) -> None:
        self._owners = list(_owners(model))
        self._slots = list(self._now())

    def changes(self) -> list[str]:
        """What differs from then, as ``Net.scale`` or ``net.py: cache``."""
        known = {(id(s.owner), s.name) for s in self._slots}
        new = [s.label for s in self._now() if (id(s.owner), s.name) not in known]
        return [*(s.label for s in self._slots if s.changed), *new]

    def restore(self) -> None:
        """Put everything back as it was."""
        known = {(id(s.owner), s.name) for s in self._slots}
        for slot in list(self._now()):
            if (
                (id(slot.owner), slot.name) in known
                or isinstance(slot.owner, types.CellType)
                or slot.name == "defaults"
            ):
                continue
            if isinstance(slot.owner, type):
                delattr(slot.owner, slot.name)
            else:
                del _space(slot.owner)[slot.name]
        for slot in self._slots:
            if slot.changed:
                slot.restore()

    def _now(self) -> Iterator[_Slot]:
        for label, owner in self._owners:
            if isinstance(owner, types.CellType):
                try:
                    values = {"cell": owner.cell_contents}
                except ValueError:  # not yet filled
                    continue
            else:
                values = dict(_space(owner))
                if isinstance(owner, types.FunctionType):  # a list that is a default is one list for all calls
                    kept = [v for v in owner.__defaults__ or () if isinstance(v, _CONTAINERS)]
                    yield from (_Slot(f"a default of {label}", owner, "defaults", v, _held(v)) for v in kept[:1])
            for name, value in values.items():
                if not name.startswith("__") and isinstance(value, (*_DATA, *_CONTAINERS)):
                    yield _Slot(f"{label}.{name}", owner, name, value, _held(value))


def _space(owner: Any) -> MutableMapping[str, Any]:
    space: Any = vars(owner)
    return space  # type: ignore[no-any-return]


def _held(value: Any) -> list[Any] | None:
    """The elements of a container, pairs of a dict; None of another value, and of a container too long to be a cache."""
    if not isinstance(value, _CONTAINERS) or len(value) >= _LONG:
        return None
    return list(value.items() if isinstance(value, dict) else value)


def _marks(elements: list[Any] | None) -> Any:
    return None if elements is None else [_mark(e) for e in elements]


def _mark(value: Any) -> Any:
    """What tells a value apart: plain data by what they are, all else by which object it is, for == of arrays is no answer."""
    if isinstance(value, tuple):
        return tuple(map(_mark, value))
    return (type(value), value) if isinstance(value, _PLAIN) else id(value)


def _owners(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Classes, files and functions of the user's that a model's code is in, each once."""
    seen: set[int] = set()
    classes = dict.fromkeys(c for m in model.modules() for c in type(m).__mro__)
    files = dict.fromkeys(c.__module__ for c in classes)
    modules = [
        sys.modules[n] for n in files if n in sys.modules and is_users(getattr(sys.modules[n], "__file__", "") or "")
    ]
    users = [c for c in classes if any(c.__module__ == m.__name__ for m in modules)]
    waiting: list[tuple[str, Any]] = [(c.__name__, c) for c in users]
    waiting += [(m.__name__.rpartition(".")[2], m) for m in modules]
    waiting += [
        (f"{type(m).__name__}.{k}", v)
        for m in model.modules()
        for k, v in vars(m).items()
        if isinstance(v, types.FunctionType)
    ]
    while waiting:
        label, owner = waiting.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        yield label, owner
        if isinstance(owner, types.FunctionType):
            waiting += [(label, c) for c in owner.__closure__ or ()]
            continue
        if isinstance(owner, types.CellType):
            continue
        for name, value in list(_space(owner).items()):
            function = getattr(value, "__func__", value)
            if isinstance(function, types.FunctionType) and is_users(function.__code__.co_filename):
                waiting.append((f"{label}.{name}", function))
            elif isinstance(value, type) and any(value.__module__ == m.__name__ for m in modules):
                waiting.append((value.__name__, value))
