"""What a poor machine does to a run: a full disk, little memory, few open files, no home, odd paths, Ctrl-C, kills."""
import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from conftest import ROOT, call, one_error_line, scene, script, tiny
from core import checkpoint, cli
from core.errors import OperationError
from core.ownership import SOFTWARE
from imaging.cache import Cache
from imaging.foreground import cached_foreground, estimate_foreground
from imaging.images import write_image
from imaging.pair_cache import DecodedFiles
from imaging.pictures import save_curves, save_picture
from submission.submission_csv import SubmissionWriter
from train import main as train_main


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(bytes) -> a folder on a file system of that size."""
    mounted = []

    def mount(size: int):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        said = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True,
                              text=True)
        if said.returncode:
            pytest.skip(f"no small disk can be made here: {said.stderr.strip()}")
        mounted.append(folder)
        return folder

    if not shutil.which("mount"):
        pytest.skip("no mount command here")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def submission(path):
    with SubmissionWriter(path) as writer:
        for name in "abc":
            writer.write(name, np.random.default_rng(0).random((256, 256)))


NOISE = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
HISTORY = [{"epoch": i, "train_mse": .1, "val_mse": .1, "val_mse_dense": .1, "lr": 1., "loss_a": .1} for i in (1, 2)]


@pytest.mark.parametrize("write", [
    submission, lambda path: write_image(path, NOISE[..., 0]), lambda path: save_picture(path, NOISE),
    lambda path: save_curves(path, HISTORY), lambda path: checkpoint.save(path, {"a": torch.zeros(50_000)}),
], ids=["submission", "PNG", "samples", "curves", "checkpoint"])
def test_a_full_disk_is_named_with_what_it_lacks_and_the_old_file_stays(small_disk, write):
    disk = small_disk(64 * 1024)
    path = disk / "old.png"
    path.write_bytes(old := b"old " + SOFTWARE)  # as this program writes it
    (disk / "filler").write_bytes(bytes(48 * 1024))
    with pytest.raises(OperationError, match=r"old\.png: cannot be written .* are free; make room") as error:
        write(path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == old and {file.name for file in disk.iterdir()} == {"old.png", "filler"}


def test_a_full_disk_ends_the_caches_but_not_the_work(small_disk, capsys):
    pytest.importorskip("pymatting")
    disk = small_disk(32 * 1024)
    (disk / "filler").write_bytes(bytes(24 * 1024))
    rgb, alpha = scene(128)
    foregrounds = Cache(disk / "foregrounds")
    for _ in range(2):
        foreground = cached_foreground(foregrounds, (disk / "filler",) * 2, rgb, alpha)
        assert np.array_equal(foreground, estimate_foreground(rgb, alpha))
    decoded = DecodedFiles(disk / "decoded", 1e9, [], recipe=None)
    for _ in range(2):
        assert decoded.get([disk / "filler"], lambda: [rgb])[0] is rgb
    left = {str(file.relative_to(disk)) for file in disk.rglob("*") if file.is_file()}
    assert left == {"filler", "decoded/lock"}
    out = capsys.readouterr().out
    assert out.count("\n") == 2 and out.count("no longer used as a cache (the disk is full)") == 2


def test_training_on_a_disk_that_fills_up_keeps_its_last_state(small_disk, pairs_csv):
    disk = small_disk(34_000_000)  # room for one state of 14 MB and the next, not for a third beside them
    arguments = tiny(pairs_csv, disk / "run", "train.save_minutes=1e-6", "train.epochs=1")
    code, _, err = call(train_main, *arguments)
    assert code == 1 and err.count("\n") == 1 and "last.pth: cannot be written" in err, err
    assert "needs more than 1" in err and "MB are free" in err
    state = checkpoint.load(disk / "run/last.pth")
    subprocess.run(["mount", "-o", "remount,size=80m", disk], check=True)
    code, out, err = call(train_main, *arguments)
    assert code == 0 and f"after {state['progress']['batch']} batches" in out, err


def limited(memory: int | None = None, files: int | None = None):
    """Limits for a process that script() starts."""
    def limit():
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    return limit


def test_a_poor_machine_infers_all_the_same(run_dir, tmp_path, monkeypatch):
    """2 GiB of address space, 32 open files, no home, no terminal's language, code and caches read-only, odd paths."""
    place = tmp_path / "mit Leerzeichen, ünïcödé 日本語"
    (place / "images").mkdir(parents=True)
    write_image(place / "images/ein Bild.png", np.resize(NOISE, (1024, 1024, 3))[..., 0])
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = script("src/infer.py", f"infer.images={place}/images", f"infer.weights={run_dir}/best.pth",
                    "infer.size=320", f"infer.submission={place}/submission.csv", "infer.tta=none",
                    preexec_fn=limited(2 * 2**30, 32))
    assert result.returncode == 0, result.stderr
    assert (place / "submission.csv").read_text().splitlines()[1].startswith("ein Bild,")


def test_too_little_memory_to_train_says_what_to_lower(pairs_csv, tmp_path):
    result = script("src/train.py", *tiny(pairs_csv, tmp_path, "augment.crop=2048", "train.batch_size=4"),
                    preexec_fn=limited(3 * 2**30))
    line = one_error_line(result, 1)
    assert "memory is full" in line and "lower train.batch_size, augment.crop" in line


@pytest.mark.parametrize("error, words", [
    (MemoryError(), "memory is full"), (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "infer.size"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "--shm-size"),
    (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "train.workers=0"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "memory is full"),
    (OperationError("a\nb\x1b[2J: c"), r"a\nb\x1b[2J: c"), (KeyboardInterrupt(), "stopped by Ctrl-C")])
def test_what_a_machine_lacks_is_one_line(error, words):
    def fail():
        raise error

    code, _, err = call(fail)
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1) and err.count("\n") == 1 and words in err


def test_another_runtime_error_is_not_hidden():
    with pytest.raises(RuntimeError, match="a bug"):
        cli.run(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_a_short_crash_campaign():
    """What `make crash` does at length."""
    result = script("tests/stress/crash.py", "--tries", "1", "--stages", "train", preexec_fn=lambda: os.nice(5))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "survived" in result.stdout and "0 failures" in result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="signals to a process group, as a terminal's Ctrl-C")
def test_ctrl_c_in_a_download_or_a_check_is_one_line(pairs_csv, tmp_path):
    """Before there is anything to save."""
    hold = f"import sys; sys.path.insert(0, '{ROOT}/src'); from core import cli; import time; " \
           "cli.run(lambda: (print('in', flush=True), time.sleep(60)))"
    process = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "stopped by Ctrl-C\n")
