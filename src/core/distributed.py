"""Several processes that train or infer as one: how they share work, exchange values and end together.

    with distributed.world() as world:      # ALONE unless scripts/launch.py has started this process
        train(cfg, world)

Gradients travel by DistributedDataParallel (nccl between GPUs, gloo between CPUs), plain values by gloo.
"""
import contextlib
import io
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.errors import OperationError, Stopped, UserError, brief
from core.redact import Screened

BEAT, SILENCE = 2, 30  # seconds between heartbeats, and without any until a process counts as lost
UNREACHABLE = "the machine of process 0 cannot be reached"
AGAIN = "run the same command again on all machines; training resumes from last.pth"


@dataclass(frozen=True)
class World:
    """The processes of a run. Process 0, `main`, prints and writes; with one process all of this is free."""
    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None  # gloo

    @property
    def main(self) -> bool:
        return self.rank == 0

    def deal(self, items: Sequence, block: int = 1) -> list:
        """This process's share of the items: the processes take blocks of `block` items in turn."""
        return [item for start in range(self.rank * block, len(items), self.size * block)
                for item in items[start:start + block]]

    def passes(self, batch: Sequence, most: int | None) -> list[list]:
        """This process's share of a batch, in passes of at most `most` images; every process has as many passes.

        UserError if a pass would get no image.
        """
        passes = self.count_passes(len(batch), most)
        if passes > len(batch) // self.size:
            raise UserError(f"a batch of {len(batch)} images is too small for {self.size} processes; "
                            f"make train.batch_size a multiple of {self.size}, or lower GPUS")
        share = self.deal(batch)
        return [share[i::passes] for i in range(passes)]

    def count_passes(self, images: int, most: int | None) -> int:
        return math.ceil(math.ceil(images / self.size) / (most or images))

    def fewest(self, images: int, most: int | None) -> int:
        """Images in the smallest forward pass of a batch; 0: passes() would refuse it."""
        return images // self.size // self.count_passes(images, most)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The processes' sum, element by element, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return total.tolist()

    def gather(self, value: object) -> list:
        """Each process's value, by rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def merge(self, rows: dict) -> dict:
        """The processes' dicts as one, ordered by key, so that sums over it do not depend on the sharing."""
        return dict(sorted(item for part in self.gather(rows) for item in part.items()))

    def from_main(self, state: dict | None) -> dict | None:
        """Process 0's state of tensors and plain values; tensors arrive on the CPU."""
        if self.size == 1:
            return state
        file = io.BytesIO()
        if self.main:
            torch.save(state, file)
        box = [file.getvalue()]
        dist.broadcast_object_list(box, 0, self.group)
        return torch.load(io.BytesIO(box[0]), map_location="cpu", weights_only=True)

    def wait(self) -> None:
        """Until all processes have called it."""
        if self.size > 1:
            dist.barrier(self.group)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model to train: its backward() leaves the processes' mean gradient in each of them.

        Buffers stay each process's own until average_statistics().
        """
        if self.size == 1:
            return model
        trained = DistributedDataParallel(model, gradient_as_bucket_view=True)
        trained.broadcast_buffers = False  # set here: the argument has another name from torch 2.13 on
        return trained

    @torch.no_grad()
    def average_statistics(self, model: nn.Module, weight: float) -> None:
        """Sets BatchNorm's running mean and variance to the processes' mean; `weight`: this one's share of the batch.

        SyncBatchNorm's are the same in all processes already.
        """
        layers = [module for module in model.modules() if type(module) is nn.BatchNorm2d]
        if self.size == 1 or not layers:
            return
        buffers = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
        flat = torch.cat(buffers) * weight
        dist.all_reduce(flat)
        for buffer, values in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(values)


ALONE = World()


def local_processes() -> int:
    """Processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def restarts() -> tuple[int, int]:
    """(restarts so far, restarts allowed)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)), int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))


@contextlib.contextmanager
def world() -> Iterator[World]:
    """The World that torchrun's environment variables describe.

    If one process fails, all end within a minute, and only the first to see the reason prints it.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield ALONE
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if rank:
        silence()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # from torchrun, when another process has failed
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank)
    store, _, _ = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"attempt{restarts()[0]}", store)  # a restart must not read the last attempt's values
    pulse = Pulse(store, rank, size)
    try:
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
        group = dist.new_group(backend="gloo") if cuda else dist.group.WORLD
        pulse.start()
        print(f"world   {size} processes on {size // local_processes()} machine(s), "
              f"{'nccl' if cuda else 'gloo: no GPU is visible, each runs on the CPU'}")
        if restarts()[0]:
            print("restart {} of at most {}".format(*restarts()))
        yield World(rank, size, group)
        dist.barrier(group)
        pulse.stop()
        dist.destroy_process_group()
    except Exception as error:
        pulse.stop()
        end(error, store)


def silence() -> None:
    """For all but process 0: no prints, no progress bars; errors are still shown."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = Screened(NoTerminal(sys.stderr.buffer, line_buffering=True))


class NoTerminal(io.TextIOWrapper):
    """tqdm draws no bar on it."""

    def isatty(self) -> bool:
        return False


def end(error: Exception, store: dist.Store) -> None:
    """Raises the error in the first process that has one. The others exit silently."""
    quiet = False
    if isinstance(error, dist.DistError) or lost_connection(error):
        # on one machine the launcher knows which process died, and of what
        quiet = lost_connection(error) and local_processes() == int(os.environ["WORLD_SIZE"])
        error = OperationError(f"the connection to another process of the run broke ({brief(error)}); {AGAIN}")
    if not isinstance(error, UserError | OperationError | Stopped):
        raise error
    if quiet or not first_to_say(store):
        sys.stdout.flush()
        os._exit(error.exit_code)  # a normal exit would wait for processes that are gone
    raise error


def lost_connection(error: Exception) -> bool:
    """gloo raises nothing but RuntimeError."""
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def first_to_say(store: dist.Store) -> bool:
    try:
        return store.add("said", 1) == 1
    except RuntimeError:  # the store's host is gone as well
        return True


class Pulse(threading.Thread):
    """Heartbeats through the store: a machine that loses power closes no connection.

    If another process is lost, this one ends, whatever it is waiting for.
    """

    def __init__(self, store: dist.Store, rank: int, size: int):
        super().__init__(daemon=True)
        self._store, self._rank = store.clone(), rank
        self._keys = [f"pulse/{other}" for other in range(size)]
        self._store.set(self._keys[rank], "0")
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()

    def run(self) -> None:
        last, silent = [b""] * len(self._keys), [0] * len(self._keys)
        beat = 0
        while not self._over.wait(BEAT):
            beat += 1
            patience = threading.Timer(SILENCE, self._end, [UNREACHABLE])  # the store waits forever for a lost host
            patience.daemon = True
            patience.start()
            try:
                self._store.set(self._keys[self._rank], str(beat))
                now = self._store.multi_get(self._keys)
            except RuntimeError:
                self._end(UNREACHABLE)
                return
            finally:
                patience.cancel()
            silent = [count + 1 if new == old else 0 for new, old, count in zip(now, last, silent, strict=True)]
            last = now
            if max(silent) * BEAT >= SILENCE:
                self._end(f"process {silent.index(max(silent))} has not responded for {SILENCE} s")
                return

    def _end(self, reason: str) -> None:
        if self._over.wait(BEAT):  # the run has ended in the meantime
            return
        print(f"error: {reason}; {AGAIN}", file=sys.stderr, flush=True)
        os._exit(1)
