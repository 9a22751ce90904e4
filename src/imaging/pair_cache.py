"""Decoded training pairs kept on disk: each image file is decoded once, not once per epoch.

The files are plain arrays, so that the operating system's page cache holds them in memory as far as there is room,
once for all worker processes and runs.
"""
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from core.files import remove, written_whole
from core.ownership import CACHED
from imaging.cache import Cache

HEADER = 256  # bytes, more than that of a stored array
PATIENCE = 10  # seconds for another process to finish its writing: a suspended one never does


class DecodedFiles:
    """Arrays made from image files, bit for bit as they were made, in a `folder` that never exceeds `limit` bytes.

    An entry is known by its source files' paths, times and sizes and by `recipe`, whatever else it depends on. When
    the folder is full, entries that are not made from `sources` make room; what finds none is made anew each time, as
    is everything where the folder cannot be written to.
    """

    def __init__(self, folder: Path, limit: float, sources: Iterable[Sequence[Path]], recipe: object):
        self.folder, self.limit, self.recipe = folder, limit, recipe
        self._cache = Cache(folder)
        self._own = {self._entry(files).name for files in sources}

    def get(self, files: Sequence[Path], make: Callable[[], Sequence[np.ndarray]]) -> Sequence[np.ndarray]:
        """What make() returns, or returned when it was asked first: as many arrays as there are files."""
        entry = self._entry(files)
        try:
            with entry.open("rb") as stored:
                return [np.load(stored) for _ in files]
        except (OSError, ValueError, EOFError):  # not there yet, gone for another run's sake, or damaged
            arrays = make()
            self._cache.keep(lambda: self._keep(entry, arrays))
            return arrays

    def _entry(self, files: Sequence[Path]) -> Path:
        stats = [(str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
        return self.folder / f"{hashlib.sha256(repr((stats, self.recipe)).encode()).hexdigest()[:24]}.npy"

    def _keep(self, entry: Path, arrays: Sequence[np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:  # one process at a time, until it closes
            claim(lock)
            if self._makes_room(sum(array.nbytes + HEADER for array in arrays)):
                with written_whole(entry) as part, part.open("wb") as file:
                    for array in arrays:
                        np.save(file, array)

    def _makes_room(self, needed: int) -> bool:
        with os.scandir(self.folder) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries}
        others = {name for name in sizes if CACHED.fullmatch(name)} - self._own
        used = sum(sizes.values())
        if used - sum(sizes[name] for name in others) + needed > self.limit:
            return False
        while used + needed > self.limit and others:
            name = others.pop()
            remove(self.folder / name)
            used -= sizes[name]
        return used + needed <= self.limit


def claim(lock: IO) -> None:
    """The lock, as soon as it is free. OSError where it stays taken."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process does not release its lock") from None
            time.sleep(0.01)
