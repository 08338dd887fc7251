"""Downloads into the user's cache: with a checksum, resumed where they were cut off, whole or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attn_deploy.errors import DatasetError, MissingDependencyError

BLOCK = 1 << 16
TIMEOUT_SECONDS = 30


def cache_folder() -> Path:
    """The folder for data sets in the platform's cache of this user.

    Raises:
        MissingDependencyError: if platformdirs is not installed.
    """
    try:
        import platformdirs
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "platformdirs is not installed; it is needed to find the cache: pip install 'attn-deploy[data]', or name "
            "the folder of the data set with --data-dir."
        ) from error
    return Path(platformdirs.user_cache_dir("attn-deploy")) / "data"


def download(
    url: str,
    known_hash: str,
    name: str,
    progress: Callable[[str], None] = lambda _: None,
    *,
    folder: Path | None = None,
) -> Path:
    """The file behind ``url``, in the cache; nothing is fetched if it is there with the right checksum.

    What has arrived of an interrupted download is kept beside it as ``NAME.part`` and continued.

    Args:
        url: http or https.
        known_hash: ``md5:...`` or ``sha256:...`` of the whole file.
        name: file name in the cache.
        progress: called with a few words.
        folder: in place of the cache.

    Raises:
        DatasetError: if the server cannot be reached, or what it sent has another checksum.
        MissingDependencyError: if pooch is not installed.
    """
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"pooch is not installed; it is needed to download {name}: pip install 'attn-deploy[data]', or name the "
            "folder of the data set with --data-dir."
        ) from error
    pooch.get_logger().setLevel("WARNING")
    home = folder or cache_folder()
    part = home / f"{name}.part"

    def fetch(address: str, output: Any, _: Any) -> None:
        _fetch(address, part, progress)
        part.replace(str(output))

    try:
        home.mkdir(parents=True, exist_ok=True)
        return Path(pooch.retrieve(url, known_hash, fname=name, path=home, downloader=fetch))
    except ValueError as error:  # pooch's word for a wrong checksum
        part.unlink(missing_ok=True)
        raise DatasetError(
            f"{url}: what was received is not the file that was expected ({known_hash}): "
            f"{str(error).splitlines()[0]} It was removed; try again."
        ) from error
    except OSError as error:  # requests' errors are OSErrors too
        raise DatasetError(
            f"{url} could not be downloaded to {home}: {_told(error)}. Try again: what has arrived is kept. Without a "
            "network, name the folder of the data set with --data-dir."
        ) from error


def _fetch(url: str, part: Path, progress: Callable[[str], None]) -> None:
    """Append to ``part`` what is missing of it."""
    import requests

    present = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={present}-"} if present else {}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code == 416:  # nothing is missing, or the part is of another file: the checksum tells
            return
        answer.raise_for_status()
        resumed = answer.status_code == 206
        length = answer.headers.get("Content-Length")
        received = present if resumed else 0
        total = received + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file:
            for block in answer.iter_content(BLOCK):
                file.write(block)
                received += len(block)
                progress(_told_progress(part.stem, received, total))
    if total is not None and received < total:
        raise OSError(f"the connection ended after {received:,} of {total:,} bytes")


def _told_progress(name: str, received: int, total: int | None) -> str:
    whole = f" of {total / 1e6:.0f}" if total else ""
    return f"downloading {name}: {received / 1e6:.0f}{whole} MB"


def _told(error: OSError) -> str:
    with contextlib.suppress(ImportError):
        import requests

        if isinstance(error, requests.exceptions.ConnectionError):
            return "the server cannot be reached"
    return " ".join((error.strerror or str(error) or type(error).__name__).split())[:300]
