"""Asked before a command computes anything: can its results be written where they are to go?

    check_folder(cfg.train.out_dir, "choose another train.out_dir")
"""
import os
import tempfile
from pathlib import Path

from core.errors import UserError


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
    """What exists of a path: itself, or the nearest folder above it. OSError where that cannot be told."""
    for place in (path, *path.absolute().parents):
        try:
            place.lstat()
            return place
        except (FileNotFoundError, NotADirectoryError):
            continue
    raise FileNotFoundError(2, "no such folder", str(path))
