"""Calls into native code that may crash or hang, made in a child process.

A child is a fresh interpreter that imports the function it is to call, not a fork: threads of torch and
TensorRT do not survive a fork, and multiprocessing's spawn would run the user's main script again. Arguments and
results are JSON; large data goes through files.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from attn_deploy import errors
from attn_deploy.errors import AttnDeployError, WorkerError

Event = dict[str, Any]

# Not `-m`: that puts the user's folder first on the path, where a file of theirs called queue.py would be ours too.
_CHILD = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; from attn_deploy.isolate import serve; sys.exit(serve())"
)


_children: set[subprocess.Popen[bytes]] = set()
_here: set[str] = set()


def call_here(targets: Iterable[str]) -> None:
    """From now on call these functions in this process, which is itself one that somebody ends when it hangs.

    The start of a child costs more than simplifying most graphs; a worker that is expendable saves it.
    """
    _here.clear()
    _here.update(targets)


def end_children() -> None:
    """Kill the children of this process; for a handler of the signal that ends it."""
    for child in list(_children):
        child.kill()


def run_isolated(
    target: str,
    arguments: Mapping[str, Any],
    *,
    what: str,
    timeout: float,
    on_event: Callable[[Event], None] | None = None,
) -> Any:
    """Call ``target`` (``module:function``) with JSON-ready keyword arguments in a child process.

    The function is called with ``emit``, a function that sends a dictionary to ``on_event`` here, and the arguments.

    Args:
        target: the function; it lives in an importable module.
        arguments: keyword arguments.
        what: what the child does, for messages: "simplifying the graph".
        timeout: seconds until the child is killed.
        on_event: receives what the child emits.

    Returns:
        What the function returned, through JSON.

    Raises:
        AttnDeployError: of the class that the child raised.
        WorkerError: if the child crashed, ran out of time, or raised anything else.
    """
    if target in _here:
        return _call_here(target, arguments, what=what, on_event=on_event)
    root = str(Path(__file__).resolve().parent.parent)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, environment.get("PYTHONPATH")) if p)
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches us alone; we then end the child
    )
    if child.stdin is None or child.stdout is None or child.stderr is None:
        raise WorkerError(f"{what} could not be started: the child process has no pipes.")
    lines: queue.Queue[bytes | None] = queue.Queue()
    stderr: list[bytes] = []
    readers = [
        threading.Thread(target=_pump, args=(child.stdout, lines.put), daemon=True),
        threading.Thread(target=_pump, args=(child.stderr, lambda b: stderr.append(b) if b else None), daemon=True),
    ]
    for reader in readers:
        reader.start()
    _children.add(child)
    deadline = time.monotonic() + timeout
    outcome: Event | None = None
    try:
        child.stdin.write(json.dumps(dict(arguments)).encode())
        child.stdin.close()
        while True:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise WorkerError(f"{what} took longer than {timeout:.0f} s and was stopped.") from None
            if line is None:
                break
            message = json.loads(line)
            if message["kind"] == "event":
                if on_event is not None:
                    on_event(message["value"])
            else:
                outcome = message
        child.wait(timeout=max(1.0, deadline - time.monotonic()))
    except BrokenPipeError:  # the child died before it read its arguments: the exit code below says how
        child.wait(timeout=10)
    finally:
        if child.poll() is None:
            _end(child)
        _children.discard(child)
        for reader in readers:
            reader.join(timeout=5)
        child.stdout.close()
        child.stderr.close()
    if outcome is None:
        raise WorkerError(f"{what} {_death(child.returncode)}.{_tail(stderr)}")
    if outcome["kind"] == "result":
        return outcome["value"]
    raised = getattr(errors, outcome["type"], None)
    if isinstance(raised, type) and issubclass(raised, AttnDeployError):
        raise raised(outcome["message"], exit_code=outcome["exit_code"])
    raise WorkerError(f"{what} failed: {outcome['type']}: {outcome['message']}")


def _call_here(
    target: str, arguments: Mapping[str, Any], *, what: str, on_event: Callable[[Event], None] | None
) -> Any:
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    try:
        return function(emit=on_event or (lambda _: None), **arguments)
    except AttnDeployError:
        raise
    except Exception as error:
        raise WorkerError(f"{what} failed: {type(error).__name__}: {error}") from error


def _pump(stream: Any, put: Callable[[bytes | None], Any]) -> None:
    for line in stream:
        put(line)
    put(None)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(timeout=3)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"crashed ({name})"
    return f"ended without a result (exit code {code})"


def _tail(stderr: list[bytes]) -> str:
    text = b"".join(stderr).decode(errors="replace").strip()
    return f" Its last words: {text.splitlines()[-1][:300]}" if text else ""


def _end_with_parent(parent: int) -> None:
    """End this process when the one that waits for it was killed: nobody else would."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def serve() -> int:
    """The child's side: answers go to the real standard output, everything printed goes to standard error."""
    target = sys.argv[1]
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    def send(message: Event) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    arguments = json.loads(sys.stdin.read())
    try:
        module, _, name = target.partition(":")
        function = getattr(importlib.import_module(module), name)
        value = function(emit=lambda event: send({"kind": "event", "value": event}), **arguments)
    except AttnDeployError as error:
        send({"kind": "error", "type": type(error).__name__, "message": str(error), "exit_code": error.exit_code})
        return 1
    except Exception as error:
        send(
            {
                "kind": "error",
                "type": type(error).__name__,
                "message": " ".join(str(error).split())[:2000],
                "exit_code": 1,
            }
        )
        return 1
    send({"kind": "result", "value": value})
    return 0
