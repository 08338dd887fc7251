"""The command runs in a child process, and this one says how it ended: native code may crash, and user code may exit.

The child is a fork made before anything starts a thread, so that it costs a millisecond. Signals that are sent to this
process are passed on; a terminal sends Ctrl-C to both. Where the system cannot fork, the command runs here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from attn_deploy.errors import exit_error
from attn_deploy.isolate import end_children
from attn_deploy.processes import LIFELINE, death_of, die_with

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
TERMINATED = 128 + signal.SIGTERM
HUNG_UP = 129  # the terminal was closed

_INTERRUPTION = "interrupted; nothing was left half-written."
_AGAIN = 0.25  # seconds within which a second Ctrl-C is the same one, by another way
_KERNEL = 0x80  # si_code of a signal that the terminal sent, to the whole process group

_received: list[float] = []
_finishing: list[int] = []  # in the child, the pipe on which it says how it ended
_supervised = False


def is_supervised() -> bool:
    """Whether this process runs one command and nothing else, so that limits may be set on it."""
    return _supervised


def interruption_code() -> int | None:
    """The exit code for the signal that this process was sent; None if there was none."""
    return None if not _received else 128 + int(_received[0])


def run_supervised(command: Callable[[], None]) -> None:
    """Run the command in a child and exit as it did, with one line of why where it could not say so itself."""
    signals = {getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD") if hasattr(signal, n)}
    if not hasattr(os, "fork") or not hasattr(signal, "sigwaitinfo"):
        _begin(command)
        return
    lifeline = os.environ.pop(LIFELINE, "")
    watched, held = os.pipe()
    finished, finishing = os.pipe()
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = os.fork()
    if child == 0:
        os.close(held)
        os.close(finished)
        die_with(parent, watched)
        _be_the_child(command, finishing, signals)
    os.close(watched)
    os.close(finishing)
    if lifeline:
        starter, _, number = lifeline.partition(":")
        with contextlib.suppress(ValueError):
            die_with(int(starter), int(number))
    code, signalled = _wait(child, signals)
    os.set_blocking(finished, False)  # what the child started may hold the other end
    word = b""
    with contextlib.suppress(BlockingIOError):
        word = os.read(finished, 1)  # empty where the child did not come to its own end
    if word and word[0] in (INTERRUPTED, TERMINATED, HUNG_UP):
        _sweep_after(sys.argv[1:])
    sys.exit(word[0] if word else _verdict(code, signalled))


def _wait(child: int, signals: set[signal.Signals]) -> tuple[int, int]:
    """Wait for the child, and pass on what this process alone is sent; its exit code, and the first signal or 0."""
    signalled = 0
    while True:
        information = signal.sigwaitinfo(signals)
        if information.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid == child:
                return os.waitstatus_to_exitcode(status), signalled
            continue
        signalled = signalled or information.si_signo
        if information.si_code != _KERNEL:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, information.si_signo)


def _verdict(code: int, signalled: int) -> int:
    """The exit code for a child that did not come to its own end, with the reason."""
    command = shlex.join(["attn-deploy", *sys.argv[1:]])
    _sweep_after(sys.argv[1:])
    if code in (-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP):
        return 128 - code
    if code < 0 and signalled:  # native code that an exception goes through aborts: it was the signal that ended it
        _say(_INTERRUPTION)
        return 128 + signalled
    if code < 0:
        text = f"`{command}` {death_of(code)} A library failed on this input; nothing was left half-written."
        _say(f"error: {text}")
        return 1
    _say(f"error: `{command}` was ended by code that it ran (os._exit({code})), and made nothing.")
    return 2


def _sweep_after(words: Sequence[str]) -> None:
    """Remove the temporary folders of a child that died: those of the system, of this folder, and beside what it named."""
    from attn_deploy.files import sweep

    named = (Path(word.partition("=")[2] or word).absolute().parent for word in words)
    for folder in {Path(tempfile.gettempdir()), Path.cwd(), *named}:
        with contextlib.suppress(OSError, ValueError):
            sweep(folder)


def _be_the_child(command: Callable[[], None], finishing: int, signals: set[signal.Signals]) -> None:
    code = 70
    _finishing[:] = [finishing]
    sys.unraisablehook = _on_ignored
    try:
        signal.signal(signal.SIGINT, _on_signal)
        signal.signal(signal.SIGTERM, _on_signal)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # under nohup it is ignored, and stays so
            signal.signal(signal.SIGHUP, _on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        _begin(command)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except KeyboardInterrupt:
        code = interruption_code() or INTERRUPTED
        _say(_INTERRUPTION)
    except OSError as error:
        _say(f"error: {error.filename or 'the output cannot be written'}: {error.strerror}.")
        code = interruption_code() or 1  # a terminal that was closed takes no last words
    except Exception as error:
        if isinstance(error, ValueError) and any(s is None or s.closed for s in (sys.stdout, sys.stderr)):
            _say("error: code that this command ran closed its output; nothing was left half-written.")
            code = 2
        else:
            _say(f"error: {type(error).__name__}: {error}. This is a bug, please report it.")
    code = _flushed(code) & 0xFF
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends anyway
    with contextlib.suppress(OSError):
        os.write(finishing, bytes([code]))
    sys.exit(code)


def _begin(command: Callable[[], None]) -> None:
    global _supervised
    _supervised = True
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may be Latin-1, or ASCII
    command()


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Ctrl-C, SIGTERM and SIGHUP are one thing: what is done is kept, and what is temporary goes."""
    now = time.monotonic()
    if _received and now - _received[1] < _AGAIN:
        return
    _received[:] = [_received[0] if _received else number, now]
    if _finishing and _imports(frame):
        _end_now()
    raise KeyboardInterrupt


def _on_ignored(ignored: UnraisableHookArgs) -> None:
    """What Python can only print: an interruption that comes inside a finalizer is lost there, and the command would go on."""
    if _finishing and _received and isinstance(ignored.exc_value, KeyboardInterrupt):
        _end_now()
    sys.__unraisablehook__(ignored)


def _end_now() -> NoReturn:
    """End where no exception can be raised; the parent removes what is temporary."""
    _say(_INTERRUPTION)
    end_children()
    code = interruption_code() or INTERRUPTED
    os.write(_finishing[0], bytes([code]))
    os._exit(code)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: native code may do it, and aborts the process when an exception comes out.

    torch's own start does, from the middle of its library. An import has nothing to finish, so that nothing is lost.
    """
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load" and frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _flushed(code: int) -> int:
    """The exit code when everything printed is out; a full disk or a closed pipe is an error, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
            if not isinstance(error, BrokenPipeError) and not code:  # else the reason has been said
                _say(f"error: the output cannot be written: {error}.")
            code = code or 1
    return code


def can_print() -> bool:
    """Whether standard output takes anything; not if it was closed when the program began."""
    try:
        os.write(1, b"")
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="replace"))


def raised_by_user(error: BaseException) -> Exception | None:
    """The error to report for a SystemExit or KeyboardInterrupt that nobody but the user's own code can have raised."""
    if isinstance(error, KeyboardInterrupt) and (_received or not _supervised):
        return None
    return exit_error(error)
