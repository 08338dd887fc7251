"""Files of JSON and TOML as data."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import require_regular
from attn_deploy.reading.types import typed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
_LARGEST_TOML = 1 << 20  # bytes: what people write by hand
_LARGEST_JSON = 1 << 29  # bytes; the largest record of a fleet is a hundredth of that


def read_json(path: Path) -> Any:
    """The data in a JSON file.

    Raises:
        InvalidRequestError: if it cannot be read, or is not JSON.
    """
    content = _read(path, str(path), _LARGEST_JSON, "a record")
    try:
        return json.loads(content)
    except RecursionError as error:
        raise InvalidRequestError(f"{path} is not a record: it is nested too deeply.") from error
    except ValueError as error:
        raise InvalidRequestError(f"{path} is not JSON: {error}.") from error


def read_typed(
    path: Path, kind: type[T], what: str, *, schema: int | None = None, signed: Collection[str] | None = None
) -> T:
    """What a JSON file holds, as an instance of a dataclass; see `typed`. Every message names the file.

    Args:
        path: of the file.
        kind: a dataclass.
        what: it is, for messages: "the plan of a table".
        schema: the ``schema_version`` that it must have, if any.
        signed: see `typed`.

    Raises:
        InvalidRequestError: if it cannot be read, is of another schema, or is not what it should be.
    """
    data = read_json(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if schema is not None and version != schema:
        raise InvalidRequestError(
            f"{path} is not {what} of schema version {schema}, which this version reads: {version}."
        )
    try:
        return typed(data, kind, signed=signed)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{path} is not {what}: {error}") from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The data in a TOML file.

    Args:
        path: of the file.
        what: it is, for messages: "the device profile".

    Raises:
        InvalidRequestError: if it cannot be read, or is not TOML.
    """
    content = _read(path, f"{what} {path}", _LARGEST_TOML, "one")
    try:
        return tomllib.loads(content.decode())
    except RecursionError as error:
        raise InvalidRequestError(f"{what} {path} is nested too deeply.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{what} {path} is not valid TOML: {error}.") from error


def _read(path: Path, name: str, largest: int, kind: str) -> bytes:
    """The bytes of a file that is not too large."""
    try:
        require_regular(path)
        size = path.stat().st_size
        if size > largest:
            raise InvalidRequestError(f"{name} has {size:,} bytes, which is too large for {kind}.")
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{name} cannot be read: {error.strerror or error}.") from error
