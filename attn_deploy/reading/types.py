"""Data as instances of dataclasses, each field of its type, with messages that name the field."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from attn_deploy.errors import InvalidRequestError

T = TypeVar("T")
_LARGEST = 1 << 63
_WORDS = {
    "int": "a whole number",
    "float": "a finite number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def typed(data: Any, kind: type[T], *, signed: Collection[str] | None = None) -> T:
    """Data as JSON gives them as an instance of a dataclass, every field of its type.

    Lists stand for tuples. A dataclass may lack what has a default, and hold what it does not know.

    Args:
        data: of a JSON file.
        kind: a dataclass.
        signed: names of the fields in which, and below which, numbers may be negative: counts, times, sizes and shares are
            not. None: in all. Fields that the dataclass does not have are not looked at.

    Raises:
        InvalidRequestError: if something is missing, of another type, beyond its values, or not a finite number; the
            message begins with the field, such as ``rows[2].latency.rounds``.
    """
    import msgspec  # costs 60 ms, which most commands do without

    try:
        _check_numbers(data, "")
        record: T = msgspec.convert(data, kind, str_keys=True)
        if signed is not None:
            _check_signs(record, "", signed)
        return record
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


def _check_numbers(data: Any, where: str) -> None:
    if isinstance(data, float) and not math.isfinite(data):
        raise field_error(where, data, _WORDS["float"])
    if isinstance(data, int) and not -_LARGEST <= data < _LARGEST:
        raise field_error(where, data, "a number of 64 bits at most")
    if isinstance(data, Mapping):
        for key, value in data.items():
            _check_numbers(value, f"{where}.{key}" if where else str(key))
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            if type(value) is not int or not 0 <= value < _LARGEST:  # most lists are long and hold these
                _check_numbers(value, f"{where}[{index}]")


def _check_signs(value: Any, where: str, signed: Collection[str]) -> None:
    """Refuse negative numbers in a record; what it does not know, as numbers derived from its own, is not looked at."""
    if isinstance(value, (int, float)):
        if value < 0:
            raise field_error(where, value, "at least 0")
    elif isinstance(value, (list, tuple)):
        for index, entry in enumerate(value):
            if type(entry) is not float or entry < 0:  # most lists are long and hold these
                _check_signs(entry, f"{where}[{index}]", signed)
    elif isinstance(value, Mapping) or is_dataclass(value):
        entries = value if isinstance(value, Mapping) else {f.name: getattr(value, f.name) for f in fields(value)}
        for key, entry in entries.items():
            if key not in signed:
                _check_signs(entry, f"{where}.{key}" if where else str(key), signed)


def require_share(where: str, value: float | None) -> None:
    """Refuse a share, or a probability, above 1.

    Raises:
        InvalidRequestError: naming the field.
    """
    if value is not None and not 0 <= value <= 1:
        raise field_error(where, value, "between 0 and 1")


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
    keyed = re.match(r"Expected `(.*?)`.* - at `key` in `\$(.*)`$", text)
    if keyed:
        where, value = _located(data, keyed[2].lstrip("."), lambda v: isinstance(v, Mapping))
        return f"the keys of {where or 'the whole'} are {', '.join(map(repr, value))[:60]}, and each must be {_kinds(keyed[1])}."
    said, _, place = text.partition(" - at `$")
    where = place.rstrip("`").lstrip(".")
    missing = re.match(r"Object missing required field `(.*)`", said)
    if missing:
        where, _ = _located(data, where, lambda v: isinstance(v, Mapping) and missing[1] not in v)
        return f"{where + '.' if where else ''}{missing[1]} is missing."
    expected = re.match(r"Expected `(.*?)`(?:, got `(.*)`| of length (\d+))?", said)
    if expected is None and not said.startswith("Invalid enum value"):
        return f"{where + ': ' if where else ''}{said}"
    words, got = "one of its values", ""
    if expected is not None:
        words = _kinds(expected[1]) + (f" of {expected[3]}" if expected[3] else "")
        got = expected[2] or ""
    where, value = _located(data, where, lambda v: not got or type(v) is _JSON_TYPES.get(got))
    return str(field_error(where, value, words))


def _kinds(text: str) -> str:
    return " or ".join(_WORDS.get(kind, kind) for kind in text.split(" | "))


_JSON_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "array": list, "object": dict, "null": type(None)}


def _located(data: Any, where: str, fits: Callable[[Any], bool]) -> tuple[str, Any]:
    """A field's place and value; msgspec writes ``[...]`` for a key of a mapping, which is the first whose value fits."""
    head, unnamed, tail = where.partition("[...]")
    value = data
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", head):
        value = value[key] if key else value[int(index)]
    if not unnamed:
        return where, value
    for key, inner in value.items():
        with contextlib.suppress(LookupError, AttributeError, TypeError):
            place, wrong = _located(inner, tail.lstrip("."), fits)
            if fits(wrong):
                return f"{head}.{key}{'' if place.startswith('[') or not place else '.'}{place}", wrong
    return where, value
