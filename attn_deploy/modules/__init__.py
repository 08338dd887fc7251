"""The zoo: one module per file, torch only.

Classes are found through the catalogue and imported on first use: ``from attn_deploy.modules import GhostModule``.
"""

from __future__ import annotations

import importlib
from typing import Any

from attn_deploy import registry


def _classes() -> dict[str, str]:
    prefix = f"{__name__}."
    targets = [s.target.split(":") for s in registry.list_models() if s.target.startswith(prefix)]
    return {name: module for module, name in targets}


def __getattr__(name: str) -> Any:
    module = None if name.startswith("_") else _classes().get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(_classes())
