"""Whether JSON data are what a dataclass says it holds: every field, by its annotation. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from attn_deploy.errors import InvalidRequestError

_WORDS = {str: "text", bool: "true or false", int: "a whole number", NoneType: "null"}


def check(data: Any, kind: Any, where: str = "") -> None:
    """Check data that are read against a type.

    Lists stand for tuples, and a dataclass may lack what has a default and hold what it does not know.

    Args:
        data: as ``json.loads`` gives them.
        kind: a dataclass, or what a field of one is annotated with.
        where: the field that the data are of, such as ``rows[2].latency``.

    Raises:
        InvalidRequestError: if something is missing, of another type, or not a finite number; the message names it.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        _check_union(data, inner, where)
    elif origin is Literal:
        if data not in inner:
            raise refused(where, data, f"one of {', '.join(map(repr, inner))}")
    elif origin is tuple:
        _check_tuple(data, inner, where)
    elif origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, Mapping):
            raise refused(where, data, "an object")
        for key, value in data.items():
            check(value, inner[1], _inside(where, key))
    elif is_dataclass(kind) and isinstance(kind, type):
        _check_fields(data, kind, where)
    elif kind is float:
        if not _is_number(data):
            raise refused(where, data, "a finite number")
    elif kind is Any:
        _check_anything(data, where)
    elif not _is_plain(data, kind):
        raise refused(where, data, _WORDS.get(kind, str(kind)))


def refused(where: str, data: Any, wanted: str) -> InvalidRequestError:
    """The error for a field that holds something else."""
    shown = repr(data)
    return InvalidRequestError(
        f"{where or 'the whole'} is {shown if len(shown) <= 60 else shown[:57] + '...'}, and must be {wanted}."
    )


def _check_union(data: Any, kinds: tuple[Any, ...], where: str) -> None:
    if data is None and NoneType in kinds:
        return
    others = [k for k in kinds if k is not NoneType]
    if len(others) == 1:
        check(data, others[0], where)
        return
    errors = []
    for kind in others:
        try:
            check(data, kind, where)
        except InvalidRequestError as error:
            errors.append(error)
        else:
            return
    raise errors[0]


def _check_tuple(data: Any, kinds: tuple[Any, ...], where: str) -> None:
    if not isinstance(data, (list, tuple)):
        raise refused(where, data, "a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        if kinds[0] is float and all(map(_is_number, data)):  # thousands of samples
            return
        for index, value in enumerate(data):
            check(value, kinds[0], f"{where}[{index}]")
        return
    if len(data) != len(kinds):
        raise refused(where, data, f"a list of {len(kinds)}")
    for index, (value, kind) in enumerate(zip(data, kinds, strict=True)):
        check(value, kind, f"{where}[{index}]")


def _check_fields(data: Any, kind: type, where: str) -> None:
    if not isinstance(data, Mapping):
        raise refused(where, data, "an object")
    for name, hint, needed in _fields_of(kind):
        if name in data:
            check(data[name], hint, _inside(where, name))
        elif needed:
            raise InvalidRequestError(f"{_inside(where, name)} is missing.")


def _check_anything(data: Any, where: str) -> None:
    """No type is asked for, and still nothing that JSON cannot say."""
    if isinstance(data, float) and not math.isfinite(data):
        raise refused(where, data, "finite")
    if isinstance(data, Mapping):
        for key, value in data.items():
            _check_anything(value, _inside(where, key))
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            _check_anything(value, f"{where}[{index}]")


@cache
def _fields_of(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    hints = get_type_hints(kind)
    return tuple((f.name, hints[f.name], f.default is MISSING and f.default_factory is MISSING) for f in fields(kind))


def _is_number(data: Any) -> bool:
    return isinstance(data, (int, float)) and not isinstance(data, bool) and math.isfinite(data)


def _is_plain(data: Any, kind: Any) -> bool:
    if kind is int:
        return _is_number(data) and float(data).is_integer()
    return isinstance(data, kind)


def _inside(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)
