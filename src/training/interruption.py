"""Ending training before its last epoch: by a signal or a time limit, after the state is saved."""
import io
import signal
import sys
import time

from core.distributed import World
from core.errors import Stopped
from training.run_state import Run

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class StopRequest:
    """Asks training to end after the current step: on the first SIGINT, SIGTERM or SIGHUP, or at the time limit.

    It is enough that one process is asked: all agree at the same step. A second signal ends the process at once, unless
    it is SIGHUP, of which a closing terminal sends several. If SIGHUP is ignored (nohup), it stays ignored.
    """

    def __init__(self, max_hours: float | None, world: World):
        self.reason, self.signal = None, None  # once agreed
        self._received = None
        self._max_hours, self._world = max_hours, world
        self._deadline = time.monotonic() + max_hours * 3600 if max_hours else float("inf")
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame) -> None:
        if number == signal.SIGHUP and self._received:
            return
        if self._received not in (None, signal.SIGHUP):
            raise KeyboardInterrupt
        self._received = signal.Signals(number)

    def agreed(self) -> bool:
        """Whether any process was asked to end; all processes must call this equally often."""
        late = time.monotonic() > self._deadline
        votes = self._world.sum([*(self._received == number for number in SIGNALS), late])
        for number, asked in zip((*SIGNALS, None), votes, strict=True):
            if asked and not self.reason:
                self.signal = number
                self.reason = number.name if number else f"train.max_hours={self._max_hours:g}"
        return self.reason is not None


class Outlived(io.FileIO):
    """A stream that drops what it cannot write: its terminal or pipe may be gone, its disk full."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def outlive_the_log() -> None:
    """From here on a failing print or progress bar cannot end this process: the run folder has the record."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            raw = Outlived(stream.fileno(), "w", closefd=False)
        except (OSError, AttributeError):  # not a file, or closed from the start
            continue
        stream.flush()
        outlived = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors,
                                    line_buffering=stream.line_buffering, write_through=stream.write_through)
        setattr(sys, name, outlived)
        setattr(sys, f"__{name}__", outlived)  # unreferenced, the old one would close the shared buffer


def end_early(run: Run, stop: StopRequest) -> None:
    progress = run.progress
    message = (f"stopped by {stop.reason} in epoch {progress.epoch + 1} after batch {progress.batch}; "
               f"saved to {run.last}, run the same command again to resume")
    if stop.signal:
        raise Stopped(message, stop.signal)
    print(message)
