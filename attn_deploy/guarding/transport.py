"""Arguments and results between two processes of one program.

Pickled, and read with a table of what may be made: records of this program, paths, arrays and plain containers. Whatever
native code did to the process that answers, its answer cannot name code to run here.
"""

from __future__ import annotations

import builtins
import dataclasses
import enum
import io
import pickle
import traceback
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

from attn_deploy import errors
from attn_deploy.errors import AttnDeployError, WorkerError
from attn_deploy.guarding.callbacks import Callback

_PLAIN = {
    "builtins": {"set", "frozenset", "complex", "slice", "range", "bytearray"},
    "collections": {"OrderedDict", "Counter", "defaultdict"},
    "datetime": {"datetime", "date", "timedelta", "timezone"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "WindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "PurePosixPath", "WindowsPath"},
    "copyreg": {"_reconstructor", "__newobj__"},
}
_NUMPY = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
_HOUSE = "attn_deploy."


def packed(value: Any) -> bytes:
    """The bytes of a value.

    Raises:
        TypeError: if it holds what cannot leave its process; the message names it.
    """
    buffer = io.BytesIO()
    try:
        _Writer(buffer, protocol=5).dump(value)
        return buffer.getvalue()
    except Exception as error:  # whatever a value's own way of pickling raises
        raise TypeError(str(error)) from error


def unpacked(data: bytes) -> Any:
    """The value behind the bytes.

    Raises:
        TypeError: if they name anything else than records, paths, arrays and containers.
    """
    try:
        return _Reader(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        raise TypeError(str(error)) from error


class _Writer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        named = isinstance(value, (type, FunctionType, BuiltinFunctionType))  # what they may name, the reader decides
        if not named and not _may_be_made(kind.__module__, kind.__name__, kind):
            raise TypeError(f"{kind.__module__}.{kind.__name__} cannot be given to another process")
        return NotImplemented


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        top = module.split(".")[0]
        if top in ("builtins", "collections", "datetime", "pathlib", "copyreg", "numpy") or module.startswith(_HOUSE):
            kind = super().find_class(module, name)
            if _may_be_made(module, name, kind):
                return kind
        raise pickle.UnpicklingError(f"{module}.{name} cannot be given to another process")


def _may_be_made(module: str, name: str, kind: Any) -> bool:
    if name in _PLAIN.get(module, ()):
        return True
    if module.split(".")[0] == "numpy":
        return (
            name in _NUMPY
            or module == "numpy.dtypes"
            or "generic" in [b.__name__ for b in getattr(kind, "__mro__", ())]
        )
    if not module.startswith(_HOUSE) or not isinstance(kind, type) or kind.__module__ != module:
        return False
    return dataclasses.is_dataclass(kind) or issubclass(kind, (tuple, enum.Enum, Callback))


def error_data(error: BaseException) -> dict[str, Any]:
    """What the other side needs to raise the same error."""
    data: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, AttnDeployError):
        data |= {"exit_code": error.exit_code, "rule": error.rule}
    elif isinstance(error, OSError):
        data["os"] = (error.errno, error.strerror, str(error.filename) if error.filename is not None else None)
    else:  # nobody expects it: where it happened is what the report of a fault needs
        data["where"] = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return data


def error_from(data: Mapping[str, Any], what: str) -> Exception:
    """The error behind `error_data`, with the other side's traceback in a note; one not known here as a WorkerError."""
    error = _same_error(data, what)
    if data.get("where"):
        vars(error)["__notes__"] = [f"In the process that ran it:\n{data['where']}"]  # add_note is of Python 3.11
    return error


def _same_error(data: Mapping[str, Any], what: str) -> Exception:
    name, message = str(data["type"]), str(data["message"])
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, AttnDeployError):
        return kind(message, exit_code=data.get("exit_code"), rule=data.get("rule"))
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, OSError) and "os" in data:
        return kind(*data["os"])
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError):
        return kind(message)
    return WorkerError(f"{what} failed: {name}: {message}")
