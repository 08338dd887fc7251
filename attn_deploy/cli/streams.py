"""Standard output is the result's: what code of the user's prints meanwhile goes to standard error."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, TextIO

import typer

from attn_deploy.errors import FileWarning
from attn_deploy.report.printable import printable


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print text for people, or a record, with `printable`."""
    typer.echo(printable(str(text)), err=err, nl=nl)


def terminal_width() -> int:
    """Columns of the terminal, or of ``COLUMNS``; a pipe has room for everything."""
    return shutil.get_terminal_size((10_000, 24)).columns


def output_aside() -> AbstractContextManager[Any]:
    """Send what is printed to standard error, so that a record on standard output stays whole."""
    return contextlib.redirect_stdout(sys.stderr)


@contextlib.contextmanager
def file_warnings() -> Iterator[None]:
    """Print what a command has to say about a file as one line on standard error, once."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, FileWarning):
                echo(f"warning: {message}", err=True)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        warnings.simplefilter("default", FileWarning)
        yield


def json_text(data: Any, *, ensure_ascii: bool = True) -> str:
    """Data as JSON for other programs: of numbers that JSON does not have (NaN, infinity) it says null."""
    return json.dumps(_finite(data), indent=1, ensure_ascii=ensure_ascii, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {k: _finite(v) for k, v in data.items()}
    return [_finite(v) for v in data] if isinstance(data, (list, tuple)) else data
