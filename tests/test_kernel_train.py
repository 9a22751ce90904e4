"""Training in the kernel: how many processes, by which command, and how it ends, with programs in train.py's place."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import launch
from conftest import ROOT, tiny
from core.config import DEFAULTS
from core.errors import OperationError, Stopped, UserError
from core.files import alone_in
from on_kaggle import training as kernel_train
from on_kaggle.training import best_checkpoint, command, free_before, process_count, run_training, train_to_the_end

# Says when it is ready, then works until SIGTERM, on which it saves, as train.py does.
SAVES = """
import pathlib, signal, sys, time
out_dir = pathlib.Path(sys.argv[-1])
def save(*_):
    (out_dir / "last.pth").touch()
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """program(text) stands in train.py's place."""
    def program(text: str) -> None:
        (tmp_path / "program.py").write_text(text)
        monkeypatch.setattr(kernel_train.train, "__file__", str(tmp_path / "program.py"))
        monkeypatch.setattr(kernel_train, "POLL", 0.02)
    return program


def run(tmp_path: Path, seconds: float = 60, processes: int = 1) -> None:
    run_training(processes, tmp_path / "config.yaml", [str(tmp_path / "run")], tmp_path / "run", seconds)


@pytest.mark.parametrize("wanted, device, gpus, count", [
    ("auto", "cuda", 2, 2), ("auto", "cuda", 1, 1), ("auto", "cpu", 0, 1), (1, "cuda", 2, 1), (2, "cpu", 0, 2)])
def test_one_process_per_gpu_unless_told_otherwise(monkeypatch, capsys, wanted, device, gpus, count):
    monkeypatch.setattr(kernel_train.torch.cuda, "device_count", lambda: gpus)
    assert process_count(wanted, device) == count
    assert ("ONE GPU" in capsys.readouterr().out) == (gpus == 1)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(kernel_train.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"kernel\.processes=3: only 2 GPUs are available"):
        process_count(3, "cuda")


def test_several_processes_are_started_by_the_launcher():
    one, two = (command(count, Path("config.yaml"), ["train.epochs=1"]) for count in (1, 2))
    assert one == [sys.executable, kernel_train.train.__file__, "--config", "config.yaml", "train.epochs=1"]
    assert two[:2] == [sys.executable, kernel_train.launch.__file__] and two[2:5] == ["train", "--gpus", "2"]
    assert two[-3:] == one[-3:]


def test_two_processes_train(pairs_csv, tmp_path, capfd):
    settings = tiny(pairs_csv, tmp_path / "run", "train.epochs=1", "data.limit=2")
    run_training(2, DEFAULTS, settings, tmp_path / "run", 600)
    shown = capfd.readouterr().out
    assert "2 processes on 1 machine(s), gloo" in shown and "epoch 1/1" in shown
    assert best_checkpoint(tmp_path / "run").name == "best.pth"


def test_what_overruns_its_time_is_stopped_and_what_it_saved_is_used(program, tmp_path, monkeypatch, capfd):
    program(SAVES)
    log = tmp_path / "run/train.log"
    monkeypatch.setattr(kernel_train.time, "monotonic", lambda: 61 * (log.exists() and "ready" in log.read_text()))
    run(tmp_path, seconds=60)
    out = capfd.readouterr().out
    assert "ready\nsaved\n" in out and "still running after" in out
    assert best_checkpoint(tmp_path / "run").name == "last.pth"


def test_what_does_not_stop_is_killed(program, tmp_path, monkeypatch):
    program("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(10**6)")
    monkeypatch.setattr(kernel_train, "GRACE", 0.2)
    run(tmp_path, seconds=0.5)
    with pytest.raises(OperationError, match="left no checkpoint"):
        best_checkpoint(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_is_passed_on_once_as_a_request_to_save(program, tmp_path, monkeypatch, capfd, number):
    program(SAVES)
    monkeypatch.setattr(kernel_train.time, "sleep", once_ready(tmp_path / "run/train.log", number))
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"stopped by {number.name}") as stopped:
        run(tmp_path)
    assert stopped.value.exit_code == 128 + number and capfd.readouterr().out.count("saved") == 1
    assert signal.getsignal(number) is before


def once_ready(log: Path, number: int):
    """A sleep that sends this process the signal as soon as the log says `ready`."""
    def sleep(seconds: float, real=time.sleep, sent=[]) -> None:  # noqa: B006
        if not sent and "ready" in log.read_text():
            sent.append(True)
            os.kill(os.getpid(), number)
        real(seconds)
    return sleep


@pytest.mark.parametrize("text, why", [
    ("print('epoch 1'); import sys; sys.exit('error: a.csv line 2: no such file')", "a.csv line 2: no such file"),
    ("raise ValueError('odd')", "ValueError: odd"),
    (f"import sys; sys.exit('error: killed{launch.AGAIN}')", "killed"),
    ("import sys; sys.exit(3)", "no output")],
    ids=["one line", "traceback", "launcher", "nothing"])
def test_a_training_that_fails_says_why(program, tmp_path, capfd, text, why):
    program(text)
    with pytest.raises(OperationError, match=rf"training failed with exit code \d: {re.escape(why)}$"):
        run(tmp_path)
    assert ("epoch 1" in capfd.readouterr().out) == ("epoch" in text)


def test_several_processes_that_fail_say_why_as_well(tmp_path):
    with pytest.raises(UserError, match=r"exit code 2: .*config\.yaml: no such config file"):
        run(tmp_path, processes=2)


# Trains one epoch on each start, then ends as the test says. Arguments: overrides, at last the run folder.
ONE_EPOCH = """
import os, pathlib, signal, sys
out_dir = pathlib.Path(sys.argv[-1])
first = not (out_dir / "best.pth").exists()
print("from the beginning" if first else "resumed", *sys.argv[3:-1], flush=True)
if {saves}:
    (out_dir / "best.pth").touch()
if {fails}:
    {end}
"""
KILLED, FAILED = "os.kill(os.getpid(), signal.SIGKILL)", "sys.exit('error: odd')"


def train_within(seconds: float, tmp_path: Path) -> None:
    out_dir = tmp_path / "run"

    def attempt(more: list[str]) -> None:
        run_training(1, tmp_path / "config.yaml", [*more, str(out_dir)], out_dir, 60)

    train_to_the_end(attempt, out_dir, time.monotonic() + seconds)


@pytest.mark.parametrize("end, reason", [(KILLED, "training was killed by SIGKILL"), (FAILED, "exit code 1: odd")])
@pytest.mark.parametrize("fails, starts", [("True", 2), ("first", 2), ("False", 1)],
                         ids=["always", "once", "never"])
def test_a_training_that_fails_is_started_once_more_and_its_best_epoch_is_used(program, tmp_path, capfd, end, reason,
                                                                               fails, starts):
    program(ONE_EPOCH.format(saves=True, fails=fails, end=end))
    train_within(60, tmp_path)
    out = capfd.readouterr().out
    assert out.count("from the beginning") == 1 and out.count("resumed train.resume=auto") == starts - 1
    assert out.count(reason) == {"True": 2, "first": 1, "False": 0}[fails]
    assert ("training did not finish" in out) == (fails == "True")
    assert best_checkpoint(tmp_path / "run").name == "best.pth"
    assert (tmp_path / "run/train.log").read_text().count("train.resume=auto") == starts - 1


def test_a_training_that_fails_without_a_best_epoch_is_an_error(program, tmp_path):
    program(ONE_EPOCH.format(saves=False, fails=True, end=FAILED))
    with pytest.raises(OperationError, match="exit code 1: odd"):
        train_within(60, tmp_path)


@pytest.mark.parametrize("seconds, end", [(60, "sys.exit(2)"), (0, FAILED)], ids=["wrong input", "no time left"])
def test_what_a_restart_cannot_help_is_not_started_again(program, tmp_path, capfd, seconds, end):
    program(ONE_EPOCH.format(saves=True, fails=True, end=end))
    train_within(seconds, tmp_path)
    out = capfd.readouterr().out
    assert "training did not finish" in out and "resumed" not in out


HOLDS = """
import sys, time
from pathlib import Path
from core.files import alone_in
alone_in(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_restart_waits_for_the_processes_that_a_killed_launcher_leaves(tmp_path, monkeypatch):
    held = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    held.stdout.readline()
    monkeypatch.setattr(kernel_train.time, "sleep", lambda seconds: held.communicate())
    assert not free_before(time.monotonic(), tmp_path)
    assert free_before(time.monotonic() + 60, tmp_path) and held.returncode == 0
    alone_in(tmp_path)
