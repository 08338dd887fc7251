"""Files that are whole or not there, and folders that are swept when their owner died."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attn_deploy.errors import InvalidRequestError

TEMPORARY = ".attn-deploy-"  # how the names of temporary files and folders begin

_LONGEST_MOVE = 300.0  # seconds for which another process may move its files, large ones over a network
_PAUSE = 0.02  # seconds between looks at a lock

_MOST_SWEPT = 8  # times that something new may be swept before it is locked, before the error is raised
_swept: set[Path] = set()


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes.

    Raises:
        InvalidRequestError: if it is no file: a device, or a pipe, has no end.
    """
    require_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_regular(path: Path) -> None:
    """Refuse a device or a pipe, which may have no end, or nothing to say.

    Raises:
        InvalidRequestError: if the path is there and no file.
    """
    if path.exists() and not path.is_file():
        raise InvalidRequestError(f"{path} is no file.")


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


def output_file(path: Path | str | None, default: Path, suffixes: Sequence[str]) -> Path:
    """Where a command writes its file, checked early, before minutes of work end at it.

    Args:
        path: as the user wrote it; None for the default. A folder that exists, or a text that ends in ``/``, gets the
            default's name inside.
        default: the path where none is named.
        suffixes: how the name may end, such as ``(".onnx",)``.

    Raises:
        InvalidRequestError: if the name ends otherwise, or the folder cannot be written.
    """
    target = default if path is None else Path(path)
    if path is not None and (str(path).endswith(("/", os.sep)) or target.is_dir()):
        make_folder(target)
        target = target / default.name
    elif path is not None and target.suffix.lower() not in suffixes:
        ends = f"ends in {target.suffix!r}" if target.suffix else "has no ending"
        raise InvalidRequestError(
            f"the output {str(path)!r} {ends}, and the file is {' or '.join(suffixes)}: name {target.stem}{suffixes[0]}, "
            f"or a folder as {target.stem}/."
        )
    check_writable(target)
    return target


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where it is not there.

    Raises:
        InvalidRequestError: if it cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequestError(
            f"the folder {str(path)!r} cannot be created: {error.strerror or error}; choose another."
        ) from error
    for folder in missing:
        to_disk(folder.parent)


@contextlib.contextmanager
def atomic_path(path: Path, *, rename: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path``; renamed to it when the block ends well, removed when it does not.

    The bytes are on the disk before the name is, so that a power cut leaves the old file or the new one. What a process
    that was killed left beside ``path`` goes at the next write. Without ``rename`` nothing is moved to ``path``.

    Raises:
        InvalidRequestError: if the folder cannot be written, or the disk is full.
    """
    check_writable(path)
    folder = path.parent
    sweep(folder)

    def new_file() -> tuple[Path, int]:
        handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{path.stem}-", suffix=path.suffix, dir=folder)
        return Path(name), handle

    temporary, handle = _new_and_held(new_file)
    try:
        yield temporary
        if rename:
            _readable(temporary)
            to_disk(temporary)
            temporary.replace(path)
            to_disk(folder)
    except OSError as error:
        raise InvalidRequestError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file, or nothing.

    Raises:
        InvalidRequestError: if the folder cannot be written, or the disk is full.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


@contextlib.contextmanager
def scratch_folder(beside: Path | None = None) -> Iterator[Path]:
    """A folder that goes when the block ends; one whose process was killed goes when the next is made.

    Args:
        beside: make it in the folder of this path, so that what is finished in it can be renamed into place.

    Raises:
        InvalidRequestError: if it cannot be made.
    """
    parent = Path(tempfile.gettempdir()) if beside is None else beside.parent
    sweep(parent)

    def new_folder() -> tuple[Path, int]:
        folder = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}tmp-", dir=parent))
        return folder, os.open(folder, os.O_RDONLY) if os.name == "posix" else -1

    try:
        folder, handle = _new_and_held(new_folder)
    except OSError as error:
        raise InvalidRequestError(
            f"no temporary folder can be created in {str(parent)!r}: {error.strerror or error}; free some space, or set "
            "TMPDIR to another folder."
        ) from error
    try:
        yield folder
    finally:
        if handle >= 0:
            os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


class KeptFolder:
    """A scratch folder that goes when nobody holds it any more, or with `close`; see `scratch_folder`."""

    def __init__(self, beside: Path | None = None) -> None:
        stack = contextlib.ExitStack()
        self.path = stack.enter_context(scratch_folder(beside))
        self._end = weakref.finalize(self, stack.close)

    def close(self) -> None:
        """Remove the folder now."""
        self._end()


@dataclass(slots=True)
class Pair:
    """Two files that are written together, see `atomic_pair`.

    Attributes:
        main, data: the temporary paths to write to; the first may refer to the second by its name.
        refer: the bytes of the main file for a name of the data file; to be set before the block ends.
    """

    main: Path
    data: Path
    refer: Callable[[str], bytes] | None = None


@contextlib.contextmanager
def atomic_pair(main: Path, data: Path) -> Iterator[Pair]:
    """As `atomic_path`, for a file and the data file beside it that it refers to by name.

    At every moment the file at ``main`` is the old one beside its old data, or the new one beside its new data: where data
    of that name are there already, the new ones get a name of their own first, to which the new file refers until the
    usual name is theirs as well.

    Raises:
        InvalidRequestError: as `atomic_path`.
    """
    check_writable(data)
    with atomic_path(data, rename=False) as new_data, atomic_path(main, rename=False) as new_main:
        pair = Pair(new_main, new_data)
        yield pair
        if pair.refer is None:
            raise RuntimeError("nothing says how the file refers to its data")
        _readable(new_data)
        to_disk(new_data)
        with moving_into(main.parent):
            _put_pair(pair, main, data, pair.refer)


def _put_pair(pair: Pair, main: Path, data: Path, refer: Callable[[str], bytes]) -> None:
    if not data.exists():
        pair.data.replace(data)
        _put(pair.main, main, refer(data.name))
        return
    own = data.with_name(f"{data.name}-{os.urandom(4).hex()}")
    pair.data.replace(own)
    _put(pair.main, main, refer(own.name))
    try:
        shutil.copyfile(own, pair.data)  # no link: readers of external data refuse files with two names
    except OSError:  # no room for both: the name of its own stays
        data.unlink()
        return
    pair.data.replace(data)
    to_disk(data.parent)
    _put(pair.main, main, refer(data.name))
    for left in data.parent.glob(f"{data.name}-{'[0-9a-f]' * 8}"):  # those of processes that were killed too
        left.unlink(missing_ok=True)


def _put(temporary: Path, path: Path, content: bytes) -> None:
    temporary.write_bytes(content)
    _readable(temporary)
    to_disk(temporary)
    temporary.replace(path)
    to_disk(path.parent)


def _readable(temporary: Path) -> None:
    """Mkstemp makes files that only their owner reads."""
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)


@contextlib.contextmanager
def alone_in(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes out of a folder that is there; the system lets go of it when this process ends, however it ends.

    Args:
        folder: that a run keeps its parts in.
        doing: what the other one does, for the message: "training".

    Raises:
        InvalidRequestError: if another process is at work in it.
    """
    if os.name != "posix":  # two processes in one folder are the user's to avoid
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if _lock(handle) is False:
            raise InvalidRequestError(f"another process is {doing} in {folder}; wait for it, or name another folder.")
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def moving_into(folder: Path) -> Iterator[None]:
    """One process at a time moves files that belong together into a folder: else one's first lies beside another's second.

    Where no lock can be had, as on a full disk, it goes on without.

    Raises:
        InvalidRequestError: if another process has held the lock for minutes.
    """
    handle = _held(folder / f"{TEMPORARY}lock")
    try:
        yield
    finally:
        if handle is not None:
            (folder / f"{TEMPORARY}lock").unlink(missing_ok=True)
            os.close(handle)


def _held(path: Path) -> int | None:
    """A descriptor of the lock file at a path, locked; None where there can be none."""
    if os.name != "posix":
        return None
    end = time.monotonic() + _LONGEST_MOVE
    while time.monotonic() < end:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError:
            return None
        if _lock(handle) is not False:
            with contextlib.suppress(OSError):  # whoever had it removes the file when it lets go
                if os.path.samestat(os.fstat(handle), path.lstat()):
                    return handle
        os.close(handle)
        time.sleep(_PAUSE)
    raise InvalidRequestError(
        f"another process has been moving files into {path.parent} for {_LONGEST_MOVE:.0f} s; end it, or name another folder."
    )


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left in a folder: their locks went with them. Once for each folder."""
    folder = folder.absolute()
    if folder in _swept or os.name != "posix":
        return
    _swept.add(folder)
    for left in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if left.is_symlink() or left.lstat().st_uid != os.getuid():
                continue
            handle = os.open(left, os.O_RDONLY)
            try:
                if not _lock(handle):
                    continue
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()
            finally:
                os.close(handle)


def _new_and_held(make: Callable[[], tuple[Path, int]]) -> tuple[Path, int]:
    """Something temporary, open and locked; made again where another process swept it away before it was locked."""
    for _ in range(_MOST_SWEPT):
        try:
            path, handle = make()
        except FileNotFoundError:
            continue
        if handle < 0:
            return path, handle
        with contextlib.suppress(FileNotFoundError):
            if _lock(handle) is not False and os.path.samestat(path.stat(), os.fstat(handle)):
                return path, handle
        os.close(handle)
    return make()


def _lock(handle: int) -> bool | None:
    """Whether this process now holds the lock of an open file; None where there are no locks.

    The system lets go of it when the process ends.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, where the system can say so."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
