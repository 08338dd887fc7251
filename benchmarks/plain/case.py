"""What a case is: a zoo module and its plain formulation, as functions of channels, height and width."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

Size = tuple[int, int, int]
Arguments = Callable[[int, int, int], Mapping[str, Any]]


def _channels(c: int, h: int, w: int) -> Mapping[str, Any]:
    return {"channels": c}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One zoo module and its plain formulation; everything is a function of channels, height and width.

    Attributes:
        plain: makes the plain module, whose state dict has the official keys.
        arguments: constructor arguments of the zoo module.
        model: registry name, where the case is called otherwise.
        sizes: extents of axis symbols that are not simply H and W.
        at: another (channels, height, width) to measure at than the one asked for.
        note: what is special about the configuration, for the table.
    """

    plain: Callable[[int, int, int], nn.Module]
    arguments: Arguments = _channels
    model: str = ""
    sizes: Callable[[int, int], Mapping[str, int]] = lambda h, w: {}
    at: Callable[[Size], Size] = lambda size: size
    note: str = ""
