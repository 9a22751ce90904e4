"""What every command shares: its arguments, its exit codes, and files that are written whole or not at all.

    python src/train.py [--config config.yaml] [key=value …]

Exit 0: done. 2: the user's input is wrong. 1: the operation failed. 130 / 143: stopped by Ctrl-C / SIGTERM.
In each failing case one line `error: …` goes to stderr and names the thing and the remedy.
"""
import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


class UserError(Exception):
    """The input is wrong; the message is one line with the file, key or row and the remedy. Exit code 2."""


class OperationError(Exception):
    """The input is right but the operation failed (network, disk, numerics). Exit code 1."""


class Stopped(Exception):
    """Stopped by a signal after saving what there was to save; carries the exit code (128 + signal)."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def parse(doc: str, actions: Sequence[str] = (), arguments: Sequence[str] | None = None,
          options: Mapping[str, tuple[object, str]] | None = None) -> argparse.Namespace:
    """`--config`, one of `actions` (when there are any), `options` (name: default, help) and overrides.

    `doc` is the script's docstring. An option whose default is False is a switch.
    """
    parser = _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="config.yaml", help="YAML file with any of config.yaml's keys")
    if actions:
        parser.add_argument("action", choices=actions)
    for name, (default, meaning) in (options or {}).items():
        kind = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        parser.add_argument(f"--{name}", help=meaning, **kind)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. train.epochs=3")
    return parser.parse_intermixed_args(arguments)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")


def run(main: Callable[[], None]) -> None:
    """Calls `main` and ends the process with the exit code and the one line that its outcome asks for."""
    try:
        main()
    except UserError as error:
        _end(2, error)
    except OperationError as error:
        _end(1, error)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except OSError as error:
        _end(1, f"{error.strerror or error}: {error.filename}" if error.filename else error)
    except KeyboardInterrupt:
        sys.exit(130)


def _end(code: int, error: object) -> None:
    # A DataLoader worker's exception arrives with its traceback as text: the last line is the message.
    line = str(error).rstrip().rsplit("\n", 1)[-1]
    print(f"error: {line.removeprefix('cli.UserError: ').removeprefix('cli.OperationError: ')}", file=sys.stderr)
    sys.exit(code)


def brief(error: object) -> str:
    """An error's text on one short line; of nested network errors the innermost, `[Errno 111] Connection refused`."""
    text = " ".join(str(error).split())
    network = re.findall(r"\[Errno -?\d+\] [\w ]+", text)
    return network[-1] if network else text[:200]


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renamed to `path` when the block ends well, else removed.

    So `path` is at every moment either the old file, whole, or the new one, whole: also after a power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
