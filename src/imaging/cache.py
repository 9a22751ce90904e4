"""Folders that only save time: where nothing can be written to one, a note says so once, and work continues without."""
import ctypes
import multiprocessing
from collections.abc import Callable
from pathlib import Path

from core.errors import OperationError, UserError, brief


class Cache:
    """A folder for what can be made again. Data workers share the object, so that the note comes once from all."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._failed = multiprocessing.RawValue(ctypes.c_bool)

    def keep(self, write: Callable[[], None]) -> None:
        """Calls write(), which puts something into the folder. After its first failure it is not called again."""
        if self._failed.value:
            return
        try:
            write()
        except (OSError, OperationError, UserError) as error:
            self._failed.value = True
            print(f"note    {self.folder}: nothing more is kept there ({write_failure(error)}); this only takes more "
                  "time", flush=True)


def write_failure(error: OSError | OperationError | UserError) -> str:
    """Why files.written_whole() failed, in a few words."""
    if isinstance(error, OperationError):
        return "the disk is full"
    return getattr(error, "strerror", None) or brief(error)
