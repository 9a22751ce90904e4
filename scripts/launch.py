"""Runs train or infer in several processes, on one machine or on several, by torchrun.

    python scripts/launch.py train --gpus 2 train.epochs=3
    python scripts/launch.py train --gpus 8 --nnodes 2 --node-rank 0 --master-addr 10.0.0.1    # and 1 on the other

`make train GPUS=2` calls it. Without a GPU --gpus counts processes on the CPU. It ends with the exit code of the
process that failed first.
"""
import logging
import os
import signal
import socket
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from core import cli
from core.errors import OperationError, UserError

SRC = Path(__file__).resolve().parent.parent / "src"
AGAIN = "; run the same command again to resume from last.pth, or set RESTARTS=n to do so automatically"


def launch(args) -> None:
    command = [str(SRC / f"{args.action}.py"), "--config", args.config, *args.overrides]
    if (args.gpus, args.nnodes, args.restarts) == (1, 1, 0):  # one process needs no launcher
        os.execv(sys.executable, [sys.executable, *command])
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup: torchrun would no longer ignore it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # before torch is imported and starts threads
    check(args)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    from core.device import usable_cores

    # each process has its share of the cores, or they would hinder one another
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // args.gpus)))
    # --standalone alone would look up this machine's name, which need not be possible without a network
    where = ["--standalone", "--local-addr", "127.0.0.1"]
    if args.nnodes > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_to(args.master_addr, args.master_port))
        where = ["--nnodes", str(args.nnodes), "--node-rank", str(args.node_rank),
                 "--master-addr", args.master_addr, "--master-port", str(args.master_port)]
    logging.disable()  # torchrun's own account of a failure is a page, ours is a line
    try:
        torchrun([*where, "--nproc-per-node", str(args.gpus), "--max-restarts", str(args.restarts), *command])
    except ChildFailedError as error:
        codes = {failure.exitcode: rank for rank, failure in error.failures.items()}
        codes.pop(-signal.SIGTERM, None)  # torchrun's, to the others
        code = min(codes, default=-signal.SIGTERM)
        if code > 0:
            sys.exit(max(codes))  # it has said why
        raise OperationError(f"process {codes.get(code, 0)} was killed by {signal.Signals(-code).name} (SIGKILL often "
                             f"means out of memory), so all were stopped{AGAIN}") from None
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except (DistError, TimeoutError) as error:
        raise OperationError(f"no contact with the other machines ({cli.brief(error)}); is machine 0 running, and "
                             f"{args.master_addr}:{args.master_port} the address at which all reach it?") from None


def check(args) -> None:
    counts = {"--gpus": args.gpus, "--nnodes": args.nnodes}
    wrong = next((name for name, count in counts.items() if count < 1), None)
    if wrong:
        raise UserError(f"{wrong} {counts[wrong]}: must be 1 or more")
    if not 0 <= args.node_rank < args.nnodes:
        raise UserError(f"--node-rank {args.node_rank}: the {args.nnodes} machines are numbered from 0")
    if args.nnodes > 1 and not args.master_addr:
        raise UserError("several machines need --master-addr (MASTER_ADDR), the address of machine 0")
    import torch

    if torch.cuda.is_available() and args.gpus > torch.cuda.device_count():
        raise UserError(f"--gpus {args.gpus}: this machine shows {torch.cuda.device_count()}; see nvidia-smi and "
                        "CUDA_VISIBLE_DEVICES")


def interface_to(address: str, port: int) -> str:
    """The network interface towards `address`: gloo would take the host name's, which is often the loopback's."""
    import fcntl  # not on Windows, where the processes say so

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
        raise OperationError(f"{address}: cannot be reached ({error}); is MASTER_ADDR right?") from None
    raise OperationError(f"{own}: no interface has this address; set GLOO_SOCKET_IFNAME to the one towards {address}")


def main() -> None:
    launch(cli.parse(__doc__, actions=("train", "infer"), options={
        "gpus": (1, "processes on this machine, each with a GPU of its own where there are any"),
        "restarts": (0, "how often a run of which a process died is started again"),
        "nnodes": (1, "machines"),
        "node-rank": (0, "this machine's number, from 0; 0 writes the run folder"),
        "master-addr": ("", "address of machine 0"),
        "master-port": (29500, "a free port there"),
    }))


if __name__ == "__main__":
    cli.run(main)
