"""How a command can fail: each kind of error has an exit code and a one-line message.

    raise UserError(f"{path}: no such folder of images")
"""
import errno
import re

from core.redact import without_secrets


class UserError(Exception):
    """The input is wrong; the message names the file, key or row and the remedy. Exit code 2."""
    exit_code = 2


class OperationError(Exception):
    """The input is right but the operation failed (network, disk, numerics). Exit code 1."""
    exit_code = 1


class Stopped(Exception):
    """Stopped by a signal, after saving; the exit code is 128 + signal."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def brief(error: object) -> str:
    """An error's text on one short line; for nested network errors the innermost: `[Errno 111] Connection refused`."""
    text = " ".join(without_secrets(str(error)).split())  # before cutting: half a secret would not be recognised
    network = re.findall(r"\[Errno -?\d+\] [\w ]+", text)
    return network[-1] if network else text[:200]


def out_of_resources(error: Exception) -> bool:
    """Whether the machine lacks memory or file descriptors, which says nothing about the file being read."""
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM))
