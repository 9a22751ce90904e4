"""Training in the kernel: train.py in processes of its own, one per GPU by torchrun, within a limit of time.

    run_training(2, Path("config.yaml"), ["train.epochs=3"], Path("outputs/run"), seconds=3600)
"""
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

import launch  # by torchrun
import train  # not called here: it is the program that the processes run
from core.device import usable_cores
from core.errors import OperationError, Stopped, UserError
from core.files import CLAIMS, alone_in
from training.workers import end_with

POLL = 0.5   # seconds between two looks at the log
GRACE = 60   # seconds from SIGTERM to SIGKILL; torchrun itself gives its processes 30


def process_count(wanted: int | str, device: str) -> int:
    """kernel.processes: auto is one per GPU, and one on a CPU."""
    if device == "cpu":
        return 1 if wanted == "auto" else wanted
    gpus = torch.cuda.device_count()
    if wanted != "auto" and wanted > gpus:
        raise UserError(f"kernel.processes={wanted}: there are {gpus} GPUs; set it to auto")
    if gpus == 1:
        print(f"{'!' * 20} ONE GPU: training in one process; machine_shape NvidiaTeslaT4 gives two", flush=True)
    return gpus if wanted == "auto" else wanted


def command(processes: int, config: Path, overrides: Sequence[str]) -> list[str]:
    """What trains in that many processes."""
    several = [launch.__file__, "train", "--gpus", str(processes)]
    return [sys.executable, *(several if processes > 1 else [train.__file__]), "--config", str(config), *overrides]


def run_training(processes: int, config: Path, overrides: Sequence[str], out_dir: Path, seconds: float) -> None:
    """Shows the training's output as it comes and appends it to train.log in out_dir.

    What still runs after `seconds` is stopped: train.py saves on SIGTERM. OperationError where training failed,
    UserError where its input was wrong.
    """
    log = out_dir / "train.log"
    out_dir.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, usable_cores() // processes))
    # torchrun's processes would each complain that this machine has no name in the network.
    environment = {"OMP_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, "PYTHONUNBUFFERED": "1"}
    print(f"train   in {processes} process{'es, by torchrun' if processes > 1 else ''}", flush=True)
    with log.open("ab") as file, log.open(encoding="utf-8", errors="replace") as reader:
        start = reader.seek(0, os.SEEK_END)
        # In a session of its own: Ctrl-C reaches this process alone, which passes it on once, as SIGTERM.
        process = subprocess.Popen(command(processes, config, overrides), stdout=file, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
                                   preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM))
        with _PassedOn(process) as signals:
            overran = _watch(process, reader, time.monotonic() + seconds)
    if signals.number:
        raise Stopped(f"training was stopped by {signals.number.name}", signals.number)
    if overran:
        print(f"training was still busy after {seconds / 3600:.1f} h and was stopped; what it saved is used")
    elif process.returncode:
        raise failure(process.returncode, log, start)


def _watch(process: subprocess.Popen, reader, deadline: float) -> bool:
    """Shows what is written until the process ends -> whether it had to be stopped at the deadline."""
    stopped = False
    try:
        while True:
            ended = process.poll() is not None  # before reading: nothing is written after it
            print(reader.read(), end="", flush=True)
            if ended:
                return stopped
            if time.monotonic() > deadline + GRACE:
                process.kill()
            elif time.monotonic() > deadline and not stopped:
                process.terminate()
                stopped = True
            time.sleep(POLL)
    finally:
        if process.poll() is None:  # an error here must not leave it running
            process.terminate()


class _PassedOn:
    """While training runs, SIGINT and SIGTERM to this process stop the training, cleanly and once."""

    def __init__(self, process: subprocess.Popen):
        self.number: signal.Signals | None = None
        self._process = process

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self.number is None:
            self.number = signal.Signals(number)
            self._process.terminate()


def failure(code: int, log: Path, start: int) -> UserError | OperationError:
    """What to raise for a training's exit code; `start`: where its output begins in the log."""
    if code < 0:
        return OperationError(f"training was ended by {signal.Signals(-code).name} (SIGKILL: often no memory was left)")
    kind = UserError if code == UserError.exit_code else OperationError
    return kind(f"training failed with exit code {code}: {reason(log, start)}")


def reason(log: Path, start: int) -> str:
    """The line of a failed training's log that says why; `start`: where its output begins, in bytes."""
    text = log.read_bytes()[start:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    for pattern in (r"error: (.*)", r"([\w.]*(?:Error|Exception): .*)"):
        for line in reversed(lines):
            if match := re.match(pattern, line):
                return match[1]
    return lines[-1] if lines else "without a word"


def train_to_the_end(attempt: Callable[[list[str]], None], out_dir: Path, end: float) -> None:
    """attempt([]), and where that fails once more, from last.pth, as long as time.monotonic() is before `end`.

    attempt: runs the training with further overrides. What still failed is an error only if there is no best.pth.
    """
    for overrides in ([], ["train.resume=auto"]):
        try:
            return attempt(overrides)
        except (OperationError, UserError) as error:
            failed = error
        print(f"{'!' * 20} {failed}", flush=True)
        if overrides or isinstance(failed, UserError) or not free_before(end, out_dir):
            break
        print(f"{'!' * 20} starting it once more, from what it saved", flush=True)
    if not (out_dir / "best.pth").exists():
        raise failed
    print(f"{'!' * 20} training is not finished: its best epoch so far is used, {out_dir}/best.pth", flush=True)


def free_before(end: float, out_dir: Path) -> bool:
    """Waits until no process works in the folder: those whose launcher was killed end some seconds after it."""
    while time.monotonic() < end:
        try:
            alone_in(out_dir)
        except UserError:
            time.sleep(POLL)
            continue
        if claim := CLAIMS.pop(str(out_dir.resolve()), None):
            claim.close()
        return True
    return False


def best_checkpoint(out_dir: Path) -> Path:
    """best.pth, or last.pth where training was stopped before its first validation."""
    for name in ("best.pth", "last.pth"):
        if (out_dir / name).exists():
            return out_dir / name
    raise OperationError(f"training left no checkpoint in {out_dir}; raise kernel.max_hours")
