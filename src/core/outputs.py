"""Checks of a command's outputs before it computes anything: can they be written, and would that destroy anything?

    check_folder(cfg.train.out_dir, "choose another train.out_dir")
    may_write(cfg.infer.submission)
"""
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from core.errors import UserError
from core.ownership import is_ours


def check_folder(folder: Path, remedy: str) -> None:
    """UserError unless files can be written into `folder`, which need not exist yet."""
    try:
        place = nearest(folder)
        if not place.is_dir():
            what = f"a link to {os.readlink(place)}, which does not exist" if place.is_symlink() else "not a folder"
            raise UserError(f"{folder}: {'' if place == folder else f'{place} '}is {what}; {remedy}")
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); {remedy}") from None


def check_file(path: Path, key: str) -> None:
    """UserError unless a file can be written at `path`, the value of the setting `key`."""
    if path.is_dir():
        raise UserError(f"{key}={path}: is a folder; add the file's name, for example {path / 'submission.csv'}")
    check_folder(path.parent, f"choose another {key}")


def nearest(path: Path) -> Path:
    """The path itself if it exists, else the nearest folder above it that does. OSError if the system refuses."""
    for place in (path, *path.absolute().parents):
        try:
            place.lstat()
            return place
        except (FileNotFoundError, NotADirectoryError):
            continue
    raise FileNotFoundError(2, "no such folder", str(path))


def may_write(path: str | Path, known: bool = False) -> Path:
    """The file at `path`, links followed. UserError if it exists and was not written by this program.

    known: the caller has read the file and keeps what belongs to the user.
    """
    target = Path(os.path.realpath(path))
    if not target.exists():
        return target
    if not target.is_file():
        raise UserError(f"{path}: is {'a folder' if target.is_dir() else 'a device'}; name a file to write")
    try:
        ours = known or is_ours(target)
    except FileNotFoundError:  # another process has just removed it
        return target
    if not ours:
        raise UserError(f"{path}: already exists and was not written by this program; move it or choose another place")
    return target


def no_input(key: str, path: Path, inputs: Iterable[Path | None]) -> None:
    """UserError if writing to `path`, the value of the setting `key`, would overwrite one of the inputs."""
    for given in filter(None, inputs):
        if same_place(path, given):
            raise UserError(f"{key}: {path} is an input of this command and would be overwritten; choose another {key}")


def same_place(a: Path, b: Path) -> bool:
    """Whether two paths name the same file or folder, also through links, `..` or, if the system ignores it, case."""
    try:
        return os.path.samefile(a, b)
    except OSError:  # one does not exist yet
        return os.path.realpath(a) == os.path.realpath(b)
