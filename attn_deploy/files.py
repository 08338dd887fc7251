"""Files that are whole or not there, and their hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from attn_deploy.errors import InvalidRequestError


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_writable(path: Path) -> None:
    """Refuse an output path early, before minutes of work end at it.

    Raises:
        InvalidRequestError: if the folder is missing, is no folder or cannot be written, or the path is a folder.
    """
    folder = path.parent if str(path.parent) else Path()
    if path.is_dir():
        raise InvalidRequestError(f"the output {str(path)!r} is a folder; name a file in it.")
    if not folder.exists():
        raise InvalidRequestError(f"the output folder {str(folder)!r} does not exist; create it, or choose another.")
    if not folder.is_dir():
        raise InvalidRequestError(f"the output folder {str(folder)!r} is a file; choose another.")
    try:  # root may write where the mode bits say no, and a read-only mount refuses whom they allow: so try
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidRequestError(f"the output folder {str(folder)!r} cannot be written: {reason}.") from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; renamed to it when the block ends well, removed when it does not.

    Raises:
        InvalidRequestError: if the folder cannot be written, or the disk is full.
    """
    check_writable(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes files that only their owner reads
        temporary.replace(path)
    except OSError as error:
        raise InvalidRequestError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file, or nothing.

    Raises:
        InvalidRequestError: if the folder cannot be written, or the disk is full.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
