"""DataLoader processes: how many, what they may cost, and what happens when one fails or hangs."""
import contextlib
import ctypes
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

from core.config import Config
from core.device import usable_cores
from core.distributed import local_processes
from core.errors import OperationError

MOST_WORKERS = 16
STUCK = 1800  # seconds without a single batch; a slow disk or network share is no error
LONGEST = 70  # bytes of a socket folder's path: macOS allows 103 for an address, multiprocessing's names take 32
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def loader_options(cfg: Config, device: torch.device) -> dict:
    """Keyword arguments of DataLoader. train.workers=auto: one on a CPU, which the network needs, else one per core.

    The processes of a machine share its cores: Kaggle's has four for two GPUs.
    """
    workers = cfg.train.workers
    if workers == "auto":
        cores = usable_cores() // local_processes()
        wanted = 1 if device.type == "cpu" else max(1, min(MOST_WORKERS, cores))
        workers = min(wanted, workers_that_fit(cfg))
        if workers < wanted:
            print(f"workers {workers} instead of {wanted}: /dev/shm has no room for more (docker run --shm-size=2g)")
    return {"num_workers": workers, "pin_memory": device.type == "cuda", "worker_init_fn": partial(serve, os.getpid()),
            **(process_options() if workers else {})}


def process_options() -> dict:
    """On Linux workers are forked: Python 3.14 would start them from a server that is not their main process."""
    return {"timeout": STUCK, "multiprocessing_context": "fork" if sys.platform == "linux" else None}


def workers_that_fit(cfg: Config, shared: Path = Path("/dev/shm")) -> int:
    """How many workers' batches fit in shared memory, through which they are sent: Docker's default is 64 MB."""
    if not shared.exists():
        return MOST_WORKERS
    # rgb uint8 and target float32; a worker has two batches ready and makes a third, the main process holds another
    batch = cfg.train.batch_size * max(cfg.augment.crop, cfg.augment.final_crop or 0) ** 2 * (3 + 4)
    return max(0, (shutil.disk_usage(shared).free - batch) // (3 * batch))


def serve(main: int, worker: int) -> None:
    """Called in a worker: it lives as long as the process `main`, and leaves a terminal's Ctrl-C and hang-up to it.

    The main process needs its workers to finish the step. If it is killed while it starts them, they must not stay:
    torch's own check would take whoever inherits them for their parent.
    """
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all of its processes
        signal.signal(number, signal.SIG_IGN)
    end_with(main, signal.SIGKILL)
    Queue._on_queue_feeder_error = send_error
    tempfile.tempdir = socket_folder((tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"))


def send_error(queue: Queue, error: Exception, result: tuple) -> None:
    """Instead of a result that cannot be sent: Python would only print the error, and the main process wait forever."""
    queue.put((result[0], ExceptionWrapper(where="in DataLoader worker")))


def socket_folder(folders: tuple[str, ...]) -> str:
    """The first folder that is writable and short enough for the workers' sockets."""
    for folder in folders:
        if len(os.fsencode(folder)) <= LONGEST and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise OperationError(f"{folders[0]}: too long for a socket's address; set TMPDIR to a folder of at most {LONGEST} "
                         "bytes, or train.workers=0")


def loaded(dataset: Dataset, options: dict, **more) -> Iterator:
    """The batches of a DataLoader with loader_options() and more. OperationError if the machine lacks something."""
    try:
        check_open_files(options.get("num_workers", 0))
        yield from DataLoader(dataset, **options, **more)
    except (Exception, KeyboardInterrupt) as error:
        end_workers()
        raise explained(error) from None


def check_open_files(workers: int) -> None:
    """OSError if the workers' pipes exceed the limit: torch would fail halfway, with a traceback."""
    with contextlib.ExitStack() as stack:
        for _ in range(4 * workers + 6 if workers else 0):
            stack.enter_context(open(os.devnull, "rb"))


def explained(error: BaseException) -> BaseException:
    """The error, or one line about it: torch passes on a worker's traceback, as text."""
    text = str(error)
    if "DataLoader timed out" in text:
        return OperationError(f"no batch from the data workers for {STUCK / 60:.0f} minutes; check that the disk or "
                              "network share with the data responds, then run the same command again to resume")
    if "Too many open files" in text:
        return OperationError("too many open files; raise the limit (ulimit -n 4096) or lower train.workers")
    found = re.search(r"\n\w+: (?:\[Errno -?\d+\] )?([^\n]*)$", text)
    return OperationError(f"a data worker failed: {found[1]}") if isinstance(error, OSError) and found else error


def end_workers() -> None:
    """Kills the workers, also one that hangs: multiprocessing would wait for it when this process ends."""
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise for each
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def end_with(parent: int, number: int) -> None:
    """Linux: the system sends this process the signal `number` when its parent ends, in whatever way."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
