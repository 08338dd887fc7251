"""Errors of a command as one line on standard error and an exit code; no traceback but with ``--debug``."""

from __future__ import annotations

import contextlib
import errno
import functools
import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from attn_deploy.cli import process
from attn_deploy.cli.started import saying_so
from attn_deploy.cli.streams import echo, file_warnings
from attn_deploy.errors import AttnDeployError, MissingDependencyError
from attn_deploy.guarding import default_memory_limit
from attn_deploy.processes import limit_memory

BUG = 70  # EX_SOFTWARE: nobody's input may come to this
_OUT_OF_MEMORY = ("can't allocate memory", "std::bad_alloc", "out of memory")  # as torch and others put it
_NOT_ON_DEVICES = ("torch", "onnxscript", "onnx_ir", "safetensors")  # requirements that a device does without

# Typer has its own copy of click, or uses the one that is installed: by its version.
_USAGE: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of the program itself."""

    debug: bool = False
    memory_limit: str | None = None


settings = Settings()


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, whose errors become one line and an exit code, and which ends with 0 only when it came to its end."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            _prepare()
            with file_warnings(), _sign_of_life(command):
                command(*args, **kwargs)
        except (typer.Exit, typer.Abort, _USAGE):
            raise
        except (SystemExit, KeyboardInterrupt) as error:
            failure = process.raised_by_user(error)
            if failure is None:
                echo("interrupted; nothing was left half-written.", err=True)
                raise typer.Exit(process.interruption_code() or process.INTERRUPTED) from error
            _end(str(failure), 2, error)
        except Exception as error:
            _end(*_line_of(error), error)

    @functools.wraps(command)
    def with_code(*args: Any, **kwargs: Any) -> None:
        try:
            run(*args, **kwargs)
        except typer.Exit as error:
            code = process.interruption_code()
            if code is not None and error.exit_code == process.INTERRUPTED:
                raise typer.Exit(code) from error
            raise

    return with_code


def _sign_of_life(command: Callable[..., None]) -> AbstractContextManager[None]:
    name = command.__name__.strip("_").replace("_", "-")
    return saying_so(name) if process.is_supervised() else contextlib.nullcontext()


def _prepare() -> None:
    if not process.is_supervised():
        return
    limit_memory(_memory_limit())
    if not settings.debug:
        threading.excepthook = lambda _: None  # its thread has told whoever waits for it


def _memory_limit() -> int | None:
    from attn_deploy.engine.options import parse_size

    return default_memory_limit() if settings.memory_limit is None else parse_size(settings.memory_limit)


def _end(text: str, code: int, error: BaseException) -> None:
    if settings.debug:
        traceback.print_exception(error)
    echo(f"error: {text}", err=True)
    raise typer.Exit(code) from error


def _line_of(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, AttnDeployError):
        return str(error), error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name in _NOT_ON_DEVICES:
        text = (
            f"this needs {error.name}, which is not installed: pip install attn-deploy. Without it, .onnx and .engine "
            "files can be built, inspected, profiled and evaluated."
        )
        return text, MissingDependencyError.exit_code
    if type(error).__module__.startswith("onnx.") and type(error).__name__ in ("ValidationError", "InferenceError"):
        return f"a graph is not valid ONNX: {' '.join(str(error).split())[:300]}", 1
    if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
        return "there is not enough memory for this; raise --memory-limit, or use a smaller input or batch.", 1
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno == errno.EBADF and not process.can_print():
            return "standard output is closed, so the result cannot be printed.", 1
        place = f"{error.filename}: " if error.filename is not None else ""
        hint = " Free some space, or set TMPDIR to another folder." if error.errno == errno.ENOSPC else ""
        return f"{place}{error.strerror}.{hint}", 2
    where = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(str(error).split())[:300] or "no message"
    return (
        f"{type(error).__name__}: {words} ({Path(where.filename).name}, line {where.lineno}). This is a bug, please "
        "report it, with what --debug prints.",
        BUG,
    )
