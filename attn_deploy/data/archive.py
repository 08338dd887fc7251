"""Taking known files out of a tar archive, none of which may land anywhere but in one new folder."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from attn_deploy.errors import DatasetError
from attn_deploy.files import make_folder, scratch_folder


def unpack_files(archive: Path, wanted: Mapping[str, str], folder: Path) -> None:
    """Write the wanted members into ``folder``, which appears whole or not at all.

    Only the contents of regular members that are asked for are read; names of the archive are never used as paths.

    Args:
        archive: a tar file, compressed or not.
        wanted: member name to file name.
        folder: must not exist.

    Raises:
        DatasetError: if the archive is truncated or damaged, lacks a member, or has a member whose path leaves it.
    """
    make_folder(folder.parent)
    with scratch_folder(beside=folder) as scratch:
        partial = scratch / folder.name
        partial.mkdir()
        copied = _copy(archive, wanted, partial)
        missing = sorted(wanted.keys() - copied)
        if missing:
            raise DatasetError(f"{archive} has no {', '.join(missing)}; it is not the archive that was expected.")
        partial.chmod(0o755)
        partial.rename(folder)


def _copy(archive: Path, wanted: Mapping[str, str], folder: Path) -> set[str]:
    copied = set()
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise DatasetError(
                        f"{archive} holds {member.name!r}, a path that leaves the archive; nothing was unpacked."
                    )
                name = wanted.get(str(path))
                if name is None:
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise DatasetError(f"{archive}: {member.name!r} should be a plain file and is not one.")
                with (folder / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
                copied.add(str(path))
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DatasetError(f"{archive} cannot be unpacked: {error.strerror or error}.") from error
        raise DatasetError(
            f"{archive} is truncated or damaged: {str(error) or type(error).__name__}. Remove it and try again."
        ) from error
    return copied
