"""Which registry entry, with which constructor arguments, each vector file of the official code belongs to.

The table is `reference_cases.json`: the file's stem in the folder of vectors -> (registry name, arguments of `create` over
the reference configuration). Lists in the JSON are tuples here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


REFERENCE_CASES: dict[str, tuple[str, dict[str, Any]]] = _tuples(
    json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
)
