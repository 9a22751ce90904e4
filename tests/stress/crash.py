"""Kills the pipeline's commands at random moments (kill -9, one time in four Ctrl-C), runs them again, and compares
with an undisturbed run: bit for bit the same result, no damaged file under its final name in between, no
process left over.

    python tests/stress/crash.py --tries 100                   # make crash ARGS="--tries 100"
    python tests/stress/crash.py --tries 5 --stages train      # each try: a new folder, killed one to three times

The commands run in forks of this process, which has already loaded the libraries, so that kills hit the work itself.
"""
import contextlib
import hashlib
import json
import multiprocessing.util
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[2] / folder) for folder in ("src", "scripts", "tests"))

import huggingface_hub
import torch
import yaml

import get_data
import infer
import kernel
import train
from conftest import ROOT, tiny, write_pairs
from core import checkpoint, cli
from core.errors import OperationError
from fakes.loopback_hub import HubServer
from imaging.images import read_rgb
from imaging.pairs import _read_rows, read_pair
from sources import magick  # noqa: F401 (loaded here, not in each fork)
from sources import synthetic as synthetic_set  # noqa: F401
from submission.submission_csv import read_alphas
from test_data_magick import data_set

VOLATILE = ("seconds", "images_per_s", "config")  # times, and settings that name the folder


@dataclass
class Stage:
    main: Callable[[], None]
    arguments: list[str]     # run in its own folder
    results: tuple[str, ...]  # patterns of the result's files
    given: tuple[Path, ...] = ()  # copied into that folder before the first call


def stages(material: Path) -> dict[str, Stage]:
    """Small versions of the pipeline's commands; fills the folder `material` with their inputs."""
    pairs = write_pairs(material / "pairs", 4, 64)
    options = [f"--config={ROOT}/config.yaml", *tiny(pairs, Path("run"), "train.epochs=2", "train.save_minutes=1e-6")]
    perform(Stage(train.main, [*options, "train.epochs=1"], ()), material)
    images = material / "images"
    images.mkdir()
    for i in range(6):
        shutil.copy(material / "pairs/rgb_0.png", images / f"{i}.png")
    trained = [f"--config={ROOT}/config.yaml", f"infer.weights={material}/run/best.pth", f"data.root={material}"]
    data = [f"--config={ROOT}/config.yaml", "data.root=data"]
    return {
        "data": Stage(get_data.main, [*data, "data.source=magick", "data.magick.limit=5", "data.magick.workers=2"],
                      ("data/magick/images/*", "data/magick/alphas/*", "data/splits/*")),
        "synthetic": Stage(get_data.main, [*data, "data.source=synthetic", "data.synthetic.train=6",
                           "data.synthetic.val=2", "data.synthetic.test=1", "data.synthetic.size=64"],
                           ("data/synthetic/**/*.*", "data/splits/*", "data/test_dataset/**/*.*")),
        "train": Stage(train.main, options, ("run/*.pth", "run/*.csv", "run/*.json", "run/*.png", "run/samples/*")),
        "train with a worker": Stage(train.main, [*options, "train.workers=1", "train.ema=0.9"],
                                     ("run/*.pth", "run/*.csv", "run/*.json", "run/*.png", "run/samples/*")),
        "infer": Stage(infer.main, [*trained, "infer.weights=best.pth", f"infer.images={images}",
                                    "infer.submission=out/submission.csv", "infer.png_dir=out/png"],
                       ("out/*.csv", "out/png/*"), (material / "run/best.pth",)),
        "kernel": Stage(kernel.main, ["build", *trained, "kernel.owner=somebody"], ("build/**/*.*",)),
    }


def start(stage: Stage, folder: Path) -> int:
    """Runs the command in a fork with its own process group -> process id. Its output goes to folder.log."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
        os.setsid()
        os.chdir(folder)
        log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["script.py", *stage.arguments]
        cli.run(stage.main)
        sys.stdout.flush()
        os._exit(0)
    except SystemExit as end:
        sys.stdout.flush()
        multiprocessing.util._exit_function()  # as at the end of any Python process
        os._exit(end.code)
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(70)


def until_end(child: int, most: float = float("inf"), number: int = signal.SIGKILL) -> tuple[int, float]:
    """Waits for a fork to end; sends it a signal after `most` CPU seconds -> (exit code, its CPU seconds).

    CPU time rather than clock time: so the signal hits the command's work however busy the machine is.
    """
    clock, spent = ~child << 3 | 2, 0.0  # Linux's name of that process's CPU clock
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), spent
        with contextlib.suppress(OSError):
            spent = time.clock_gettime(clock)
        if spent >= most:
            most = float("inf")
            os.kill(child, number) if number == signal.SIGKILL else os.killpg(child, number)
        time.sleep(0.004)


def perform(stage: Stage, folder: Path) -> float:
    """Runs the command to its end -> CPU seconds. SystemExit with its log if it fails."""
    make_place(stage, folder)
    code, seconds = until_end(start(stage, folder))
    if code:
        sys.exit(f"{folder}: exit code {code}\n{Path(f'{folder}.log').read_text(errors='replace')}")
    return seconds


def make_place(stage: Stage, folder: Path) -> None:
    if not folder.exists():
        folder.mkdir()
        for path in stage.given:
            shutil.copy(path, folder)


def digests(stage: Stage, folder: Path) -> dict[str, str]:
    """{file: hash of the content that must not depend on interruptions}."""
    files = sorted({path for pattern in stage.results for path in folder.glob(pattern)
                    if path.is_file() and not path.name.startswith(".")})
    return {str(path.relative_to(folder)): digest(path) for path in files if path.name != "last.prev.pth"}


def digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".pth" and path.parent.name != "dataset":
        content = repr([(key, value.numpy().tobytes() if torch.is_tensor(value) else value)
                        for key, value in leaves(checkpoint.load(path))]).encode()
    elif path.name == "metrics.csv":
        rows = [line.split(",") for line in path.read_text().splitlines()]
        keep = [i for i, name in enumerate(rows[0]) if name not in VOLATILE]
        content = repr([[row[i] for i in keep] for row in rows]).encode()
    return hashlib.sha256(content).hexdigest()


def leaves(value: object, key: str = ""):
    if isinstance(value, dict | list | tuple):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if name not in VOLATILE:
                yield from leaves(inner, f"{key}/{name}")
    else:
        yield key, value


def damaged(stage: Stage, folder: Path) -> list[str]:
    """Files under their final names that cannot be read in full; at any moment, each is a failure."""
    found = []
    for name in digests_of_names(stage, folder):
        path = folder / name
        try:
            if path.suffix == ".pth":
                checkpoint.load(path)
            elif path.name in ("submission.csv", "solution.csv"):
                for _ in read_alphas(path):
                    pass
            elif path.parent.name == "splits":
                for pair in _read_rows(path):
                    read_pair(pair)
            elif path.suffix in (".png", ".jpg"):
                read_rgb(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".yaml":
                yaml.safe_load(path.read_text())
            elif path.name == "kernel.py":
                compile(path.read_text(), str(path), "exec")
        except Exception as error:
            found.append(f"{name}: {error}")
    return found


def digests_of_names(stage: Stage, folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for pattern in stage.results for path in folder.glob(pattern)
                  if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts))


def left_over(group: int, patience: float) -> bool:
    """Whether processes of a killed command are still running after `patience` seconds; then ends them."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    return True


@dataclass
class Tally:
    tries: int = 0
    kills: int = 0
    interrupts: int = 0
    resumed: int = 0   # runs that said they resumed within an epoch
    failures: tuple = ()


def campaign(stage: Stage, folder: Path, tries: int, rng: random.Random) -> Tally:
    """Kills the stage's command in `tries` new folders and compares the final results."""
    seconds = perform(stage, folder / "whole")
    expected, tally = digests(stage, folder / "whole"), Tally()
    assert expected, "the command has no result"
    while tally.tries < tries:
        place = folder / f"{tally.tries}"
        make_place(stage, place)
        log = Path(f"{place}.log")
        for _ in range(rng.randint(1, 3)):
            number = signal.SIGINT if rng.random() < 0.25 else signal.SIGKILL
            size = log.stat().st_size if log.exists() else 0
            child = start(stage, place)
            code, _ = until_end(child, rng.uniform(0, seconds), number)
            tally.kills += code == -signal.SIGKILL
            tally.interrupts += code == 130
            if code not in (0, -signal.SIGKILL, 130) or b"Traceback" in log.read_bytes()[size:]:
                tally.failures += (f"{place.name}: {number.name} ended with {code}: {log.read_bytes()[size:][-300:]}",)
            tally.failures += tuple(f"{place.name}: damaged {what}" for what in damaged(stage, place))
            if left_over(child, patience=15):
                tally.failures += (f"{place.name}: processes were left over",)
        perform(stage, place)
        found = digests(stage, place)
        if found != expected:
            differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            tally.failures += (f"{place.name}: differs from the undisturbed run: {', '.join(differing)}",)
        leftovers = [path.name for path in place.rglob(".*.part*")]
        if leftovers:
            tally.failures += (f"{place.name}: left behind {', '.join(leftovers)}",)
        said = log.read_text(errors="replace")
        tally.resumed += sum("after 0 batches" not in line for line in said.splitlines() if "resumed from" in line)
        tally.tries += 1
        if not any(line.startswith(f"{place.name}:") for line in tally.failures):
            shutil.rmtree(place)
            log.unlink()
    return tally


def main() -> None:
    args = cli.parse(__doc__, options={
        "tries": (20, "new folders, over all stages"), "seed": (0, "seed of the moments"),
        "stages": ("", "only these, joined by commas; default: all")})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="crash-") as name, hub():
        folder = Path(name)
        chosen = {stage: what for stage, what in stages(folder / "material").items()
                  if not args.stages or stage in args.stages.split(",")}
        rng, failures, kills = random.Random(args.seed), [], 0
        for i, (stage, what) in enumerate(chosen.items()):
            started = time.monotonic()
            tries = args.tries // len(chosen) + (i < args.tries % len(chosen))
            (folder / stage).mkdir()
            tally = campaign(what, folder / stage, tries, rng)
            failures += [f"{stage}: {failure}" for failure in tally.failures]
            kills += tally.kills
            print(f"{stage:20} {tally.kills:4} kills and {tally.interrupts} interrupts in {tally.tries} folders, "
                  f"{tally.resumed} times resumed within an epoch, "
                  f"{len(tally.failures)} failures, {time.monotonic() - started:.0f} s", flush=True)
        for failure in failures:
            print(failure)
        if failures:
            raise OperationError(f"{len(failures)} failures after {kills} kills")
        print(f"survived {kills} kills")


@contextlib.contextmanager
def hub():
    """A hub on loopback in its own process; all clients in this process use it."""
    receiver, sender = os.pipe()
    server = os.fork()
    if not server:
        with HubServer(data_set(5)) as hub:
            os.write(sender, hub.url.encode())
            os.close(sender)
            signal.pause()
    os.close(sender)
    url = os.read(receiver, 100).decode()
    huggingface_hub.constants.ENDPOINT = url
    huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    try:
        yield
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


if __name__ == "__main__":
    cli.run(main)
