"""Runs train or infer in several processes, on one machine or several, through torchrun.

    python scripts/launch.py train --gpus 2 train.epochs=3
    python scripts/launch.py train --gpus 8 --nnodes 2 --node-rank 0 --master-addr 10.0.0.1    # and 1 on the other

`make train GPUS=2` calls it. Without a GPU, --gpus is the number of processes on the CPU. The exit code is that of the
process that failed first.
"""
import logging
import os
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from core import cli
from core.errors import OperationError, UserError

SRC = Path(__file__).resolve().parent.parent / "src"
AGAIN = "; run the same command again to resume from last.pth, or set RESTARTS=n to do so automatically"


@dataclass(frozen=True)
class Machines:
    """The machines of a run, and this one's place among them."""
    count: int
    rank: int  # this machine's number, from 0
    main_address: str
    main_port: int


def launch(command: list[str], gpus: int, restarts: int, machines: Machines) -> None:
    """Runs a Python command in `gpus` processes per machine. Returns if all end well, else exits with their code."""
    if (gpus, restarts, machines.count) == (1, 0, 1):  # one process needs no launcher
        os.execv(sys.executable, [sys.executable, *command])
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup: torchrun would no longer ignore it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # before torch is imported and starts threads
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    check(gpus, machines)
    from core.device import usable_cores

    # the processes share the cores, or they would slow one another down
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // gpus)))
    if machines.count > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_to(machines.main_address, machines.main_port))
    run_processes([*rendezvous(machines), "--nproc-per-node", str(gpus), "--max-restarts", str(restarts), *command],
                  machines)


def check(gpus: int, machines: Machines) -> None:
    counts = {"--gpus": gpus, "--nnodes": machines.count}
    wrong = next((name for name, count in counts.items() if count < 1), None)
    if wrong:
        raise UserError(f"{wrong} {counts[wrong]}: must be 1 or more")
    if not 0 <= machines.rank < machines.count:
        raise UserError(f"--node-rank {machines.rank}: the {machines.count} machines are numbered from 0")
    if machines.count > 1 and not machines.main_address:
        raise UserError("several machines need --master-addr (MASTER_ADDR), the address of machine 0")
    import torch

    if torch.cuda.is_available() and gpus > torch.cuda.device_count():
        raise UserError(f"--gpus {gpus}: this machine has {torch.cuda.device_count()}; check nvidia-smi and "
                        "CUDA_VISIBLE_DEVICES")


def rendezvous(machines: Machines) -> list[str]:
    """torchrun's arguments for where the processes meet."""
    if machines.count == 1:  # --standalone alone would look up this machine's name, which can fail without a network
        return ["--standalone", "--local-addr", "127.0.0.1"]
    return ["--nnodes", str(machines.count), "--node-rank", str(machines.rank),
            "--master-addr", machines.main_address, "--master-port", str(machines.main_port)]


def run_processes(arguments: list[str], machines: Machines) -> None:
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.disable()  # torchrun reports a failure on a page, our processes in a line
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        end_as({failure.exitcode: rank for rank, failure in error.failures.items()})
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except (DistError, TimeoutError) as error:
        address = f"{machines.main_address}:{machines.main_port}"
        raise OperationError(f"no contact with the other machines ({cli.brief(error)}); check that machine 0 is "
                             f"running and that all can reach it at {address}") from None


def end_as(ranks: dict[int, int]) -> None:
    """Exits with the code of the process that failed. ranks: exit code, negative for a signal -> a process with it."""
    ranks.pop(-signal.SIGTERM, None)  # torchrun's own, to the other processes
    code = min(ranks, default=-signal.SIGTERM)
    if code > 0:
        sys.exit(max(ranks))  # the process has said why
    raise OperationError(f"process {ranks.get(code, 0)} was killed by {signal.Signals(-code).name} (SIGKILL: often out "
                         f"of memory), which ended the run{AGAIN}") from None


def interface_to(address: str, port: int) -> str:
    """The network interface that leads to `address`: gloo would take the host name's, often the loopback."""
    import fcntl  # missing on Windows, where the processes say so

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, port))  # UDP: nothing is sent
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode())
                try:
                    answer = fcntl.ioctl(probe, 0x8915, request)  # SIOCGIFADDR
                except OSError:
                    continue  # has no IPv4 address
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    except OSError as error:
        raise OperationError(f"{address}: cannot be reached ({error}); check MASTER_ADDR") from None
    raise OperationError(f"{own}: no network interface has this address; set GLOO_SOCKET_IFNAME to the one "
                         f"that leads to {address}")


def main() -> None:
    args = cli.parse(__doc__, actions=("train", "infer"), options={
        "gpus": (1, "processes on this machine; each gets a GPU of its own if there are any"),
        "restarts": (0, "restarts allowed after a process dies"),
        "nnodes": (1, "machines"),
        "node-rank": (0, "this machine's number, from 0; machine 0 writes the run folder"),
        "master-addr": ("", "address of machine 0"),
        "master-port": (29500, "a free port on machine 0"),
    })
    launch([str(SRC / f"{args.action}.py"), "--config", args.config, *args.overrides], args.gpus, args.restarts,
           Machines(args.nnodes, args.node_rank, args.master_addr, args.master_port))


if __name__ == "__main__":
    cli.run(main)
