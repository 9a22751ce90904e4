"""Which images a training step sees, and how DataLoader processes bring them."""
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
from core.seeds import Purpose, generator

MOST_WORKERS = 16
STUCK = 1800  # seconds without a single batch; a slow disk or network share is no error
LONGEST = 70  # bytes of a socket's folder: an address may have 103 (macOS), and 32 of them are multiprocessing's names
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def epoch_batches(cfg: Config, epoch: int, count: int, done: int = 0) -> list[list[tuple[int, int]]]:
    """The epoch's batches of TrainSet keys (epoch, index), shuffled by seed and epoch, after its first `done` images.

    An incomplete last batch is left out (its images come in other epochs): BatchNorm learns little from one image.
    Only where the batches so far had another size does it stay, so that no image is left out because of the change.
    """
    order = generator(cfg.seed, Purpose.SHUFFLE, epoch).permutation(count).tolist()[done:]
    size = min(cfg.train.batch_size, count)
    batches = [[(epoch, index) for index in order[start:start + size]] for start in range(0, len(order), size)]
    return [batch for batch in batches if len(batch) == size or done % size]


def loading(cfg: Config, device: torch.device) -> dict:
    """How a DataLoader runs: on a CPU one process, since the network needs the cores; beside a GPU one per core.

    Several GPUs share the cores: Kaggle's machine has four for two.
    """
    workers = cfg.train.workers
    if workers == "auto":
        cores = usable_cores() // local_processes()
        wanted = 1 if device.type == "cpu" else max(1, min(MOST_WORKERS, cores))
        workers = min(wanted, sharing_workers(cfg))
        if workers < wanted:
            print(f"workers {workers} instead of {wanted}: /dev/shm has no room for more (docker run --shm-size=2g)")
    return {"num_workers": workers, "pin_memory": device.type == "cuda", "worker_init_fn": partial(serve, os.getpid()),
            **(several_processes() if workers else {})}


def several_processes() -> dict:
    """Linux: forked, since Python 3.14 would start them from a server that is not their main process."""
    return {"timeout": STUCK, "multiprocessing_context": "fork" if sys.platform == "linux" else None}


def sharing_workers(cfg: Config, shared: Path = Path("/dev/shm")) -> int:
    """How many DataLoader processes find room in shared memory for what they hand over: Docker gives 64 MB."""
    if not shared.exists():
        return MOST_WORKERS
    # rgb uint8 and target float32; a process has two batches ready and makes a third, the main one holds another
    batch = cfg.train.batch_size * max(cfg.augment.crop, cfg.augment.final_crop or 0) ** 2 * (3 + 4)
    return max(0, (shutil.disk_usage(shared).free - batch) // (3 * batch))


def serve(main: int, worker: int) -> None:
    """Called in a worker: it lives as long as the process `main`, which alone is told of a terminal's Ctrl-C and end.

    The main process still needs its workers to finish the step. One killed in the moment of starting them would leave
    them behind for ever: torch's own watch then takes whoever inherits them for their parent.
    """
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal that is closed sends the second to all of its processes
        signal.signal(number, signal.SIG_IGN)
    end_with(main, signal.SIGKILL)
    Queue._on_queue_feeder_error = send_error
    tempfile.tempdir = socket_folder((tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"))


def send_error(queue: Queue, error: Exception, result: tuple) -> None:
    """In place of a worker's result that cannot be sent; Python would print it, and the main process wait for ever."""
    queue.put((result[0], ExceptionWrapper(where="in DataLoader worker")))


def socket_folder(folders: tuple[str, ...]) -> str:
    """The first one where the workers' sockets can be: the address of one has little more than a hundred bytes."""
    for folder in folders:
        if len(os.fsencode(folder)) <= LONGEST and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise OperationError(f"{folders[0]}: too long for a socket's address; set TMPDIR to a folder of at most {LONGEST} "
                         "bytes, or train.workers=0")


def loaded(dataset: Dataset, options: dict, **more) -> Iterator:
    """The batches of a DataLoader with loading()'s options and more. OperationError for what the machine lacks."""
    try:
        check_open_files(options["num_workers"])
        yield from DataLoader(dataset, **options, **more)
    except (Exception, KeyboardInterrupt) as error:
        end_workers()
        raise explained(error) from None


def check_open_files(workers: int) -> None:
    """OSError where there is no room for their pipes: a loader that torch has half made would print a traceback."""
    with contextlib.ExitStack() as stack:
        for _ in range(4 * workers + 6 if workers else 0):
            stack.enter_context(open(os.devnull, "rb"))


def explained(error: BaseException) -> BaseException:
    """The error, or one line about it: of one in a worker torch passes on the traceback, as text."""
    text = str(error)
    if "DataLoader timed out" in text:
        return OperationError(f"no data worker has sent anything for {STUCK / 60:.0f} minutes; does the disk or "
                              "network share with the data answer? Then run the same command again to resume")
    if "Too many open files" in text:
        return OperationError("too many open files; raise the limit (ulimit -n 4096) or lower train.workers")
    found = re.search(r"\n\w+: (?:\[Errno -?\d+\] )?([^\n]*)$", text)
    return OperationError(f"a data worker failed: {found[1]}") if isinstance(error, OSError) and found else error


def end_workers() -> None:
    """Also one that is stuck: multiprocessing would wait for it when this process ends."""
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise for each
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def end_with(parent: int, number: int) -> None:
    """Linux: this process gets the signal when the one that has started it is gone, however it ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
