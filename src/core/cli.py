"""What all commands share: arguments, exit codes, one-line errors.

    python src/train.py [--config config.yaml] [key=value …]

Exit 0: done. 1: the operation failed. 2: the user's input is wrong. 130 / 143: stopped by Ctrl-C / SIGTERM.
A failure prints one line `error: …` to stderr, with what is wrong and what to do.
"""
import argparse
import contextlib
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from core import DEFAULTS
from core.errors import OperationError, Stopped, UserError, brief
from core.redact import Screened, learn_secrets, without_secrets


def parse(doc: str, actions: Sequence[str] = (), arguments: Sequence[str] | None = None,
          options: Mapping[str, tuple[object, str]] | None = None) -> argparse.Namespace:
    """Parses `--config`, one of `actions` (if any), `options` (name: (default, help)) and overrides.

    doc: the script's docstring. An option whose default is False is a switch.
    """
    parser = _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file with any of config.yaml's keys; default: the current folder's, "
                        "else the repository's")
    if actions:
        parser.add_argument("action", choices=actions)
    for name, (default, meaning) in (options or {}).items():
        kind = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        parser.add_argument(f"--{name}", help=meaning, **kind)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. train.epochs=3")
    args = parser.parse_intermixed_args(arguments)
    args.config = default_config() if args.config is None else os.path.expanduser(args.config)
    return args


def default_config() -> str:
    """config.yaml of the current folder, else the repository's, which is then announced."""
    if Path("config.yaml").exists() or not DEFAULTS.exists():
        return "config.yaml"
    print(f"config  {DEFAULTS} (no config.yaml in the current folder)", flush=True)
    return str(DEFAULTS)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")


def run(main: Callable[[], None]) -> None:
    """Calls `main` and ends the process; a known kind of failure becomes an exit code and one line."""
    open_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # file names may not be valid text
    screen()
    warnings.filterwarnings("ignore", module="PIL")  # about files that it can read anyway
    try:
        main()
    except (UserError, OperationError) as error:
        _end(error.exit_code, error)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except BrokenPipeError as error:
        if flushed(sys.stdout, "\n"):
            _end(1, error)  # it was a pipe other than stdout
        sys.exit(128 + signal.SIGPIPE)  # as other tools do before `| head`
    except OSError as error:
        _end(1, f"{error.strerror or error}: {error.filename}" if error.filename else error)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        fault = machine_fault(error)
        if fault is None:
            raise
        _end(1, fault)
    finally:
        flushed(sys.stdout)
        flushed(sys.stderr)


def open_streams() -> None:
    """Opens /dev/null for streams that the caller closed (`>&-`): otherwise print() fails, and the next file opened
    gets the stream's number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115


def flushed(stream, text: str = "") -> bool:
    """Writes and flushes. False if nobody reads the stream any more; later output is then discarded silently."""
    try:
        stream.write(text)
        stream.flush()
        return True
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False


def screen() -> None:
    """Removes credentials from everything this process prints from now on, tracebacks included."""
    learn_secrets(sys.argv)
    sys.stdout, sys.stderr = (stream if isinstance(stream, Screened) else Screened(stream)
                              for stream in (sys.stdout, sys.stderr))
    sys.excepthook = lambda *error: print(without_secrets("".join(traceback.format_exception(*error))),
                                          end="", file=sys.stderr)


# How libraries report what the machine lacks -> what to do about it.
REMEDIES = {
    r"shared memory|Bus error|DataLoader worker .*exited": "a data worker died, perhaps because shared memory is full; "
    "set train.workers=0 or give the container more (docker run --shm-size=2g)",
    r"MemoryError|can't alloc|cannot allocate|Insufficient memory|bad_alloc|killed by signal":
    "the memory is full; for training lower train.batch_size, augment.crop or train.workers, for inference "
    "infer.batch_size or infer.size",
    r"no kernel image|CUDA error: (?!device-side)|CUDA (unknown|driver|initiali)|NVIDIA driver|cuDNN error|CUBLAS_":
    "the GPU failed; check that nvidia-smi shows it and a driver new enough for this torch, then run the same command "
    "again, or use the CPU with CUDA_VISIBLE_DEVICES= (empty)",
    r"InductorError|BackendCompilerFailed|TritonMissing|InvalidCxxCompiler|CppCompileError":
    "torch.compile failed; set train.compile=false",
}


def machine_fault(error: MemoryError | RuntimeError) -> str | None:
    """What the machine lacks, with a remedy; None if the error is about something else."""
    remedy = next((remedy for pattern, remedy in REMEDIES.items() if re.search(pattern, repr(error), re.I)), None)
    lines = str(error).strip().split("\n")
    reason = lines[-1 if "Traceback" in str(error) else 0]  # a data worker's message comes after its traceback
    return f"{remedy} ({brief(reason)})" if remedy and reason else remedy


def _end(code: int, error: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"error: {printable(message(error))}", file=sys.stderr)
    sys.exit(code)


def message(error: object) -> str:
    """An error's text, without the traceback that torch prepends to errors of DataLoader workers."""
    text, kind = str(error).strip(), type(error)
    if not text.startswith("Caught "):
        return text
    # the traceback ends with the error's class and its text, which may have several lines
    *_, said = re.split(rf"\n(?:{re.escape(kind.__module__)}\.)?{re.escape(kind.__qualname__)}: ", text)
    return said.strip()


def printable(text: str) -> str:
    """On one line, with control characters escaped: a file name may hold any character."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


