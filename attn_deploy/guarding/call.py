"""The caller's side: a function whose call is made by the server's next fork, if it has a file to read."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from attn_deploy import errors
from attn_deploy.errors import FileWarning, WorkerCrashError, WorkerError
from attn_deploy.guarding.callbacks import numbered
from attn_deploy.guarding.transport import error_from, packed, unpacked
from attn_deploy.guarding.wire import receive, send
from attn_deploy.processes import death_of

P = ParamSpec("P")
T = TypeVar("T")

_MOST_CALLS = 100  # of one process: what a library leaks does not add up for ever
_FILES = (".onnx", ".engine")
_trusted = contextvars.ContextVar("trusted", default=False)
_server: _Server | None = None
_starting = threading.Lock()


@contextlib.contextmanager
def unguarded() -> Iterator[None]:
    """Within the block, functions of this program read files in this process.

    A file that makes a native library crash then ends the process. What is saved is a message to another process and
    back, a few milliseconds a call (`benchmarks/guard_cost.py`).
    """
    token = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(token)


def guarded(function: Callable[P, T], *, always: bool = False) -> Callable[P, T]:
    """The function, whose calls with an ``.onnx`` or ``.engine`` file are made in a process that may die.

    Args:
        function: of a module; arguments and result are records of this program, arrays, paths and plain data. Functions
            among the arguments, such as ``progress``, are called in this process.
        always: whether it reads a file whatever its arguments look like.

    Raises:
        WorkerCrashError: from a call: native code failed on the file; this process is as it was.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        here = _trusted.get() or not hasattr(os, "fork") or not hasattr(socket, "send_fds")
        if here or not (always or any(map(_is_file, (*args, *kwargs.values())))):
            return function(*args, **kwargs)
        functions: list[Callable[..., Any]] = []
        arguments = (
            tuple(numbered(a, functions) for a in args),
            {k: numbered(v, functions) for k, v in kwargs.items()},
        )
        try:
            data = packed(arguments)
        except TypeError:  # a module is among them, which is the caller's own code: it cannot leave its process
            return function(*args, **kwargs)
        value: T = _served(function.__module__).call(function.__module__, function.__name__, data, functions)
        return value

    return call


def _is_file(value: object) -> bool:
    """Whether an argument is a file of others, or a request that names one."""
    if isinstance(value, (str, Path)):
        return str(value).lower().endswith(_FILES)
    inner = getattr(value, "path", None) or getattr(value, "model", None)
    return isinstance(inner, (str, Path)) and str(inner).lower().endswith(_FILES)


def _served(module: str) -> _Server:
    global _server
    with _starting:
        if _server is None or not _server.alive:
            _server = _Server(module)
            atexit.register(_server.close)
        return _server


class _GoneError(Exception):
    """A process ended before it took a call."""


@dataclass(slots=True)
class _Line:
    """A process that makes calls: the connection to it, and the end of a pipe without which it is ended."""

    connection: socket.socket
    held: int
    calls: int = 0

    def close(self) -> None:
        self.connection.close()
        with contextlib.suppress(OSError):
            os.close(self.held)


class _Server:
    """The process that forks, as this one sees it."""

    def __init__(self, module: str) -> None:
        self._owner = os.getpid()
        self._control, other = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        code = (
            "import sys; sys.path[:] = [p for p in sys.path if p]; from attn_deploy.guarding.server import serve; "
            f"serve({other.fileno()}, {module!r})"
        )
        paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            pass_fds=(other.fileno(),),
            start_new_session=True,  # Ctrl-C reaches this process alone, which then lets go of its calls
        )
        other.close()
        self._lock = threading.Lock()
        self._idle: list[_Line] = []
        self._ends: dict[int, int] = {}
        self._heard = b""

    @property
    def alive(self) -> bool:
        """Whether it runs, and is this process's own: a fork of this process starts another."""
        return self._owner == os.getpid() and self._process.poll() is None

    def close(self) -> None:
        """Let it go."""
        for line in self._idle:
            line.close()
        self._control.close()
        if self._owner == os.getpid():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)

    def call(self, module: str, name: str, arguments: bytes, functions: list[Callable[..., Any]]) -> Any:
        """Make one call."""
        request = {
            "module": module,
            "name": name,
            "arguments": arguments,
            "argv": list(sys.argv),
            "path": [p for p in sys.path if p],
            "environment": dict(os.environ),
            "folder": str(Path.cwd()),
            "memory": None,
        }
        line = self._idle_line() or self._new_line()
        while True:
            try:
                value = self._result(line, packed(request), name, functions)
                break
            except _GoneError:
                used = line.calls > 0
                line.close()
                if not used:
                    raise WorkerError(f"{name}: the process that makes guarded calls is gone.") from None
                line = self._new_line()  # it was ended while it waited: that says nothing of this call
            except BaseException:
                line.close()  # whatever is left of that call ends with its process
                raise
        line.calls += 1
        if line.calls < _MOST_CALLS:
            with self._lock:
                self._idle.append(line)
        else:
            line.close()
        return value

    def _idle_line(self) -> _Line | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _new_line(self) -> _Line:
        ours, theirs = socket.socketpair()
        lifeline, held = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._control, [b"c"], [theirs.fileno(), lifeline])
        except OSError as error:
            ours.close()
            os.close(held)
            raise WorkerError("the process that makes guarded calls is gone.") from error
        finally:
            theirs.close()
            os.close(lifeline)
        return _Line(ours, held)

    def _result(self, line: _Line, request: bytes, name: str, functions: list[Callable[..., Any]]) -> Any:
        pid = 0
        try:
            send(line.connection, request)
            data = receive(line.connection)
        except OSError:
            data = None
        while data is not None:
            kind, *rest = unpacked(data)
            if kind == "pid":
                pid = rest[0]
            elif kind == "call":
                functions[rest[0]](*rest[1])
            else:
                for category, text in rest[1]:
                    warnings.warn(text, getattr(errors, category, FileWarning), stacklevel=4)
                if kind == "error":
                    raise error_from(rest[0], name)
                return unpacked(rest[0])
            data = receive(line.connection)
        if not pid:
            raise _GoneError
        code = self._code_of(pid)
        raise WorkerCrashError(
            f"{name} {death_of(code)} A library failed on this input; nothing was left half-written."
        )

    def _code_of(self, pid: int) -> int:
        """How a process ended, as the server says."""
        with self._lock:
            while pid not in self._ends:
                self._control.settimeout(10)
                try:
                    part = self._control.recv(4096)
                except OSError:
                    part = b""
                finally:
                    self._control.settimeout(None)
                if not part:
                    return -9
                *lines, self._heard = (self._heard + part).split(b"\n")
                self._ends.update((int(a), int(b)) for a, _, b in (line.partition(b" ") for line in lines))
            return self._ends.pop(pid)
