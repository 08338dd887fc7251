"""What a pickle asks Python for, read without running any of it. No torch here."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

from attn_deploy.errors import InvalidRequestError

_MOST_BYTES = 1 << 26  # of a pickle without its tensors


def names_in(path: Path) -> tuple[str, ...]:
    """What a pickle asks Python for, as ``module name``; read without running any of it.

    Raises:
        InvalidRequestError: if the file is no pickle.
    """
    try:
        return tuple(dict.fromkeys(_globals(_pickled(path))))
    except Exception as error:  # of archives and pickles that were damaged or made to be
        raise InvalidRequestError(
            f"{path} cannot be read as a file that torch.save wrote ({path.stat().st_size} bytes): it was cut short, or is "
            "something else."
        ) from error


def _pickled(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    with zipfile.ZipFile(path) as archive:
        entry = next((i for i in archive.infolist() if i.filename.endswith("data.pkl")), None)
        if entry is None or entry.file_size > _MOST_BYTES:
            raise ValueError("no data.pkl")
        return archive.read(entry)


def _globals(data: bytes) -> Iterator[str]:
    strings: list[str] = []
    position = 0
    while position < len(data):  # older files hold several pickles, one behind the other, and then the tensors
        end = position
        try:
            for opcode, argument, place in pickletools.genops(data[position:]):
                if opcode.name == "GLOBAL":
                    yield str(argument)
                elif opcode.name == "STACK_GLOBAL":
                    yield " ".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
                end = position + (place or 0) + 1
        except ValueError:
            if position == 0:
                raise
            return
        if end <= position:
            return
        position = end
