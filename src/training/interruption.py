"""When training is to end before its last epoch, and how it says so."""
import io
import signal
import sys
import time

from core.distributed import World
from core.errors import Stopped
from training.run_state import Run

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class StopRequest:
    """Asks training to end after the step under way: the first SIGINT, SIGTERM or SIGHUP, or the time limit.

    One process asked is enough: all learn of it at the same step. A second signal ends at once, unless it is SIGHUP: a
    terminal that is closed sends several. Where SIGHUP is ignored (nohup), it stays ignored.
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
        """Whether any process was asked to; every process has to call this equally often."""
        late = time.monotonic() > self._deadline
        votes = self._world.sum([*(self._received == number for number in SIGNALS), late])
        for number, asked in zip((*SIGNALS, None), votes, strict=True):
            if asked and not self.reason:
                self.signal = number
                self.reason = number.name if number else f"train.max_hours={self._max_hours:g}"
        return self.reason is not None


class Outlived(io.FileIO):
    """A stream whose terminal, pipe or disk may be gone or full before the program ends: what it refuses is dropped."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def outlive_the_log() -> None:
    """From here on prints and bars cannot end this process: a run of days has its record in the run folder."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            raw = Outlived(stream.fileno(), "w", closefd=False)
        except (OSError, AttributeError):  # no file is behind it, or it was closed from the start
            continue
        stream.flush()
        outlived = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors,
                                    line_buffering=stream.line_buffering, write_through=stream.write_through)
        setattr(sys, name, outlived)
        setattr(sys, f"__{name}__", outlived)  # if no one held it, it would close what others write through


def end_early(run: Run, stop: StopRequest) -> None:
    progress = run.progress
    message = (f"stopped by {stop.reason} in epoch {progress.epoch + 1} after batch {progress.batch}; "
               f"saved to {run.last}, run the same command again to resume")
    if stop.signal:
        raise Stopped(message, stop.signal)
    print(message)
