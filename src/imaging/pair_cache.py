"""Decoded training pairs kept on disk: each image file is decoded once, not once per epoch.

The files are plain arrays, so that the operating system's page cache keeps as many in memory as fit, shared by all
worker processes and runs.
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

from core.files import remove, stamp, written_whole
from core.ownership import CACHED
from imaging.cache import Cache

HEADER = 256  # bytes, an upper bound for the header of a .npy array
PATIENCE = 10  # seconds to wait for another process to finish writing; a suspended one never does


class DecodedFiles:
    """Arrays decoded from image files, stored losslessly in a `folder` that never exceeds `limit` bytes.

    An entry's key is the paths, times and sizes of its source files and `recipe` (any other parameters). When the
    folder is full, entries of files not in `sources` are evicted; arrays that still do not fit are recomputed each
    time, and so are all if the folder cannot be written to.
    """

    def __init__(self, folder: Path, limit: float, sources: Iterable[Sequence[Path]], recipe: object):
        self.folder, self.limit, self.recipe = folder, limit, recipe
        self._cache = Cache(folder)
        self._own = {self._entry(files).name for files in sources}

    def get(self, files: Sequence[Path], make: Callable[[], Sequence[np.ndarray]]) -> Sequence[np.ndarray]:
        """The cached result of make(), which returns one array per file."""
        entry = self._entry(files)
        try:
            with entry.open("rb") as stored:
                return [np.load(stored) for _ in files]
        except (OSError, ValueError, EOFError):  # not cached yet, evicted by another run, or damaged
            arrays = make()
            self._cache.keep(lambda: self._keep(entry, arrays))
            return arrays

    def _entry(self, files: Sequence[Path]) -> Path:
        stats = [(path, changed, size) for path, size, changed in map(stamp, files)]
        return self.folder / f"{hashlib.sha256(repr((stats, self.recipe)).encode()).hexdigest()[:24]}.npy"

    def _keep(self, entry: Path, arrays: Sequence[np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:  # one process at a time; closing releases it
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
    """Waits for the lock. OSError if it is not released in time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process does not release its lock") from None
            time.sleep(0.01)
