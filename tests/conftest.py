"""Shared by the tests: a small set of pairs, a trained run folder, and the reference pictures if present."""
import contextlib
import csv
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import settings

from core import cli
from core.files import CLAIMS

settings.register_profile("patient", deadline=None)  # a busy machine must not fail a test
settings.load_profile("patient")
ROOT = Path(__file__).resolve().parent.parent
SRC, SCRIPTS, TESTS = ROOT / "src", ROOT / "scripts", ROOT / "tests"
SHARED = ROOT.parent / "shared"
for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS"):  # from the `make test` that runs us, not for makes under test
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "real").is_dir():
        pytest.skip("no ../shared: the research-only reference pictures are not part of the repository")
    return SHARED


def scene(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A textured disc with a soft edge on a gradient: rgb (size,size,3) uint8, alpha (size,size) float32."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    cx, cy, radius = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65), rng.uniform(0.2, 0.3)
    alpha = np.clip((radius - np.hypot(x - cx, y - cy)) * size / 6 + 0.5, 0, 1).astype(np.float32)
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (size, size, 3)).astype(np.float32), (0, 0), 1.5)
    background = np.stack([x, y, 1 - x], 2) * 200 + 30
    rgb = alpha[..., None] * texture + (1 - alpha[..., None]) * background
    return np.rint(np.clip(rgb, 0, 255)).astype(np.uint8), alpha


def write_pairs(folder: Path, count: int, size: int, first_seed: int = 0) -> Path:
    """`count` scenes as PNG and their pairs CSV -> its path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        rgb, alpha = scene(size, first_seed + i)
        cv2.imwrite(str(folder / f"rgb_{i}.png"), rgb[..., ::-1])
        cv2.imwrite(str(folder / f"alpha_{i}.png"), np.rint(alpha * 255).astype(np.uint8))
        rows.append((f"rgb_{i}.png", f"alpha_{i}.png"))
    return write_csv(folder / "pairs.csv", rows)


def write_csv(path: Path, rows, header=("image_path", "alpha_path")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="session")
def pairs_csv(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), 4, 64)


def tiny(pairs_csv: Path, out_dir: Path, *more: str) -> list[str]:
    """Overrides of a training that takes about a second per epoch."""
    return [f"data.train_csv={pairs_csv}", f"data.val_csv={pairs_csv}", f"train.out_dir={out_dir}", "augment.crop=64",
            "infer.size=64", "infer.backend=torch", "model.weights=null", "train.epochs=2", "train.batch_size=2",
            "train.workers=0", "train.lr=1e-3", "train.samples=2", *more]


def script(name: str, *arguments: str, cwd: Path = ROOT, **options) -> subprocess.CompletedProcess:
    """Runs a script of the project as a user would, in a process of its own. Only where that is tested: see call()."""
    return subprocess.run([sys.executable, ROOT / name, *arguments], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, "PYTHONUNBUFFERED": "1"}, **options)


class Outcome(NamedTuple):
    """How a command ended, with subprocess's names."""
    returncode: int
    stdout: str
    stderr: str


def call(main, *arguments, cwd: Path | str = ".") -> Outcome:
    """Runs a script's main() in this process as a command would: what its child processes print is part of the output,
    and its locks end with it. No new process, whose imports would take seconds."""
    code, claims = 0, set(CLAIMS)
    with printed() as outputs, contextlib.chdir(cwd), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        try:
            cli.run(main)
        except SystemExit as end:
            code = end.code
        finally:
            for name in CLAIMS.keys() - claims:
                CLAIMS.pop(name).close()
    outcome = Outcome(code, *outputs)
    assert "Traceback" not in outcome.stderr, outcome.stderr
    return outcome


def fresh(program: str, *arguments, path: Sequence[Path] = (SRC, SCRIPTS)) -> Outcome:
    """Runs a program in a fork of this process that has not imported any module of ours yet, with `path` in place of
    the tests' own. The packages are imported already, which would take a new process seconds."""
    with printed() as outputs:
        child = os.fork()
        if not child:
            os._exit(first_imported(program, arguments, path))
        status = os.waitpid(child, 0)[1]
    return Outcome(os.waitstatus_to_exitcode(status), *outputs)


def first_imported(program: str, arguments: Sequence, path: Sequence[Path]) -> int:
    """In the fork -> the program's exit code."""
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith((f"{SRC}/", f"{SCRIPTS}/")):
            del sys.modules[name]
    sys.modules["__main__"] = main = ModuleType("__main__")
    sys.path = [*map(str, path), *(place for place in sys.path if Path(place) not in (ROOT, SRC, SCRIPTS, TESTS))]
    sys.argv = ["-c", *map(str, arguments)]
    try:
        exec(compile(program, "<program>", "exec"), vars(main))
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


@contextlib.contextmanager
def printed():
    """-> a list that will hold what this process and its children have printed to stdout and stderr."""
    outputs = []
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            with redirected(1, "stdout", out), redirected(2, "stderr", err):
                yield outputs
        finally:
            for file in (out, err):
                file.seek(0)
                outputs.append(file.read().decode())


@contextlib.contextmanager
def redirected(number: int, name: str, file):
    """Sends a standard stream to a file: both Python's object and the system's."""
    getattr(sys, name).flush()
    kept = os.dup(number)
    os.dup2(file.fileno(), number)
    with open(number, "w", encoding="utf-8", closefd=False) as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, name, stream)
        try:
            yield
        finally:
            stream.flush()
            os.dup2(kept, number)
            os.close(kept)


@contextlib.contextmanager
def files_of_at_most(size: int):
    """In here no file can grow beyond `size` bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def one_error_line(result: subprocess.CompletedProcess | Outcome, exit_code: int) -> str:
    """The error line of a failed command, after checking that it is the only one and that there is no traceback."""
    assert result.returncode == exit_code, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory, pairs_csv) -> Path:
    """The folder of a finished training run."""
    from train import main  # here: stress/crash.py, which imports this file, needs no torch
    out_dir = tmp_path_factory.mktemp("run")
    result = call(main, *tiny(pairs_csv, out_dir))
    assert result.returncode == 0, result.stderr
    return out_dir


@pytest.fixture
def start():
    """start(command, …) is subprocess.Popen; what still runs when the test ends, as after a failure, is killed."""
    processes = []

    def start(*arguments, **options) -> subprocess.Popen:
        processes.append(subprocess.Popen(*arguments, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def wait_for(path, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def signal_handlers_stay():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
