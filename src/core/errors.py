"""How a command can fail: each kind of error has its exit code, and a message of one line.

    raise UserError(f"{path}: no such folder of images")
"""
import re

from core.redact import without_secrets


class UserError(Exception):
    """The input is wrong; the message is one line with the file, key or row and the remedy. Exit code 2."""
    exit_code = 2


class OperationError(Exception):
    """The input is right but the operation failed (network, disk, numerics). Exit code 1."""
    exit_code = 1


class Stopped(Exception):
    """Stopped by a signal after saving what there was to save; carries the exit code (128 + signal)."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def brief(error: object) -> str:
    """An error's text on one short line; of nested network errors the innermost, `[Errno 111] Connection refused`."""
    text = " ".join(without_secrets(str(error)).split())  # before it is cut: half a secret would not be recognised
    network = re.findall(r"\[Errno -?\d+\] [\w ]+", text)
    return network[-1] if network else text[:200]
