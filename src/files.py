"""Files that are written whole or not at all, also on a full disk, and folders that one process at a time works in."""
import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from cli import OperationError, UserError

HOST = re.sub(r"\W", "", platform.node()) or "host"  # machines that share a folder leave each other's files alone


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renamed to `path` when the block ends well, else removed.

    So `path` is at every moment either the old file, whole, or the new one, whole: also after a power cut.
    OperationError where the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    part = path.with_name(f".{path.stem}.{HOST}.{os.getpid()}.part{path.suffix}")
    try:
        with room_for(path, part):
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@functools.cache  # a scan of a large folder takes longer than a small file's writing
def remove_leftovers(folder: Path) -> None:
    """What killed processes of this machine have left half written in a folder; looked for once per process."""
    for part in folder.glob(".*.part*"):
        writer = re.fullmatch(rf"\..*\.{HOST}\.(\d{{1,9}})\.part(\.[^.]*)?", part.name, re.DOTALL)
        if writer and not alive(int(writer[1])):
            part.unlink(missing_ok=True)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


@contextlib.contextmanager
def room_for(path: Path, part: Path | None = None) -> Iterator[None]:
    """OperationError, one line with the path and the room there, where the block fills the disk. part: its file."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        written = part.stat().st_size if part and part.exists() else 0
        if part:
            part.unlink(missing_ok=True)  # or what is free would be none
        raise OperationError(disk_full(path, error.strerror, written)) from None


def disk_full(path: Path, reason: str, needed: int) -> str:
    """needed: bytes, at least; 0: not known."""
    folder = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    needs = f"needs more than {needed / 1e6:.1f} MB, " if needed else ""
    return (f"{path}: cannot be written ({reason}): {needs}{shutil.disk_usage(folder).free / 1e6:.1f} MB are free "
            "there; make room and run the same command again")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> tuple[str, int, int]:
    """What tells a file from what it was earlier, without reading it: place, size in bytes, time of change in ns."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def alone_in(folder: Path) -> None:
    """Claims a folder for this process until it ends, however it ends. UserError when another one is at work in it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = str(folder.resolve())
    if name in CLAIMS:
        CLAIMS.pop(name).close()  # first: closing a file gives back every claim that the process has on it
    file = (folder / "lock").open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not shared with the workers that are forked
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            print(f"note    {folder}: on a file system without locks ({error.strerror}); let no second run write to it")
            return
        file.seek(0)
        raise UserError(f"{folder}: process {file.read().strip() or '(unknown)'} is at work in it; wait for its end, "
                        "or choose another folder") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    CLAIMS[name] = file


CLAIMS = {}  # folder -> its lock, open as long as the claim lasts
