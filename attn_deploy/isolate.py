"""Calls into code that may crash, hang or exit, made in a child process.

A child is a fresh interpreter that imports the function it is to call, not a fork: threads of torch and TensorRT do not
survive a fork, and multiprocessing's spawn would run the user's main script again. Arguments and results are JSON; large
data goes through files.

A child never outlives its parent: the kernel kills it when the last writer of a pipe, the parent, is gone. Its time
limit is held on both sides: the parent kills it, and an alarm of its own kills it where the parent cannot.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from attn_deploy import errors
from attn_deploy.errors import AttnDeployError, WorkerCrashError, WorkerError, WorkerTimeoutError, exit_error, reason_of
from attn_deploy.processes import HelperThread, death_of, die_with, limit_memory

Event = dict[str, Any]
Emit = Callable[[Event], None]

# Not `-m`: that puts the user's folder first on the path, where a file of theirs called queue.py would be ours too.
_CHILD = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; from attn_deploy.isolate import serve; sys.exit(serve())"
)
_GRACE = 1.0  # seconds between asking a child to end and killing it
_FAREWELL = 5.0  # seconds in which a child that has nothing to do may remove what it kept
_ALARM_MARGIN = 5.0  # seconds that the alarm inside a child leaves the parent to end it first
_LAST_WORDS = 10.0  # seconds in which a child that closed its channel may end
_LOOK = 1.0  # seconds between looks at whether somebody still listens to a child
_LAST_LINES = 60

_workers: set[IsolatedWorker] = set()
_here: set[str] = set()


def call_here(targets: Iterable[str]) -> None:
    """From now on call these functions in this process, an expendable worker: starting a child costs more than they do."""
    _here.clear()
    _here.update(targets)


def end_children() -> None:
    """Kill the children of this process; for a handler of the signal that ends it."""
    for worker in list(_workers):
        worker.kill()


def run_isolated(
    target: str,
    arguments: Mapping[str, Any],
    *,
    what: str,
    timeout: float,
    memory: int | None = None,
    on_event: Emit | None = None,
) -> Any:
    """Call ``target`` (``module:function``) with JSON-ready keyword arguments in a child process of its own.

    The function is called with ``emit``, a function that sends a dictionary to ``on_event`` here, and the arguments.

    Args:
        target: the function, of an importable module; its result comes back through JSON.
        arguments: keyword arguments.
        what: what the child does, for messages: "simplifying the graph".
        timeout: seconds until the child is killed.
        memory: bytes of data that the child may hold; None for as many as this process.
        on_event: receives what the child emits.

    Raises:
        AttnDeployError: of the class that the child raised.
        WorkerError: WorkerTimeoutError if it ran out of time, WorkerCrashError if it died, else what it raised.
    """
    if target in _here:
        return _call_here(target, arguments, what=what, on_event=on_event)
    worker = IsolatedWorker(memory=memory)
    try:
        return worker.call(target, arguments, what=what, timeout=timeout, on_event=on_event)
    finally:
        worker.close()


class IsolatedWorker:
    """A child process that makes one call after another; after a call that ended it, the next one starts a new child.

    Args:
        threads: what OMP_NUM_THREADS is in the child; None leaves it.
        memory: as in `run_isolated`.
    """

    def __init__(self, *, threads: int | None = None, memory: int | None = None) -> None:
        self._threads, self._memory = threads, memory
        self._child: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._stderr: deque[bytes | None] = deque(maxlen=_LAST_LINES)
        self._readers: list[threading.Thread] = []
        self._lifeline = -1
        self._closed = False
        self._idle = True
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """Whether there is a child that the next call goes to."""
        return self._child is not None and self._child.poll() is None

    def call(
        self, target: str, arguments: Mapping[str, Any], *, what: str, timeout: float, on_event: Emit | None = None
    ) -> Any:
        """One call; see `run_isolated`. Calls come one after another, and `close` may come from another thread."""
        with self._lock:
            if self._closed:
                raise WorkerCrashError(f"{what} was stopped.")
            if not self.running:
                self._release()
                self._child = self._start()
        deadline = time.monotonic() + timeout
        outcome: Event | None = None
        self._idle = False
        try:
            self._send({"target": target, "arguments": dict(arguments), "seconds": timeout + _ALARM_MARGIN})
            while outcome is None:
                line = self._line(deadline, what, timeout)
                if line is None:
                    break
                message = json.loads(line)
                if message["kind"] != "event":
                    outcome = message
                elif on_event is not None:
                    on_event(message["value"])
        except BaseException:
            self._end()
            raise
        if outcome is None:
            raise self._death(what, timeout)
        self._idle = True
        return _value_of(outcome, what)

    def _line(self, deadline: float, what: str, timeout: float) -> bytes | None:
        """The next line of the child; None where there will be none."""
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                return self._lines.get(timeout=min(left, _LOOK))
            except queue.Empty:
                if left <= _LOOK:
                    raise WorkerTimeoutError(f"{what} took longer than {timeout:g} s and was stopped.") from None
                if self._readers and not self._readers[0].is_alive() and self._lines.empty():
                    return None  # it ended without a word: no memory was left for one

    def close(self) -> None:
        """End the child; a call that waits for it, and every later one, raises WorkerCrashError."""
        with self._lock:
            self._closed = True
            self._end()

    def kill(self) -> None:
        """Kill the child at once, without waiting for it."""
        child = self._child
        if child is not None:
            child.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        root = str(Path(__file__).resolve().parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, environment.get("PYTHONPATH")) if p)
        if self._threads is not None:
            environment["OMP_NUM_THREADS"] = str(self._threads)
        watched, self._lifeline = os.pipe()
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the child
                pass_fds=(watched,) if os.name == "posix" else (),
            )
        finally:
            os.close(watched)
        self._child = child
        lines: queue.Queue[bytes | None] = queue.Queue()
        stderr: deque[bytes | None] = deque(maxlen=_LAST_LINES)
        self._lines, self._stderr = lines, stderr
        self._readers = [
            HelperThread(_pump, child.stdout, lines.put),
            HelperThread(_pump, child.stderr, stderr.append),
        ]
        for reader in self._readers:
            reader.start()
        _workers.add(self)
        path = [p for p in sys.path if p]
        self._send({"path": path, "parent": os.getpid(), "lifeline": watched, "memory": self._memory})
        return child

    def _send(self, message: Event) -> None:
        stdin = None if self._child is None else self._child.stdin
        if stdin is not None:
            with contextlib.suppress(BrokenPipeError, ValueError):  # it died, or was closed: its exit code says how
                stdin.write(json.dumps(message).encode() + b"\n")
                stdin.flush()

    def _end(self) -> None:
        child = self._child
        if child is not None and self._idle and child.stdin is not None:
            with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
                child.stdin.close()  # it ends by itself, and removes what it kept
                child.wait(timeout=_FAREWELL)
        if child is not None and child.poll() is None:
            child.terminate()
            try:
                child.wait(timeout=_GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._release()

    def _release(self) -> None:
        """Give back what belonged to a child that has ended."""
        child, self._child = self._child, None
        self._idle = True
        _workers.discard(self)
        if child is None:
            return
        for reader in self._readers:
            with contextlib.suppress(RuntimeError):  # it never began
                reader.join(timeout=5)
        for stream in (child.stdin, child.stdout, child.stderr):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()
        with contextlib.suppress(OSError):
            os.close(self._lifeline)

    def _death(self, what: str, timeout: float) -> WorkerError:
        child = self._child
        if child is None or self._closed:
            return WorkerCrashError(f"{what} was stopped.")
        try:
            code = child.wait(timeout=_LAST_WORDS)
        except subprocess.TimeoutExpired:  # it closed its channel and lives on
            child.kill()
            code = child.wait()
        with self._lock:
            self._release()
        if code == -signal.SIGALRM:
            return WorkerTimeoutError(f"{what} took longer than {timeout:g} s and was stopped.")
        return WorkerCrashError(f"{what} {death_of(code)}{_last_words(self._stderr)}")


def serve() -> int:
    """The child's side: answers go to the real standard output, everything printed goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    setting = json.loads(requests.readline())
    die_with(setting["parent"], setting["lifeline"])
    limit_memory(setting["memory"])
    sys.path += [p for p in setting["path"] if p not in sys.path]
    signal.signal(signal.SIGTERM, _end_here)

    def send(message: Event) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    for line in requests:
        request = json.loads(line)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, request["seconds"])  # nobody handles it: the system ends the process
        answer = _answer(request["target"], request["arguments"], lambda event: send({"kind": "event", "value": event}))
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        send(answer)
    return 0


def _answer(target: str, arguments: Mapping[str, Any], emit: Emit) -> Event:
    try:
        return {"kind": "result", "value": _function(target)(emit=emit, **arguments)}
    except (SystemExit, KeyboardInterrupt) as error:
        failure: BaseException = exit_error(error)
    except BaseException as error:
        failure = error
    text = " ".join(_words_of(failure).split())[:2000]
    answer = {"kind": "error", "type": type(failure).__name__, "message": text, "exit_code": 1, "rule": None}
    if isinstance(failure, AttnDeployError):
        answer |= {"message": str(failure), "exit_code": failure.exit_code, "rule": failure.rule}
    return answer


def _words_of(error: BaseException) -> str:
    place = f"{error.filename}: " if isinstance(error, OSError) and error.filename is not None else ""
    return f"{place}{reason_of(error)}"


def _value_of(outcome: Event, what: str) -> Any:
    if outcome["kind"] == "result":
        return outcome["value"]
    kind = getattr(errors, outcome["type"], None)
    if isinstance(kind, type) and issubclass(kind, AttnDeployError):
        raise kind(outcome["message"], exit_code=outcome["exit_code"], rule=outcome["rule"])
    raise WorkerError(f"{what} failed: {outcome['type']}: {outcome['message']}")


def _call_here(target: str, arguments: Mapping[str, Any], *, what: str, on_event: Emit | None) -> Any:
    try:
        return _function(target)(emit=on_event or (lambda _: None), **arguments)
    except AttnDeployError:
        raise
    except Exception as error:
        raise WorkerError(f"{what} failed: {type(error).__name__}: {_words_of(error)}") from error


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _pump(stream: Any, put: Callable[[bytes | None], Any]) -> None:
    try:
        for line in stream:
            put(line)
    except (ValueError, MemoryError):  # closed while it was read; no room for a line
        pass
    finally:
        put(None)


def _last_words(stderr: Iterable[bytes | None]) -> str:
    lines = [
        line.strip() for line in b"".join(filter(None, stderr)).decode(errors="replace").splitlines() if line.strip()
    ]
    return f" Its last words: {lines[-1][:300]}" if lines else ""


def _end_here(*_: Any) -> None:
    end_children()
    os._exit(128 + signal.SIGTERM)
