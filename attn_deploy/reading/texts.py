"""Files of JSON and TOML as data."""

from __future__ import annotations

import json
import sys
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
    try:
        require_regular(path)
        if path.stat().st_size > _LARGEST_JSON:
            raise InvalidRequestError(f"{path} has {path.stat().st_size:,} bytes, which is too large for a record.")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be read: {error.strerror or error}.") from error
    except RecursionError as error:
        raise InvalidRequestError(f"{path} is not a record: it is nested too deeply.") from error
    except ValueError as error:
        raise InvalidRequestError(f"{path} is not JSON: {error}.") from error


def read_typed(path: Path, kind: type[T], what: str, *, schema: int | None = None) -> T:
    """What a JSON file holds, as an instance of a dataclass; see `typed`. Every message names the file.

    Args:
        path: of the file.
        kind: a dataclass.
        what: it is, for messages: "the plan of a table".
        schema: the ``schema_version`` that it must have, if any.

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
        return typed(data, kind)
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
    try:
        require_regular(path)
        if path.stat().st_size > _LARGEST_TOML:
            raise InvalidRequestError(f"{what} {path} has {path.stat().st_size:,} bytes, which is too large for one.")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequestError(f"{what} {path} cannot be read: {error.strerror or error}.") from error
    except RecursionError as error:
        raise InvalidRequestError(f"{what} {path} is nested too deeply.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{what} {path} is not valid TOML: {error}.") from error
