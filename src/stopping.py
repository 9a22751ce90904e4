"""When training is to end before its last epoch, and how it says so."""
import signal
import time

from cli import Stopped
from distributed import World
from run_state import Run


class StopRequest:
    """Asks training to end after the step under way: the first SIGINT or SIGTERM, or the time limit.

    One process asked is enough: all learn of it at the same step. A second signal ends at once.
    """

    def __init__(self, max_hours: float | None, world: World):
        self.reason, self.signal = None, None  # once agreed
        self._received = None
        self._max_hours, self._world = max_hours, world
        self._deadline = time.monotonic() + max_hours * 3600 if max_hours else float("inf")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)

    def agreed(self) -> bool:
        """Whether any process was asked to; every process has to call this equally often."""
        late = time.monotonic() > self._deadline
        votes = self._world.sum([self._received == signal.SIGINT, self._received == signal.SIGTERM, late])
        reasons = signal.SIGINT, signal.SIGTERM, None
        for number, asked in zip(reasons, votes, strict=True):
            if asked and not self.reason:
                self.signal = number
                self.reason = number.name if number else f"train.max_hours={self._max_hours:g}"
        return self.reason is not None


def end_early(run: Run, stop: StopRequest) -> None:
    progress = run.progress
    message = (f"stopped by {stop.reason} in epoch {progress.epoch + 1} after batch {progress.batch}; "
               f"saved to {run.last}, the same command goes on from there")
    if stop.signal:
        raise Stopped(message, stop.signal)
    print(message)
