"""Messages of exporters as records keep them: without the paths of the machine that made them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

# TorchScript puts the source of a node behind a '#': the file's name says as much as its path.
_SOURCE = re.compile(r"# (?:/[^\s/]+)*/")
_FOLDERS = sorted(
    {str(Path(p).resolve()) for p in (sys.prefix, Path(__file__).parents[2], *sys.path) if str(p)}, key=len
)


def without_paths(text: str) -> str:
    """The text with file names in place of absolute paths."""
    text = _SOURCE.sub("# ", text)
    for folder in reversed(_FOLDERS):
        if folder != "/":
            text = text.replace(f"{folder}/", "")
    return text
