"""Data as instances of dataclasses, each field of its type, with messages that name the field."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from attn_deploy.errors import InvalidRequestError

T = TypeVar("T")
_WORDS = {
    "int": "a whole number",
    "float": "a finite number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def typed(data: Any, kind: type[T]) -> T:
    """Data as JSON gives them as an instance of a dataclass, every field of its type.

    Lists stand for tuples. A dataclass may lack what has a default, and hold what it does not know.

    Raises:
        InvalidRequestError: if something is missing, of another type, beyond its values, or not a finite number; the
            message begins with the field, such as ``rows[2].latency.rounds``.
    """
    import msgspec  # costs 60 ms, which most commands do without

    try:
        _refuse_not_finite(data, "")
        return msgspec.convert(data, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(_fault(str(error), data)) from error
    except UnicodeEncodeError as error:  # half a character, as JSON may write it, where something else should be
        where, value = next(_half_characters(data, ""), ("", error.object))
        raise field_error(where, value, "valid Unicode") from error
    except RecursionError as error:
        raise InvalidRequestError("the data are nested too deeply.") from error


def field_error(where: str, value: Any, wanted: str) -> InvalidRequestError:
    """The error for a field that holds something else."""
    shown = repr(value)
    return InvalidRequestError(
        f"{where or 'the whole'} is {shown if len(shown) <= 60 else shown[:57] + '...'}, and must be {wanted}."
    )


def _refuse_not_finite(data: Any, where: str) -> None:
    if isinstance(data, float) and not math.isfinite(data):
        raise field_error(where, data, _WORDS["float"])
    if isinstance(data, Mapping):
        for key, value in data.items():
            _refuse_not_finite(value, f"{where}.{key}" if where else str(key))
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            if type(value) is not int:
                _refuse_not_finite(value, f"{where}[{index}]")


def _half_characters(data: Any, where: str) -> Iterator[tuple[str, str]]:
    """The texts that cannot be encoded, and where they are."""
    if isinstance(data, str):
        try:
            data.encode()
        except UnicodeEncodeError:
            yield where, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            place = f"{where}.{key}" if where else str(key)
            yield from _half_characters(str(key), place)
            yield from _half_characters(value, place)
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            yield from _half_characters(value, f"{where}[{index}]")


def _fault(text: str, data: Any) -> str:
    """What msgspec says, in the words of this program: ``Expected `int`, got `str` - at `$.rows[1].batch```."""
    said, _, place = text.partition(" - at `$")
    where = place.rstrip("`").lstrip(".")
    missing = re.match(r"Object missing required field `(.*)`", said)
    if missing:
        return f"{where + '.' if where else ''}{missing[1]} is missing."
    expected = re.match(r"Expected `(.*?)`(?:, got `(.*)`| of length (\d+))?", said)
    if expected is None and not said.startswith("Invalid enum value"):
        return f"{where + ': ' if where else ''}{said}"
    words, got = "one of its values", ""
    if expected is not None:
        words = " or ".join(_WORDS.get(kind, kind) for kind in expected[1].split(" | "))
        words, got = words + (f" of {expected[3]}" if expected[3] else ""), expected[2] or ""
    where, value = _located(data, where, got)
    return str(field_error(where, value, words))


_JSON_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "array": list, "object": dict, "null": type(None)}


def _located(data: Any, where: str, got: str) -> tuple[str, Any]:
    """A field's place and value; msgspec writes ``[...]`` for a key of a mapping, which its value's type gives away."""
    head, unnamed, tail = where.partition("[...]")
    value = data
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", head):
        value = value[key] if key else value[int(index)]
    if not unnamed:
        return where, value
    for key, inner in value.items():
        with contextlib.suppress(LookupError, AttributeError, TypeError):
            place, wrong = _located(inner, tail.lstrip("."), got)
            if not got or type(wrong) is _JSON_TYPES.get(got):
                return f"{head}.{key}{'' if place.startswith('[') or not place else '.'}{place}", wrong
    return where, value
