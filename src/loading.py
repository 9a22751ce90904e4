"""Which images a training step sees, and how DataLoader processes bring them."""
import ctypes
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from config import Config
from distributed import local_processes

SHUFFLE = 2  # what a random generator is keyed by, beside dataset.py's: [seed, purpose, …]
MOST_WORKERS = 16
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def epoch_batches(cfg: Config, epoch: int, count: int, done: int = 0) -> list[list[tuple[int, int]]]:
    """The epoch's batches of TrainSet keys (epoch, index), shuffled by seed and epoch, after its first `done` images.

    An incomplete last batch is left out (its images come in other epochs): BatchNorm learns little from one image.
    Only where the batches so far had another size does it stay, so that no image is left out because of the change.
    """
    order = np.random.default_rng([cfg.seed, SHUFFLE, epoch]).permutation(count).tolist()[done:]
    size = min(cfg.train.batch_size, count)
    batches = [[(epoch, index) for index in order[start:start + size]] for start in range(0, len(order), size)]
    return [batch for batch in batches if len(batch) == size or done % size]


def loading(cfg: Config, device: torch.device) -> dict:
    """How a DataLoader runs: on a CPU one process, since the network needs the cores; beside a GPU all but one."""
    workers = cfg.train.workers
    if workers == "auto":
        cores = (os.cpu_count() or 1) // local_processes()
        wanted = 1 if device.type == "cpu" else max(1, min(MOST_WORKERS, cores - 1))
        workers = min(wanted, sharing_workers(cfg))
        if workers < wanted:
            print(f"workers {workers} instead of {wanted}: /dev/shm has no room for more (docker run --shm-size=2g)")
    return {"num_workers": workers, "pin_memory": device.type == "cuda", "worker_init_fn": partial(serve, os.getpid())}


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


def end_with(parent: int, number: int) -> None:
    """Linux: this process gets the signal when the one that has started it is gone, however it ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
