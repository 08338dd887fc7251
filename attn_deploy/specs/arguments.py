"""Constructors that take what their annotations say, and refuse all else by name before anything is made of it.

torch takes a padding of 2.5, an eps of NaN or a flag of "yes" without a word, and fails at the first run or not at all.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar, Union

C = TypeVar("C", bound=type)

_WORDS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a text", type(None): "None"}
_SEQUENCES = (Sequence, list, tuple)
_NOT_BELOW_ZERO = ("eps", "bn_eps", "epsilon")


class _Mistyped(ValueError):
    """An argument is not what its annotation says."""


def checks_arguments(cls: C) -> C:
    """Have a class check what it is made from against the annotations of its ``__init__``.

    Whole numbers pass for ``float``, lists for tuples; an annotation of another kind than numbers, flags, texts, None and
    sequences of them takes anything. Where the constructor refuses the argument itself, its own words stand.
    """
    plain = cls.__dict__.get("__init__")
    if plain is None or hasattr(plain, "checks_arguments"):  # inherited, or decorated for another name of the class
        return cls

    @functools.wraps(plain)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        fault = _fault(plain, (self, *args), kwargs)
        if fault is None:
            plain(self, *args, **kwargs)
            return
        name, message = fault
        try:
            plain(self, *args, **kwargs)
        except _Mistyped:  # of a class that this one is made of: it says what that one was given
            pass
        except ValueError as error:
            if re.search(rf"\b{name}\b", str(error)):  # it knows what the argument is for
                raise
        except Exception:  # what torch, or Python, says of such a value
            pass
        raise _Mistyped(message)

    checked.checks_arguments = True  # type: ignore[attr-defined]
    cls.__init__ = checked  # type: ignore[misc]
    return cls


def _fault(constructor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str] | None:
    """The first argument that is not what its annotation says, and what to say of it."""
    signature, hints = _declared(constructor)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # the constructor says what is missing or too much
        return None
    for name, value in bound.arguments.items():
        hint = hints.get(name, Any)
        if not _fits(value, hint):
            return name, f"{name} must be {_in_words(hint)}, got {value!r}."
        if name in _NOT_BELOW_ZERO and isinstance(value, (int, float)) and value < 0:
            return name, f"{name} must be at least 0, got {value!r}: it keeps a division from zero."
    return None


@functools.cache
def _declared(constructor: Any) -> tuple[inspect.Signature, dict[str, Any]]:
    try:
        return inspect.signature(constructor), typing.get_type_hints(constructor)
    except NameError:  # an annotation that exists for the type checker alone
        return inspect.signature(constructor), {}


def _fits(value: Any, hint: Any) -> bool:
    if hint in (int, bool, str, type(None)):
        return type(value) is bool if hint is bool else isinstance(value, hint) and type(value) is not bool
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin in _SEQUENCES:
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and Ellipsis not in parts:
            return len(value) == len(parts) and all(map(_fits, value, parts))
        return all(_fits(v, parts[0]) for v in value)
    return True


def _in_words(hint: Any) -> str:
    if hint in _WORDS:
        return _WORDS[hint]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_in_words, parts))
    if origin is tuple and Ellipsis not in parts:
        return f"a list of {len(parts)}, each {' or '.join(dict.fromkeys(map(_in_words, parts)))}"
    if origin in _SEQUENCES:
        return f"a list, each {_in_words(parts[0])}"
    return getattr(hint, "__name__", str(hint))
