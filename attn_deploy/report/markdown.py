"""Text that comes from records, in Markdown: it stays text, and a table keeps its columns."""

from __future__ import annotations

import re
from collections.abc import Iterable

# A backslash first of all: before a bracket it would take back the one that escapes it.
_ENTITIES = {"\\": "&#92;", "<": "&lt;", "|": "\\|", "`": "&#96;", "[": "\\[", "]": "\\]", "*": "\\*"}
_TABLE = str.maketrans(_ENTITIES)


def inline(text: str) -> str:
    """A text on one line, none of which is markup."""
    return " ".join(text.split()).translate(_TABLE)


def row(cells: Iterable[str]) -> str:
    """A line of a table from texts."""
    return f"| {' | '.join(inline(c) for c in cells)} |"


def name(text: str) -> str:
    """A name as code, where nothing in it could end the code."""
    return f"`{text}`" if re.fullmatch(r"[\w+@:=.,/()-]+", text) else inline(text)
