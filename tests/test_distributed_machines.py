"""Two machines: network namespaces with an address each, joined by a virtual cable."""
import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT, tiny, wait_for

ADDRESSES = "10.77.0.1", "10.77.0.2"


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def machines():
    names = [f"matting{os.getpid()}-{i}" for i in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        ip("netns", "exec", names[0], "true")
    except (OSError, subprocess.CalledProcessError) as error:
        clear(names)
        pytest.skip(f"network namespaces need root and iproute2: {getattr(error, 'stderr', None) or error}")
    yield names
    clear(names)


def clear(names) -> None:
    for name in names:
        kill_all(name)
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def kill_all(name) -> None:
    """All processes of a machine, as a power cut would, but for the closed connections."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout
    for pid in map(int, listed.split()):
        os.kill(pid, signal.SIGKILL)


def test_two_machines_train_restart_and_end_together(machines, pairs_csv, tmp_path):
    launchers, files = [], []
    for rank, name in enumerate(machines):
        options = tiny(pairs_csv, tmp_path / f"machine{rank}", "train.epochs=1000", "train.samples=0")
        files.append([(tmp_path / f"{rank}.{kind}").open("w+") for kind in ("out", "err")])
        launchers.append(subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, ROOT / "scripts/launch.py", "train", "--nnodes", "2",
             "--node-rank", str(rank), "--master-addr", ADDRESSES[0], "--restarts", "1", *options],
            cwd=ROOT, stdout=files[rank][0], stderr=files[rank][1]))
    try:
        metrics = tmp_path / "machine0/metrics.csv"
        wait_for(metrics)
        os.kill(worker(machines[1], launchers[1].pid), signal.SIGKILL)
        wait_for_line(tmp_path / "0.out", "resumed from")
        assert "2 processes on 2 machine(s)" in (tmp_path / "0.out").read_text()
        metrics.unlink()
        wait_for(metrics, 60)  # it trains again
        kill_all(machines[1])
        assert launchers[0].wait(60) == 1
        said = (tmp_path / "0.err").read_text()
        assert "Traceback" not in said
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 2, said  # one for each end
        assert "the connection to another process of the run broke" in errors[1]
        assert not (tmp_path / "machine1").exists()  # machine 0 writes
    finally:
        for name in machines:
            kill_all(name)
        for launcher in launchers:
            launcher.wait(10)
        for out, err in files:
            out.close()
            err.close()


def worker(name: str, launcher: int) -> int:
    """The training process of a machine."""
    pids = [int(pid) for pid in ip("netns", "pids", name).split() if int(pid) != launcher]
    return max(pids)


def wait_for_line(path, words: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while words not in path.read_text():
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.2)
