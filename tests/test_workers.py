"""Data workers that fail, hang, start another way or find no room: what training makes of it."""
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from conftest import ROOT, one_error_line, script, tiny
from core.config import DEFAULTS, load_config
from core.errors import OperationError, UserError
from dataset import TrainSet
from imaging import pair_cache as decoded
from imaging.pair_cache import DecodedFiles
from imaging.pairs import read_pairs
from sources import synthetic as synthetic_set
from training.batches import epoch_batches
from training.workers import loaded, loader_options, socket_folder

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's sockets, processes or limits")


@only_linux
def test_a_long_tmpdir_does_not_stop_the_workers(pairs_csv, tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    result = script("src/train.py", *tiny(pairs_csv, tmp_path / "run", "train.workers=1", "train.epochs=1"),
                    timeout=300)
    assert result.returncode == 0 and "best" in result.stdout, result.stderr
    assert not list(long.glob("pymp-*"))


def test_sockets_go_to_the_first_short_folder(tmp_path):
    long = f"/tmp/{'x' * 100}"
    assert socket_folder((long, "/tmp")) == "/tmp"
    assert socket_folder(("/var/tmp", "/tmp")) == "/var/tmp"
    with pytest.raises(OperationError, match=r"set TMPDIR to a folder of at most 70 bytes, or train\.workers=0"):
        socket_folder((long, "/proc/none"))


class Failing(Dataset):
    """[i] raises what is given."""

    def __init__(self, error: BaseException):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise self.error


class Unsendable:
    def __reduce__(self):
        raise self.error

    def __init__(self, error: Exception):
        self.error = error


class LostOnTheWay(Failing):
    def __getitem__(self, index):
        return Unsendable(self.error)


def workers(pairs_csv, count: int = 1) -> dict:
    return loader_options(load_config(DEFAULTS, [f"train.workers={count}"]), torch.device("cpu"))


@pytest.mark.parametrize("kind", [Failing, LostOnTheWay])
@pytest.mark.parametrize("error, words", [
    (OSError(28, "No space left on device", "/a"), "a data worker failed: No space left on device: '/a'"),
    (PermissionError(13, "Permission denied"), "a data worker failed: Permission denied"),
    (OSError(24, "Too many open files"), "too many open files; raise the limit (ulimit -n 4096) or lower"),
    (RuntimeError("unable to open shared memory object: Too many open files (24)"), "too many open files; raise"),
])
def test_a_systems_error_in_a_worker_is_one_line(pairs_csv, kind, error, words):
    with pytest.raises(OperationError) as raised:
        list(loaded(kind(error), workers(pairs_csv), batch_size=1, collate_fn=list))
    assert str(raised.value).startswith(words) and "\n" not in str(raised.value)


def test_other_errors_of_a_worker_stay_what_they_are(pairs_csv):
    for error in (UserError("a.png: is broken"), ValueError("a bug")):
        with pytest.raises(type(error), match=str(error)):
            list(loaded(Failing(error), workers(pairs_csv), batch_size=1))


@only_linux
@pytest.mark.parametrize("files", [14, 18])
def test_too_few_open_files_end_training_in_one_line(pairs_csv, tmp_path, files):
    """Some of them used to lose a batch on its way, and training waited for it."""
    result = script("src/train.py", *tiny(pairs_csv, tmp_path, "train.workers=2"), timeout=300,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))
    assert "too many open files" in one_error_line(result, 1).lower()


HELD = """import sys
sys.path.insert(0, "src")
import train
from core import cli
from training import workers
workers.STUCK = float(sys.argv.pop(1))
cli.run(train.main)
"""


@only_linux
@pytest.mark.parametrize("stuck, code, words", [("3", 1, "no batch from the data workers"), ("600", 130, "Ctrl-C")])
def test_a_stuck_worker_neither_holds_training_nor_its_end(pairs_csv, tmp_path, stuck, code, words, start):
    process = start([sys.executable, "-c", HELD, stuck, *tiny(
        pairs_csv, tmp_path, "train.workers=1", "train.epochs=500", "train.samples=0")], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    while not process.stdout.readline().startswith("epoch"):
        assert process.poll() is None
    worker = stop_a_child(process.pid)
    if code == 130:
        for _ in range(2):  # after the first one training would still finish its step
            time.sleep(1)
            process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code and said.count("\n") == 1 and words in said, said
    assert not Path(f"/proc/{worker}").exists()


def stop_a_child(pid: int) -> int:
    while True:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                try:
                    os.kill(int(child), signal.SIGSTOP)
                    return int(child)
                except ProcessLookupError:  # an epoch's workers end with it
                    pass


STARTED = """import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv.pop(1))
    sys.path.insert(0, "src")
    import train
    from core import cli
    cli.run(train.main)
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_the_start_method_of_this_python_does_not_matter(pairs_csv, tmp_path, method):
    """Python 3.14's is forkserver, whose workers are not children of the main process."""
    (tmp_path / "started.py").write_text(STARTED)
    result = subprocess.run([sys.executable, tmp_path / "started.py", method, *tiny(
        pairs_csv, tmp_path / "run", "train.workers=1", "train.epochs=1")], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "best" in result.stdout, result.stderr


def test_spawned_workers_bring_the_same_samples(pairs_csv, tmp_path):
    """As on macOS: everything that a worker is given travels as a pickle."""
    cfg = load_config(DEFAULTS, tiny(pairs_csv, tmp_path, "data.cache_gb=1", f"data.root={tmp_path}"))
    options = workers(pairs_csv) | {"multiprocessing_context": "spawn"}
    train_set = TrainSet(read_pairs(pairs_csv), cfg)
    batches = epoch_batches(cfg, 0, len(train_set))
    spawned = list(loaded(train_set, options, batch_sampler=batches))
    for mine, theirs in zip(DataLoader(train_set, batch_sampler=batches), spawned, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_caches_that_cannot_be_written_to_are_done_without(pairs_csv, tmp_path):
    pytest.importorskip("pymatting")
    (tmp_path / "cache").write_text("a file in place of the folder")
    # a new process: numba's threads, if a test before this one has started them, do not survive the fork into a worker
    result = script("src/train.py", *tiny(pairs_csv, tmp_path / "run", f"data.root={tmp_path}", "train.workers=1",
                                          "data.cache_gb=1", "augment.background_p=1", "train.epochs=1"))
    assert result.returncode == 0, result.stderr
    notes = [line for line in result.stdout.splitlines() if line.startswith("note") and "/cache/" in line]
    assert sorted(line.split(":")[0].rsplit("/")[-1] for line in notes) == ["checked.json", "decoded", "foregrounds"]


def test_a_process_that_keeps_the_caches_lock_is_not_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decoded, "PATIENCE", 0.1)
    source, array = tmp_path / "source", np.arange(3)
    source.write_text("")
    cache = DecodedFiles(tmp_path / "cache", 1e6, [[source]], recipe=1)
    (tmp_path / "cache").mkdir()
    with (tmp_path / "cache/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(2):
            assert np.array_equal(cache.get([source], lambda: [array])[0], array)
    assert capsys.readouterr().out.count("another process does not release its lock") == 1


def killed(index: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_that_draws_is_one_line():
    with pytest.raises(OperationError, match="run the same command again"):
        list(synthetic_set.parallel(killed, 2, "nothing"))
