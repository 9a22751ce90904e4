"""Training in the kernel: runs train.py, one process per GPU by torchrun, within a time limit.

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

import launch  # these two are not called here: only their paths are used
import train
from core.device import usable_cores
from core.errors import OperationError, Stopped, UserError
from core.files import CLAIMS, alone_in
from training.workers import end_with

POLL = 0.5   # seconds between two reads of the log
GRACE = 60   # seconds from SIGTERM to SIGKILL; torchrun itself gives its processes 30


def process_count(wanted: int | str, device: str) -> int:
    """kernel.processes; auto: one per GPU, or one on a CPU."""
    if device == "cpu":
        return 1 if wanted == "auto" else wanted
    gpus = torch.cuda.device_count()
    if wanted != "auto" and wanted > gpus:
        raise UserError(f"kernel.processes={wanted}: only {gpus} GPUs are available; set it to auto")
    if gpus == 1:
        print(f"{'!' * 20} ONE GPU: training in one process; for two, set machine_shape to NvidiaTeslaT4 in "
              "kernel-metadata.json and push again", flush=True)
    return gpus if wanted == "auto" else wanted


def command(processes: int, config: Path, overrides: Sequence[str]) -> list[str]:
    """The command that trains in that many processes."""
    several = [launch.__file__, "train", "--gpus", str(processes)]
    return [sys.executable, *(several if processes > 1 else [train.__file__]), "--config", str(config), *overrides]


def run_training(processes: int, config: Path, overrides: Sequence[str], out_dir: Path, seconds: float) -> None:
    """Runs train.py, shows its output and appends it to train.log in out_dir.

    After `seconds` it gets SIGTERM, on which train.py saves. OperationError if training failed, UserError if its input
    was wrong.
    """
    log = out_dir / "train.log"
    out_dir.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, usable_cores() // processes))
    # Otherwise each of torchrun's processes warns that this machine has no host name.
    environment = {"OMP_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, "PYTHONUNBUFFERED": "1"}
    print(f"train   in {processes} process{'es, by torchrun' if processes > 1 else ''}", flush=True)
    with log.open("ab") as file, log.open(encoding="utf-8", errors="replace") as reader:
        start = reader.seek(0, os.SEEK_END)
        # In its own session, so Ctrl-C only reaches this process, which passes it on once, as SIGTERM.
        process = subprocess.Popen(command(processes, config, overrides), stdout=file, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
                                   preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM))
        with _PassedOn(process) as signals:
            overran = _watch(process, reader, time.monotonic() + seconds)
    if signals.number:
        raise Stopped(f"training was stopped by {signals.number.name}", signals.number)
    if overran:
        print(f"training was still running after {seconds / 3600:.1f} h and was stopped; using what it saved")
    elif process.returncode:
        raise failure(process.returncode, log, start)


def _watch(process: subprocess.Popen, reader, deadline: float) -> bool:
    """Shows the log until the process ends -> whether it was stopped at the deadline."""
    stopped = False
    try:
        while True:
            ended = process.poll() is not None  # asked before reading, so that the last output is read
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
        if process.poll() is None:  # do not leave it running after an error here
            process.terminate()


class _PassedOn:
    """While training runs, the first SIGINT or SIGTERM to this process becomes one SIGTERM to the training."""

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
    """The error for a training's exit code; `start`: where its output begins in the log, in bytes."""
    if code < 0:
        return OperationError(f"training was killed by {signal.Signals(-code).name} (SIGKILL: often out of memory)")
    kind = UserError if code == UserError.exit_code else OperationError
    return kind(f"training failed with exit code {code}: {reason(log, start)}")


def reason(log: Path, start: int) -> str:
    """The log line that says why training failed, without advice for a command line."""
    text = log.read_bytes()[start:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    for pattern in (r"error: (.*)", r"([\w.]*(?:Error|Exception): .*)"):
        for line in reversed(lines):
            if match := re.match(pattern, line):
                return match[1].removesuffix(launch.AGAIN)
    return lines[-1] if lines else "no output"


def train_to_the_end(attempt: Callable[[list[str]], None], out_dir: Path, end: float) -> None:
    """Runs attempt([]); if it fails before time.monotonic() reaches `end`, once more from last.pth.

    attempt: trains with further overrides. A second failure is an error only if there is no best.pth.
    """
    for overrides in ([], ["train.resume=auto"]):
        try:
            return attempt(overrides)
        except (OperationError, UserError) as error:
            failed = error
        print(f"{'!' * 20} {failed}", flush=True)
        if overrides or isinstance(failed, UserError) or not free_before(end, out_dir):
            break
        print(f"{'!' * 20} restarting it once, from its last checkpoint", flush=True)
    if not (out_dir / "best.pth").exists():
        raise failed
    print(f"{'!' * 20} training did not finish: using its best epoch so far, {out_dir}/best.pth", flush=True)


def free_before(end: float, out_dir: Path) -> bool:
    """Waits until no process uses the folder: after their launcher is killed, workers run on for some seconds."""
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
    """best.pth, or last.pth if training was stopped before its first validation."""
    for name in ("best.pth", "last.pth"):
        if (out_dir / name).exists():
            return out_dir / name
    raise OperationError(f"training left no checkpoint in {out_dir}; raise kernel.max_hours")
