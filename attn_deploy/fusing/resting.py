"""The weights of a model in a file of their own for as long as only its graph runs: a runtime holds them a second time."""

from __future__ import annotations

import ctypes
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn

from attn_deploy.errors import ExportError
from attn_deploy.processes import give_freed_memory_back

_TYPES = (torch.float32, torch.float16, torch.bfloat16)
_LEAST = 1 << 16  # bytes of a storage that is worth a read


class RestingWeights:
    """The storages of a model's parameters and buffers, emptied and filled again.

    All tensors that share a storage, in whichever copies of the model, lose their values at `rest` and have them again after
    `wake`: nothing may run them between the two. For a model that was made for one purpose and that nobody else holds. What
    lies in memory that torch did not allocate, such as a mapped checkpoint, stays.

    Args:
        model: on the CPU, or what of it is there.
        folder: of the temporary file, which has no name there; None for that of temporary files.
        beside: a model whose storages stay, also where both have them.
    """

    def __init__(self, model: nn.Module, folder: Path | None = None, *, beside: nn.Module | None = None) -> None:
        self._model, self._folder, self._beside = model, folder, beside
        self._file: IO[bytes] | None = None
        self._written: list[int] = []  # versions of the tensors
        self._resting: list[tuple[torch.UntypedStorage, int]] = []

    def rest(self) -> None:
        """Empty the storages; they are written once, and again if somebody changed a tensor since.

        Where there is no room to write them, they stay.
        """
        if self._resting:
            return
        storages = list(_storages(self._model, self._beside))
        tensors = (*self._model.parameters(), *self._model.buffers())
        versions = [t._version for t in tensors if not t.is_inference()]
        if self._file is None or versions != self._written:
            try:
                file = _written(storages, self._folder)
            except OSError:
                return
            self._file, self._written = file, versions
            weakref.finalize(self, file.close)
        for storage in storages:
            self._resting.append((storage, storage.nbytes()))
            storage.resize_(0)
        give_freed_memory_back()

    def wake(self) -> None:
        """Fill the storages again.

        Raises:
            ExportError: if the file cannot be read.
        """
        if self._file is None or not self._resting:
            return
        try:
            self._read(self._file)
        except OSError as error:
            raise ExportError(f"the weights cannot be read back from their temporary file: {error}.") from error
        self._resting.clear()

    def _read(self, file: IO[bytes]) -> None:
        file.seek(0)
        for storage, size in self._resting:
            storage.resize_(size)
            rest = _bytes(storage)
            while rest:
                count = file.readinto(rest)  # type: ignore[attr-defined]
                if not count:
                    raise OSError("it is shorter than it was")
                rest = rest[count:]


def _written(storages: Sequence[torch.UntypedStorage], folder: Path | None) -> IO[bytes]:
    """A file that holds the storages, and goes when it is closed."""
    file = tempfile.TemporaryFile(prefix="attn-deploy-", dir=folder)  # noqa: SIM115 - closed when its owner goes
    try:
        for storage in storages:
            file.write(_bytes(storage))
        file.flush()
    except OSError:
        file.close()
        raise
    return file


def _bytes(storage: torch.UntypedStorage) -> memoryview:
    """What a storage holds; by its address, since the storage of a tensor that gave an array can no longer be emptied."""
    return memoryview((ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())).cast("B")


def _storages(model: nn.Module, beside: nn.Module | None) -> Iterator[torch.UntypedStorage]:
    """The storages that can be emptied, each once: of types that a copy in float64 has in memory of its own."""
    tensors = list(_strided(model))
    kept = {
        t.untyped_storage().data_ptr()
        for t in tensors
        if type(t) not in (Tensor, nn.Parameter) or t.dtype not in _TYPES or t.is_inference()
    }
    kept |= {t.untyped_storage().data_ptr() for t in _strided(beside)} if beside is not None else set()
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes() >= _LEAST and storage.resizable() and storage.data_ptr() not in kept:
            kept.add(storage.data_ptr())
            yield storage


def _strided(model: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers in the memory of the CPU that have a storage."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.layout == torch.strided:
            yield tensor
