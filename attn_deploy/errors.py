"""Every error that attn-deploy raises on purpose.

    AttnDeployError
    ├── InvalidRequestError       an argument, option or path that cannot be used (also a ValueError)
    │   └── UnknownModelError     no model of that name (also a LookupError)
    ├── ExportError               a model could not be turned into a correct ONNX file
    │   ├── OpsetError            the asked opset cannot be met
    │   └── DynamicAxisError      an axis declared dynamic does not move
    ├── GraphError                a file is not a usable ONNX graph
    │   ├── EvidenceError         the evidence in a file is damaged, or belongs to another graph
    │   ├── InvalidGraphError     the checker refuses it
    │   └── OperatorError         it holds operators outside the standard
    ├── ParityError               two runtimes disagree, or a result is NaN or infinite
    ├── PrecisionError            a precision cannot be had, or is not what was found in the graph
    │   └── NothingToConvertError no operator of the graph can take the precision
    ├── EngineError
    │   ├── EngineBuildError      the builder or its parser refused the graph
    │   ├── EngineMismatchError   an engine does not belong to this flavor, version, device or ONNX file
    │   ├── DeviceError           a call of CUDA, or a run on the GPU, failed
    │   └── NoDeviceError         a GPU is needed and there is none
    ├── ProviderError             work ran, or would run, on another provider than asked
    ├── DatasetError              a data set is missing, short or damaged
    ├── CheckpointError           a checkpoint is damaged, or belongs to another model
    ├── TrainingError             training came to nothing: a loss that is not finite
    ├── WorkerError               a helper process failed
    │   ├── WorkerCrashError      it died, or was stopped
    │   └── WorkerTimeoutError    it ran out of time
    └── MissingDependencyError    an optional package is not installed; the message names the pip extra

A message says what happened with both values, where, and what to do. ``exit_code`` is what the command line returns:
1 a check failed, 2 the request cannot be used, 3 something needed is not installed or no device is there. ``rule`` names
the entry of `attn_deploy.rules.rules` that explains the failure, where one does. ``check`` is the check of a matrix cell
that the error belongs to.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path


class FileWarning(UserWarning):
    """Something about a file that its reader should know; the command line prints it as one line."""


class AttnDeployError(Exception):
    """Base of all errors raised on purpose; catching it catches every one of them."""

    exit_code = 1
    check = "export"

    def __init__(self, message: str, *, exit_code: int | None = None, rule: str | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        if exit_code is not None:
            self.exit_code = exit_code


class InvalidRequestError(AttnDeployError, ValueError):
    """An argument, option or path cannot be used."""

    exit_code = 2


class UnknownModelError(InvalidRequestError, LookupError):
    """No model has that name."""


class ExportError(AttnDeployError):
    """A model could not be turned into a correct ONNX file."""


class OpsetError(ExportError):
    """The asked opset cannot be met."""

    check = "opset"


class DynamicAxisError(ExportError):
    """An axis declared dynamic does not move."""

    check = "axes"


class GraphError(AttnDeployError):
    """A file is not a usable ONNX graph."""


class InvalidGraphError(GraphError):
    """The checker of the standard refuses a graph."""

    check = "checker"


class OperatorError(GraphError):
    """A graph holds operators outside the standard."""

    check = "operators"


class EvidenceError(GraphError):
    """The evidence in a file is damaged, or the graph changed after it was proven."""


class ParityError(AttnDeployError):
    """Two runtimes disagree beyond the tolerance, or a result is NaN or infinite."""

    check = "parity"


class PrecisionError(AttnDeployError):
    """A precision cannot be had, or is not what was found in the graph."""


class NothingToConvertError(PrecisionError):
    """No operator of the graph can take the precision: the file would have it in name only."""


class EngineError(AttnDeployError):
    """Something about a TensorRT engine is wrong."""


class EngineBuildError(EngineError):
    """The engine builder or its parser refused the graph."""


class EngineMismatchError(EngineError):
    """An engine does not belong to this flavor, version, device or ONNX file."""


class DeviceError(EngineError):
    """A call of CUDA, or a run on the GPU, failed; the message has CUDA's name for it."""


class NoDeviceError(EngineError):
    """A GPU is needed and there is none."""

    exit_code = 3


class ProviderError(AttnDeployError):
    """Work ran, or would run, on another provider than the one asked for."""


class DatasetError(AttnDeployError):
    """A data set is missing, short or damaged."""


class CheckpointError(AttnDeployError):
    """A checkpoint is damaged, or belongs to another model."""


class TrainingError(AttnDeployError):
    """Training came to nothing: a loss that is not finite."""


class WorkerError(AttnDeployError):
    """A helper process failed."""


class WorkerCrashError(WorkerError):
    """A helper process died, or was stopped; the message says how."""


class WorkerTimeoutError(WorkerError):
    """A helper process ran out of time, and was stopped."""


class MissingDependencyError(AttnDeployError, ImportError):
    """An optional package is not installed; the message names the pip extra that brings it."""

    exit_code = 3


def reason_of(error: BaseException) -> str:
    """What an error says, without the number of the system's and the path that the message names already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def exit_error(error: BaseException) -> InvalidRequestError:
    """What to raise in place of a SystemExit or a KeyboardInterrupt that the user's own code raised.

    Such an exception would end the command as if all were well, with no file and no message.
    """
    raised = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else type(error).__name__
    place = user_line(error)
    return InvalidRequestError(
        f"{place or 'the model'} ended the program ({raised}); code that is imported or run here must not. Put it under "
        "if __name__ == '__main__':, or take it out."
    )


def user_line(error: BaseException) -> str:
    """The innermost line of the user's own code in an error's traceback, as ``net.py, line 5``; empty if none is."""
    ours = (str(Path(__file__).parent), *(str(Path(p, "lib")) for p in (sys.prefix, sys.base_prefix)), "<")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
