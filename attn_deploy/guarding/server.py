"""The process behind guarded calls: it has the libraries loaded, and a fork of it stands ready for the next call.

The fork is made before it is needed, so that a call costs a message to it. When one begins to work, the next is made. A
fork whose call went well takes the next one too; after an error the caller lets go of it. All die with the process that
started the server.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

from attn_deploy.errors import AttnDeployError, InvalidRequestError, exit_error
from attn_deploy.guarding.callbacks import send_by
from attn_deploy.guarding.limits import default_memory_limit
from attn_deploy.guarding.transport import error_data, packed, unpacked
from attn_deploy.guarding.wire import receive, send
from attn_deploy.processes import die_with, limit_memory

_FRESH_SECONDS = 1.0
_limited: tuple[float, int | None] | None = None  # when the limit was chosen, and it
_LIBRARIES = ("onnx", "onnxruntime", "msgspec")  # what nearly every call comes to need


class _Spares:
    """The forks of this process: one that waits for a call, and those that make one."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._ready, self._begun = os.pipe()
        self._waiting = 0

    def next_news(self) -> bytes:
        """Fork, and wait until the fork has a call (its module), is gone (empty), or nobody will ever call (a dash)."""
        self._waiting = os.fork()
        if self._waiting == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._ready)
            _stand_ready(self._door, self._begun)
        return os.read(self._ready, 4096)

    def reap(self, *_: Any) -> None:
        """Tell the caller how processes ended, where that was not well."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                code = os.waitstatus_to_exitcode(status)
                if code:
                    with contextlib.suppress(OSError):
                        self._door.sendall(f"{pid} {code}\n".encode())
                if pid == self._waiting:
                    os.write(self._begun, b"\n")  # if it went without a word, another is needed


def serve(control: int, module: str) -> None:
    """Stand ready until the caller's process is gone.

    Args:
        control: file descriptor of a socket: a call comes as a connection and a pipe that only the caller holds open; back
            goes a line for each process that ended badly, with its number and exit code.
        module: of the first call; imported before the first fork.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller answers Ctrl-C, and lets go of its calls
    warnings.simplefilter("ignore", DeprecationWarning)  # libraries have threads of their own, which no fork needs
    for name in (*_LIBRARIES, module):
        _import(name)
    with contextlib.suppress(Exception):  # without ONNX Runtime, or with one that is damaged: the call says so
        _warm_up()
    gc.collect()
    gc.freeze()  # so that a collection in a fork does not touch, and thereby copy, what is there already
    spares = _Spares(socket.socket(fileno=control))
    signal.signal(signal.SIGCHLD, spares.reap)
    while not (news := spares.next_news()).startswith(b"-"):
        for name in news.decode().split("\n"):
            _import(name)


def _warm_up() -> None:
    """Let libraries set up here, once, what each fork would set up again: their tables of operators and of kernels."""
    import onnx
    import onnxruntime

    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    ends = ([value("x", onnx.TensorProto.FLOAT, ("N", 4))], [value("y", onnx.TensorProto.FLOAT, ("N", 4))])
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", *ends), opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, data_prop=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a thread of its own would not outlive the fork
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": [[0.0, 0.0, 0.0, 0.0]]})


def _import(module: str) -> None:
    if module and module not in sys.modules:
        with contextlib.suppress(Exception):  # the call says what is wrong with it
            importlib.import_module(module)


def _stand_ready(door: socket.socket, begun: int) -> None:
    """Wait for a caller, make its calls one after another until it lets go, and end."""
    server = os.getppid()
    handles: list[int] = []
    with contextlib.suppress(OSError):
        _, handles, _, _ = socket.recv_fds(door, 1, 2)
    if len(handles) < 2:
        os.write(begun, b"-")
        os._exit(0)
    connection, lifeline = socket.socket(fileno=handles[0]), handles[1]
    die_with(server, lifeline)
    send_by(lambda number, arguments: send(connection, packed(("call", number, arguments))))
    with contextlib.suppress(OSError):
        while (data := receive(connection)) is not None:
            send(connection, packed(("pid", os.getpid())))
            request = unpacked(data)
            if begun >= 0:
                os.write(begun, f"{request['module']}\n".encode())
                door.close()
                os.close(begun)
                begun = -1
            send(connection, packed(_answer(request)))
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
    if begun >= 0:
        os.write(begun, b"\n")  # its caller went before it had said anything
    os._exit(0)


def _answer(request: dict[str, Any]) -> tuple[Any, ...]:
    """What a call returned or raised, and what it warned of."""
    sys.argv = request["argv"]
    if dict(os.environ) != request["environment"]:  # setting each variable anew takes a fifth of a short call
        os.environ.clear()
        os.environ.update(request["environment"])
    sys.path[:] = request["path"]
    limit_memory(request["memory"] if request["memory"] is not None else _memory_limit())
    caught: list[warnings.WarningMessage] = []
    try:
        os.chdir(request["folder"])
        function = getattr(importlib.import_module(request["module"]), request["name"])
        with warnings.catch_warnings(record=True) as recorded:
            caught = recorded
            warnings.simplefilter("always")
            try:
                arguments, options = unpacked(request["arguments"])
            except TypeError as error:
                raise InvalidRequestError(_unfit(str(error))) from error
            value = function(*arguments, **options)
        return ("result", packed(value), _said(caught))
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        failure: BaseException = exit_error(error)
    except MemoryError:
        failure = AttnDeployError("there is not enough memory for this; use a smaller input or batch.")
    except Exception as error:
        failure = error
    return ("error", error_data(failure), _said(caught))


def _memory_limit() -> int | None:
    """What is free decides it, and is looked at once a second: files of the system take longer to read than a call to send."""
    global _limited
    if _limited is None or time.monotonic() - _limited[0] > _FRESH_SECONDS:
        _limited = (time.monotonic(), default_memory_limit())
    return _limited[1]


def _said(caught: Sequence[warnings.WarningMessage]) -> list[tuple[str, str]]:
    """The warnings of this program, by the names of their classes."""
    return [(w.category.__name__, str(w.message)) for w in caught if w.category.__module__ == "attn_deploy.errors"]


def _unfit(reason: str) -> str:
    return (
        f"{reason}, where files of others are read. Call it within attn_deploy.unguarded() if you trust the file: then "
        "it runs in this process."
    )
