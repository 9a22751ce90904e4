"""Pushes data set and kernel to Kaggle and fetches the run's result. The client's exit code 0 is not success, so each
step is confirmed by what Kaggle lists afterwards.

    python scripts/kernel.py push kaggle.competition=<slug>
"""
import json
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from core.config import Config
from core.errors import OperationError, UserError
from core.files import written_folder
from imaging.images import list_images, read_shapes
from kaggle_kernel import remote as kaggle
from kaggle_kernel.budget import bundle_name, check_time
from kaggle_kernel.bundle import TITLE_LINE
from kaggle_kernel.lint import problems
from kaggle_kernel.remote import Dataset
from submission.check import validate
from submission.submission_csv import read_rows

POLL = 15             # seconds between two checks
READY = 20 * 60       # seconds that a data set may take to become ready
QUEUE = 2 * 3600      # seconds that a run may be queued
STALE = 180           # seconds for which Kaggle may still show the previous run
LOST = 4              # failed checks in a row after which it stops following a run
SENDS = 2             # attempts to send a data set, since the client silently loses files
TAIL = 30             # lines shown of a failed run's log


def push(cfg: Config, build: Path) -> None:
    """Sends the contents of `build`, follows the run, fetches and validates its submission.csv."""
    found = problems(build / "kernel", build / "dataset")
    if found:
        more = f" (and {len(found) - 1} more; `make kernel-build` lists them)" if found[1:] else ""
        raise UserError(f"{found[0]}{more}")
    if cfg.kernel.mode == "infer":  # a training stops early enough to infer
        check_time(cfg, build)
    kernel, dataset = names(build)
    send_dataset(dataset, build / "dataset")
    version = kaggle.push_kernel(build / "kernel", cfg.kernel.max_hours)
    print(f"kernel  {kernel}: version {version} pushed, https://www.kaggle.com/code/{kernel}", flush=True)
    finish(cfg, kernel, build)
    print(f'`make submit ARGS="kaggle.kernel={kernel}"` submits version {version} to a code competition')


def finish(cfg: Config, kernel: str, build: Path) -> None:
    """Waits for the run, leaves its valid submission.csv in build/output/. OperationError if there is none."""
    status = follow(kernel, build, cfg.kernel.max_hours * 3600 + QUEUE)
    if status in kaggle.FAILED:
        failed(kernel, status, build)
    print(f"{build}/output/submission.csv: {check(cfg, build)} rows, valid")


def show_status(cfg: Config, build: Path) -> None:
    kernel, _ = names(build)
    status, message = kaggle.kernel_status(kernel)
    print(f"{kernel}: {status}{f' ({message})' if message else ''}")


def show_output(cfg: Config, build: Path) -> None:
    kernel, _ = names(build)
    fetch(kernel, build)
    status, _ = kaggle.kernel_status(kernel)
    if status in kaggle.FAILED:
        failed(kernel, status, build)
    print(f"{build}/output/submission.csv: {check(cfg, build)} rows, valid")


def send_dataset(dataset: str, folder: Path) -> None:
    """Creates the data set or a new version of it; returns when it is ready and has every file in full."""
    files = {path.name: path.stat().st_size for path in folder.iterdir() if not path.name.endswith("-metadata.json")}
    for attempt in range(1, SENDS + 1):
        before = kaggle.dataset_state(dataset)
        kaggle.send_dataset(folder, exists=before is not None)
        wait_ready(dataset, before)
        there = kaggle.dataset_files(dataset)
        lost = sorted(name for name, size in files.items() if there.get(name) != size)
        if not lost:
            kind = "new version" if before else "new"
            print(f"dataset {dataset}: {kind}, {len(files)} files verified, ready", flush=True)
            return
        if attempt < SENDS:
            print(f"dataset {dataset}: the upload of {', '.join(lost)} was lost; sending it again", flush=True)
    raise OperationError(f"{dataset}: {', '.join(lost)} did not arrive in full in {SENDS} attempts; the kernel was not "
                         "pushed; try again later")


def wait_ready(dataset: str, before: Dataset | None) -> None:
    """Waits until Kaggle has processed a version newer than `before`."""
    deadline = time.monotonic() + READY
    while True:
        state = kaggle.dataset_state(dataset)
        if state and state.version > (before.version if before else 0):
            if state.status == "ready":
                return
            if state.status in ("failed", "deleted"):
                raise OperationError(f"{dataset}: Kaggle could not process it ({state.status}); see "
                                     f"https://www.kaggle.com/datasets/{dataset}")
        if time.monotonic() > deadline:
            raise OperationError(f"{dataset}: not ready after {READY // 60} minutes; the kernel was not pushed")
        time.sleep(POLL)


def follow(kernel: str, build: Path, limit: float) -> str:
    """Waits until the run just pushed has ended and its output is in build/output/ -> its status."""
    started, silent, shown = time.monotonic(), 0, "not seen yet"
    with tqdm(bar_format="{desc}  {elapsed}", disable=None, leave=False) as line:
        while (waited := time.monotonic() - started) < limit:
            try:
                status, _ = kaggle.kernel_status(kernel)
                silent = 0
            except OperationError as error:
                silent += 1
                if silent == LOST:
                    raise OperationError(f"{error}; the run continues on Kaggle: check it with `python "
                                         "scripts/kernel.py status`, then fetch it with `output`") from None
                status = shown
            if status != shown:
                tqdm.write(f"run     {status}, after {waited:.0f} s")
                line.set_description_str(f"{kernel} {status}")
                shown = status
            line.refresh()
            if status in kaggle.ENDED:
                log = fetch(kernel, build)
                if TITLE_LINE + bundle_name(build) in log or (status in kaggle.FAILED and waited >= STALE):
                    return status
                if waited >= STALE:
                    raise OperationError(f"{kernel}: the finished run is of another version than the one just pushed; "
                                         "see its page, then run `python scripts/kernel.py output`")
            time.sleep(POLL)
    raise OperationError(f"{kernel}: still {shown} after {limit / 3600:.1f} h; check it with `python scripts/kernel.py "
                         "status`")


def fetch(kernel: str, build: Path) -> str:
    """Replaces build/output/ by the log and files of the kernel's last run -> the log's text."""
    folder = build / "output"
    log = folder / f"{kernel.split('/')[1]}.log"
    fetched = log.exists()  # by an older version of this script, which kept no list of its files
    with written_folder(folder, lambda name: fetched) as part:
        kaggle.fetch_output(kernel, part)
    return log_text(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else ""


def log_text(log: str) -> str:
    """The text of Kaggle's log, a JSON list of {stream_name, time, data}."""
    try:
        return "".join(piece["data"] for piece in json.loads(log))
    except (ValueError, TypeError, KeyError):
        return log


def failed(kernel: str, status: str, build: Path) -> None:
    """Shows the end of the log and raises."""
    path = build / "output" / f"{kernel.split('/')[1]}.log"
    text = log_text(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else ""
    print("\n".join(["the end of its log:", *text.splitlines()[-TAIL:]]) if text else "the run left no log", flush=True)
    message = kaggle.kernel_status(kernel)[1]
    raise OperationError(f"{kernel}: the run ended with {status}{f' ({message})' if message else ''}; log: {path}")


def check(cfg: Config, build: Path) -> int:
    """Checks the fetched submission, against the local test images if the run had the same -> rows.

    The run itself has checked it against the images on Kaggle, which may have other names and sizes.
    """
    path = build / "output/submission.csv"
    try:
        own = [name for _, name, _ in read_rows(path)]
        shapes = local_shapes(cfg, own)
        if shapes is None:
            print(f"note    {cfg.infer.images} does not have the run's test images, so sizes are not compared")
        rows = validate(path, own if shapes is None else list(shapes), shapes)
    except UserError as error:
        raise OperationError(f"the run left no valid submission: {error}") from None
    if rows == 0:
        raise OperationError(f"the run left no valid submission: {path} has no rows")
    return rows


def local_shapes(cfg: Config, names: Sequence[str]) -> dict[str, tuple[int, int]] | None:
    """(H,W) by name of the local test images; None if the run had others."""
    try:
        paths, _ = list_images(cfg.infer.images)
        return read_shapes(paths) if {path.stem for path in paths} == set(names) else None
    except UserError:  # no such folder, no images in it, or an unreadable one
        return None


def names(build: Path) -> tuple[str, str]:
    """owner/slug of the built kernel and of its data set."""
    try:
        return tuple(json.loads((build / kind / f"{kind}-metadata.json").read_text(encoding="utf-8"))["id"]
                     for kind in ("kernel", "dataset"))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: is not built yet; run `make kernel-build`") from None
