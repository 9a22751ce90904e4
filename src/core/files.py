"""Files and folders written whole or not at all, even on a full disk; locks that keep a folder to one process.

The project overwrites, moves and removes files only through these functions, and only files that it wrote itself:
outputs.may_write() checks a file, may_empty() a folder.
"""
import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from core.errors import OperationError, UserError
from core.outputs import may_write

try:
    import fcntl
except ImportError:
    print("error: this runs on Linux and macOS; on Windows use WSL or the container (make docker-train)",
          file=sys.stderr)
    sys.exit(2)

CLAIMS = {}  # folder -> its lock file, open as long as this process has locked the folder
JUNK = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini")  # what file managers leave
HOST = re.sub(r"\W", "", platform.node()) or "host"  # machines may share a folder


@contextlib.contextmanager
def written_whole(path: str | Path, known: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renamed to `path` if the block succeeds, else removed.

    So `path` is always the whole old file or the whole new one, even after a power cut. Links are followed. UserError
    if a file of the user's would be lost, see may_write(); OperationError if the disk is full.
    """
    path, target = Path(path), may_write(path, known)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    part = target.with_name(f".{target.stem}.{HOST}.{os.getpid()}.part{target.suffix}")
    try:
        with room_for(path, part):
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            may_write(path, known)  # it may have appeared in the meantime
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def move(path: Path, target: Path) -> None:
    """Renames a file, replacing `target`. UserError if that belongs to the user."""
    Path(os.path.realpath(path)).replace(may_write(target))


def remove(path: Path) -> None:
    """Removes a file of this program if it exists. UserError if it belongs to the user."""
    may_write(path)
    path.unlink(missing_ok=True)  # another process may have removed it


@contextlib.contextmanager
def written_folder(folder: Path, earlier: Callable[[str], bool] = lambda name: False) -> Iterator[Path]:
    """Yields an empty folder beside `folder`, which replaces it if the block succeeds, else is removed.

    UserError if `folder` holds anything that this program did not write, see may_empty().
    """
    folder = Path(os.path.realpath(folder))
    may_empty(folder, earlier)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    part, old = (folder.with_name(f".{folder.name}.{name}.{HOST}.{os.getpid()}.part") for name in ("new", "old"))
    part.mkdir()
    try:
        yield part
        may_empty(folder, earlier)
        known, new = list(checksums(folder)), list(checksums(part))
        write_list(folder, [*known, *new])  # both, in case the process is killed in between
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        write_list(folder, new)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def discard(download: Path) -> None:
    """Removes a file that this command has downloaded itself and no longer needs."""
    download.unlink(missing_ok=True)


def remove_folder(folder: Path, earlier: Callable[[str], bool] = lambda name: False) -> None:
    """Removes a folder of this program if it exists. UserError if it holds a file of the user's."""
    folder = Path(os.path.realpath(folder))
    may_empty(folder, earlier)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old.{HOST}.{os.getpid()}.part")
        folder.rename(old)
        list_path(folder).unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)


def may_empty(folder: Path, earlier: Callable[[str], bool] = lambda name: False) -> None:
    """UserError if a folder holds a file whose name and content are not in the list that written_folder() keeps.

    earlier(name): whether an earlier version, which kept no list, wrote a file of this name.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; move it or choose another place")
    listed, keeps_list = read_list(folder), list_path(folder).exists()
    for name, checksum in checksums(folder):
        known = (name, checksum) in listed if keeps_list else earlier(name)
        if not known and not JUNK.fullmatch(Path(name).name):
            raise UserError(f"{folder}/{name}: was not written by this program and would be removed; move it or "
                            "choose another folder")


def list_path(folder: Path) -> Path:
    """Lists the files that written_folder() wrote. It is beside the folder, as whole folders are uploaded to Kaggle."""
    return folder.with_name(f".{folder.name}.written")


def read_list(folder: Path) -> set[tuple[str, int]]:
    """(path relative to the folder, checksum) of each file."""
    try:
        return {(name, checksum) for name, checksum in json.loads(list_path(folder).read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError):
        return set()


def write_list(folder: Path, files: Iterable[tuple[str, int]]) -> None:
    path = list_path(folder)
    part = path.with_name(f"{path.name}.{HOST}.{os.getpid()}.part")
    part.write_text(json.dumps(list(files)), encoding="utf-8")
    part.replace(path)


def checksums(folder: Path) -> Iterator[tuple[str, int]]:
    """(path relative to the folder, checksum) of all files below it; links are not followed."""
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for path in (Path(place, name) for name in (*files, *links)):
            state = path.lstat()
            yield str(path.relative_to(folder)), checksum_of(path, state.st_size, state.st_mtime_ns)


@functools.cache  # needed both before and after a folder is filled
def checksum_of(path: Path, size: int, changed: int) -> int:
    if not path.is_file() or path.is_symlink():
        return -1
    with path.open("rb") as file:
        return functools.reduce(lambda sum, piece: zlib.crc32(piece, sum), iter(lambda: file.read(2**20), b""), 0)


@functools.cache  # a scan of a large folder takes longer than a small file's writing
def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes of this machine left half written in a folder; once per process."""
    for part in folder.glob(".*.part*"):
        writer = re.fullmatch(rf"\..*\.{HOST}\.(\d{{1,9}})\.part(\.[^.]*)?", part.name, re.DOTALL)
        if writer and not alive(int(writer[1])):
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


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
    """OperationError with the path and the free space if the block fills the disk. part: the file being written."""
    try:
        yield
    except OSError as error:
        short = "requested and" in str(error)  # how numpy reports a write that was cut short
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and not short:
            raise
        written = part.stat().st_size if part and part.exists() else 0
        if part:
            part.unlink(missing_ok=True)  # else no space would be reported as free
        raise OperationError(disk_full(path, error.strerror or os.strerror(errno.ENOSPC), written)) from None


def disk_full(path: Path, reason: str, needed: int) -> str:
    """The message about a full disk. needed: bytes, at least; 0: unknown."""
    folder = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    needs = f"needs more than {needed / 1e6:.1f} MB, " if needed else ""
    return (f"{path}: cannot be written ({reason}): {needs}only {shutil.disk_usage(folder).free / 1e6:.1f} MB are "
            "free; make room and run the same command again")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> tuple[str, int, int]:
    """Changes whenever a file does, without reading it: resolved path, size in bytes, modification time in ns."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def open_lock(folder: Path) -> TextIO:
    """The folder's file `lock`, which holds a process id. UserError if it belongs to the user."""
    file = (folder / "lock").open("a+", errors="replace")
    file.seek(0)
    if not re.fullmatch(r"(\d{1,9}\n)?", file.read(16)):
        raise UserError(f"{folder}/lock: was not written by this program; move it or choose another folder")
    return file


def alone_in(folder: Path) -> None:
    """Locks a folder for this process until it ends, however it ends. UserError if another process is using it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = str(folder.resolve())
    if name in CLAIMS:
        CLAIMS.pop(name).close()  # first: closing a file releases all the locks that the process holds on it
    file = open_lock(folder)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock(), not inherited by forked workers
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            print(f"note    {folder}: its file system has no locks ({error.strerror}); make sure no second run writes "
                  "here")
            return
        file.seek(0)
        raise UserError(f"{folder}: in use by process {file.read().strip() or '(unknown)'}; wait for it to finish or "
                        "choose another folder") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    CLAIMS[name] = file
