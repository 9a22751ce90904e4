"""Caches on disk: if one cannot be written to, a note says so once and work continues without it."""
import ctypes
import multiprocessing
from collections.abc import Callable
from pathlib import Path

from core.errors import OperationError, UserError, brief


class Cache:
    """A folder of files that can be recomputed. Data workers share the flag, so that only one prints the note."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._failed = multiprocessing.RawValue(ctypes.c_bool)

    def keep(self, write: Callable[[], None]) -> None:
        """Calls write(), which stores a file in the folder; after its first failure never again."""
        if self._failed.value:
            return
        try:
            write()
        except (OSError, OperationError, UserError) as error:
            self._failed.value = True
            print(f"note    {self.folder}: no longer used as a cache ({write_failure(error)}); work continues, but "
                  "slower", flush=True)


def write_failure(error: OSError | OperationError | UserError) -> str:
    """Why files.written_whole() failed, in a few words."""
    if isinstance(error, OperationError):
        return "the disk is full"
    return getattr(error, "strerror", None) or brief(error)
