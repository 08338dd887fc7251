"""The words of the command line as values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from attn_deploy.cli.streams import echo
from attn_deploy.errors import InvalidRequestError

if TYPE_CHECKING:
    from pathlib import Path

    from attn_deploy.conversion.preprocess import PreprocessOptions


def parse_words(text: str, option: str) -> tuple[str, ...]:
    """``eager,ort-cpu`` as its words.

    Raises:
        InvalidRequestError: if there is none.
    """
    words = tuple(w.strip() for w in text.split(",") if w.strip())
    if not words:
        raise InvalidRequestError(f"{option} is {text!r}; give names, separated by commas.")
    return words


def parse_integers(text: str, option: str) -> tuple[int, ...]:
    """``1,8`` as its numbers.

    Raises:
        InvalidRequestError: if one is not a whole number of at least 1.
    """
    words = parse_words(text, option)
    for word in words:
        if not re.fullmatch(r"[1-9]\d*", word):
            raise InvalidRequestError(f"{option} {text!r}: {word!r} is not a whole number of at least 1; write 1,8,32.")
    return tuple(int(w) for w in words)


def parse_size(text: str) -> tuple[int, int]:
    """``224x192`` as height and width; one number stands for both.

    Raises:
        InvalidRequestError: if the text cannot be read.
    """
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text.strip())
    if match is None:
        raise InvalidRequestError(f"--size {text!r} cannot be read; write height and width, as in --size 224x224.")
    return int(match[1]), int(match[2] or match[1])


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """``32x32,224x224`` as heights and widths.

    Raises:
        InvalidRequestError: if one cannot be read.
    """
    return tuple(parse_size(word) for word in parse_words(text, "--size"))


def parse_switch(text: str, option: str) -> tuple[bool, ...]:
    """``off``, ``on`` or ``both`` as the settings to measure.

    Raises:
        InvalidRequestError: if it is none of these.
    """
    known = {"off": (False,), "on": (True,), "both": (False, True)}
    if text not in known:
        raise InvalidRequestError(f"{option} is {text!r}; use {', '.join(known)}.")
    return known[text]


def parse_dynamic(text: str) -> tuple[str, ...]:
    """``N,H,W`` as its symbols; ``none`` as no symbol."""
    return () if text.strip().lower() == "none" else parse_words(text, "--dynamic")


def parse_numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """``0.5,0.5,0.5`` as its numbers.

    Raises:
        InvalidRequestError: if one cannot be read.
    """
    if text is None:
        return None
    try:
        return tuple(float(word) for word in parse_words(text, option))
    except ValueError as error:
        raise InvalidRequestError(f"{option} {text!r} cannot be read; write numbers, as 0.485,0.456,0.406.") from error


def preprocess_options(
    preset: str | None,
    mean: str | None,
    std: str | None,
    scale: float | None,
    color: str | None,
    layout: str | None,
    resize: str | None,
) -> PreprocessOptions:
    """What the options say is done to images.

    Raises:
        InvalidRequestError: if a number cannot be read.
    """
    from attn_deploy.conversion.preprocess import PreprocessOptions

    return PreprocessOptions(
        preset, parse_numbers(mean, "--mean"), parse_numbers(std, "--std"), scale, color, layout, resize
    )


def check_page(path: Path | None) -> None:
    """Refuse a page's path before anything is done.

    Raises:
        InvalidRequestError: if it does not end in .html, or cannot be written.
    """
    if path is None:
        return
    from attn_deploy.files import check_writable

    if path.suffix.lower() != ".html":
        raise InvalidRequestError(f"--page {path} ends in {path.suffix or 'nothing'}; a page is written as .html.")
    check_writable(path)


def write_page(path: Path | None, make: Callable[[], str]) -> None:
    """Write a page, if one is wanted, and say so on standard error."""
    if path is None:
        return
    from attn_deploy.files import write_atomic

    write_atomic(path, make())
    echo(f"written: {path}", err=True)
