"""What a class says of itself: the arguments of its constructor, and the sections of its module's docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from attn_deploy.specs.spec import Argument, Input


def family_of(module: str) -> str:
    """The family of a class that lives in a module: its shelf of the zoo, ``backbone``, or ``custom``."""
    parts = module.split(".")
    if parts[:2] == ["attn_deploy", "modules"] and len(parts) > 3:
        return parts[2]
    return "backbone" if parts[:2] == ["attn_deploy", "backbones"] else "custom"


def default_inputs(settings: Mapping[str, Any]) -> tuple[Input, ...]:
    """One NCHW input whose C is the argument ``channels``, or ``in_channels`` where there is one."""
    channels = "in_channels" if "in_channels" in settings else "channels"
    return (Input("x", ("N", channels, "H", "W")),)


def arguments_of(cls: type) -> tuple[Argument, ...]:
    """The arguments of a class's constructor, in order."""
    parameters = inspect.signature(cls).parameters.values()
    return tuple(
        Argument(
            p.name,
            None if p.default is p.empty else repr(p.default),
            "" if p.annotation is p.empty else str(p.annotation),
        )
        for p in parameters
    )


def sections(docstring: str) -> dict[str, str]:
    """``Paper: ...`` and the like, each up to the next section; wrapped lines are joined."""
    texts: dict[str, str] = {}
    for match in re.finditer(
        r"^(Paper|Official|Export|Limits|Deviations): *(.*?)(?=^\w[\w ]*: |\Z)",
        docstring,
        re.MULTILINE | re.DOTALL,
    ):
        texts[match[1].lower()] = " ".join(match[2].split())
    return texts


def year_of(paper: str) -> int | None:
    """The first year in the reference of a paper; None where there is none."""
    match = re.search(r"\b((?:19|20)\d\d)\b(?!\.\d)", paper)
    return int(match[1]) if match else None
