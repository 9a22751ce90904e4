"""Files and folders that are written whole or not at all, also on a full disk; folders that one process works in.

Everything that the project overwrites, moves or removes passes through here, and only what it wrote itself may be:
may_write() decides about a file, may_empty() about a folder.
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

from core.errors import OperationError, UserError
from core.ownership import is_ours

try:
    import fcntl
except ImportError:
    print("error: this runs on Linux and macOS; on Windows use WSL, or the container (make docker-train)",
          file=sys.stderr)
    sys.exit(2)

JUNK = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini")  # what file managers leave
HOST = re.sub(r"\W", "", platform.node()) or "host"  # machines that share a folder leave each other's files alone


def may_write(path: str | Path, known: bool = False) -> Path:
    """The file that `path` names, or that a link there leads to; it may exist only where this program wrote it.

    known: the caller has read it and keeps what is the user's. UserError says whose it is, and what to do.
    """
    target = Path(os.path.realpath(path))
    if not target.exists():
        return target
    if not target.is_file():
        raise UserError(f"{path}: is {'a folder' if target.is_dir() else 'a device'}; name a file to write")
    if not known and not is_ours(target):
        raise UserError(f"{path}: already exists and was not written by this program; move it, or choose another place")
    return target


def no_input(key: str, path: Path, inputs: Iterable[Path | None]) -> None:
    """UserError where writing to `path`, which the setting `key` names, would replace one of the inputs."""
    for given in filter(None, inputs):
        if same_place(path, given):
            raise UserError(f"{key}: {path} is an input of this command and would be overwritten; choose another {key}")


def same_place(a: Path, b: Path) -> bool:
    """Whether two paths name one file or folder: through links, `..` or, where the system ignores it, case."""
    try:
        return os.path.samefile(a, b)
    except OSError:  # one is not there yet
        return os.path.realpath(a) == os.path.realpath(b)


@contextlib.contextmanager
def written_whole(path: str | Path, known: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renamed to `path` when the block ends well, else removed.

    So `path` is at every moment either the old file, whole, or the new one, whole: also after a power cut. A link
    there stays, and what it leads to is written. UserError where a file of the user's would be lost, see may_write();
    OperationError where the disk is full.
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
            may_write(path, known)  # it may have come in the meantime
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def move(path: Path, target: Path) -> None:
    """Renames a file; what `target` held is lost, if it was this program's. UserError else."""
    Path(os.path.realpath(path)).replace(may_write(target))


def remove(path: Path) -> None:
    """Removes a file of this program, if it is there. UserError where it is the user's."""
    if path.exists():
        may_write(path)
        path.unlink()


@contextlib.contextmanager
def written_folder(folder: Path, earlier: Callable[[str], bool] = lambda name: False) -> Iterator[Path]:
    """Yields an empty folder beside `folder`, which takes its place when the block ends well, else is removed.

    UserError where `folder` holds anything that this program did not write, see may_empty().
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
        write_list(folder, [*known, *new])  # killed in between, it holds for either
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        write_list(folder, new)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def discard(download: Path) -> None:
    """Removes a file that the same command has just fetched, and found to be worthless or has used."""
    download.unlink(missing_ok=True)


def remove_folder(folder: Path, earlier: Callable[[str], bool] = lambda name: False) -> None:
    """Removes a folder of this program, if it is there, at once. UserError where it holds anything else."""
    folder = Path(os.path.realpath(folder))
    may_empty(folder, earlier)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old.{HOST}.{os.getpid()}.part")
        folder.rename(old)
        list_path(folder).unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)


def may_empty(folder: Path, earlier: Callable[[str], bool] = lambda name: False) -> None:
    """UserError where a folder holds a file that is not, by name and content, in the list that written_folder() keeps.

    earlier: whether a version that left no list wrote a file of this name, relative to the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; move it, or choose another place")
    listed, keeps_list = read_list(folder), list_path(folder).exists()
    for name, checksum in checksums(folder):
        known = (name, checksum) in listed if keeps_list else earlier(name)
        if not known and not JUNK.fullmatch(Path(name).name):
            raise UserError(f"{folder}/{name}: was not written by this program, and the folder is to be filled anew; "
                            "move it, or choose another folder")


def list_path(folder: Path) -> Path:
    """The list of the files that written_folder() has put into a folder: beside it, since Kaggle gets all of some."""
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
    """(path relative to the folder, checksum) of all files below it; a link is itself, not what it leads to."""
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for path in (Path(place, name) for name in (*files, *links)):
            state = path.lstat()
            yield str(path.relative_to(folder)), checksum_of(path, state.st_size, state.st_mtime_ns)


@functools.cache  # asked before a folder is filled and again after
def checksum_of(path: Path, size: int, changed: int) -> int:
    if not path.is_file() or path.is_symlink():
        return -1
    with path.open("rb") as file:
        return functools.reduce(lambda sum, piece: zlib.crc32(piece, sum), iter(lambda: file.read(2**20), b""), 0)


@functools.cache  # a scan of a large folder takes longer than a small file's writing
def remove_leftovers(folder: Path) -> None:
    """What killed processes of this machine have left half written in a folder; looked for once per process."""
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
    file = (folder / "lock").open("a+", errors="replace")
    file.seek(0)
    if not re.fullmatch(r"(\d{1,9}\n)?", file.read(16)):
        raise UserError(f"{folder}/lock: was not written by this program; move it, or choose another folder")
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
