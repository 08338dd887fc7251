"""Text from anywhere on a terminal, which obeys some of it: clears the screen, changes its title, hides lines."""

from __future__ import annotations

# What a terminal obeys: the names in a file may come from anybody. U+202A and on turn the order of what follows.
_OBEYED = (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SHOWN = {c: f"\\x{c:02x}" if c < 256 else f"\\u{c:04x}" for c in _OBEYED}


def printable(text: str) -> str:
    """A text in which what a terminal would obey stands as its escape; lines and tabs stay."""
    return text.translate(_SHOWN)
