"""Records with one field that is something else: every field of every kind, from the records' own types."""

from __future__ import annotations

import collections.abc
import copy
import dataclasses
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Place = tuple[str | int, ...]
GONE = object()  # the field is not there

VALUES: dict[str, Any] = {
    "gone": GONE,
    "null": None,
    "true": True,
    "text": "x\x1b[2J</script>",
    "empty text": "",
    "half a character": "\ud800",
    "list": ["x"],
    "empty list": [],
    "object": {"x": 1},
    "empty object": {},
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus one": -1,
    "zero": 0,
    "fraction": 0.5,
    "beyond 64 bits": 10**30,
    "beyond floats": 10**400,
    "huge": 1e308,
}


@dataclass(frozen=True)
class Kind:
    """A kind of record.

    Attributes:
        sound: JSON data with every field filled, see `filled`.
        read: from the data as they stand in a file to the record.
        use: everything that is shown of it or computed from it.
        free: fields whose values may be anything, by their first name.
    """

    sound: Any
    read: Callable[[Any], Any]
    use: Callable[[Any], Any] = lambda record: None
    free: frozenset[str] = frozenset()


def places(data: Any, place: Place = ()) -> Iterator[Place]:
    """Every place in the data, two entries of each list."""
    entries: Sequence[tuple[str | int, Any]] = ()
    if isinstance(data, Mapping):
        entries = list(data.items())
    elif isinstance(data, (list, tuple)):
        entries = list(enumerate(data[:2]))
    for key, value in entries:
        yield (*place, key)
        yield from places(value, (*place, key))


def value_at(data: Any, place: Place) -> Any:
    for key in place:
        data = data[key]
    return data


def damaged(data: Any, place: Place, value: Any) -> Any:
    """A copy of the data with another value at a place."""
    changed = copy.deepcopy(data)
    holder = value_at(changed, place[:-1])
    if value is GONE:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return changed


def path_of(place: Place) -> str:
    """``rows[1].latency`` as messages write it."""
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in place).lstrip(".")


def filled(kind: Any, values: Mapping[str, Any], name: str = "") -> Any:
    """JSON data of a type with every field filled, so that a new field is tried without anybody thinking of it.

    Args:
        kind: the type.
        values: for fields, by their name, that must hold something in particular.
        name: of the field.
    """
    if name in values:
        return copy.deepcopy(values[name])
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return inner[0]
    if origin in (typing.Union, types.UnionType):
        return filled(next(k for k in inner if k is not type(None)), values, name)
    if origin in (typing.Required, typing.NotRequired) if hasattr(typing, "Required") else False:
        return filled(inner[0], values, name)
    if origin is tuple:
        kinds = [inner[0]] * 2 if inner[-1] is Ellipsis else inner
        return [filled(k, values) for k in kinds]
    if origin in (list, collections.abc.Sequence):
        return [filled(inner[0], values)] * 2
    if origin in (dict, collections.abc.Mapping):
        return {"1" if inner[0] is int else "key": filled(inner[1], values)}
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        names = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else list(hints)
        return {n: filled(hints[n], values, n) for n in names}
    return {str: "text", int: 3, float: 0.5, bool: True}.get(kind, "anything")


def toml(data: Mapping[str, Any]) -> str:
    """Data as TOML, with inline tables."""
    return "".join(f"{json.dumps(str(key))} = {_toml(value)}\n" for key, value in data.items())


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return {"nan": "nan", "inf": "inf"}.get(str(value), repr(value))
    return json.dumps(value)
