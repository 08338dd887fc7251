"""Makes a module of a registry entry from its constructor arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from attn_deploy.errors import InvalidRequestError
from attn_deploy.registry import ModelSpec

# What Python and torch raise for numbers that no tensor can have, or that ask for more memory than there is.
_REFUSALS = (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError)


def _load(spec: ModelSpec) -> type[nn.Module]:
    module, _, attribute = spec.target.partition(":")
    target: Any = importlib.import_module(module)
    for part in attribute.split("."):
        target = getattr(target, part)
    if not isinstance(target, type):
        raise InvalidRequestError(f"{spec.name}: {spec.target} is not a class.")
    return target


def defaults(spec: ModelSpec) -> dict[str, Any]:
    """The default of each constructor argument."""
    return {p.name: p.default for p in _parameters(_load(spec))}


def _parameters(cls: type) -> list[inspect.Parameter]:
    return list(inspect.signature(cls).parameters.values())


def instantiate(spec: ModelSpec, settings: Mapping[str, Any], name: str) -> nn.Module:
    """A module of a registry entry, in eval mode.

    Args:
        spec: the entry.
        settings: constructor arguments.
        name: as messages name it.

    Raises:
        InvalidRequestError: if an argument is unknown or refused.
    """
    cls = _load(spec)
    allowed = [p.name for p in _parameters(cls)]
    unknown = [k for k in settings if k not in allowed]
    if unknown:
        raise InvalidRequestError(
            f"{name}: {spec.name!r} has no argument {unknown[0]!r}; it takes {', '.join(allowed) or 'none'}."
        )
    try:
        return cls(**settings).eval()
    except _REFUSALS as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise InvalidRequestError(f"{name}: {' '.join(str(error).split())[:300] or type(error).__name__}") from error
