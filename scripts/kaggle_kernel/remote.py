"""Sends a kernel and its data set to Kaggle and asks about them: one call of the real client per function.

    kernel_status("somebody/dense-alpha-matting")     # -> ("RUNNING", "")

Each raises OperationError, which says what went wrong and what to do.
"""
import json
import re
from dataclasses import dataclass
from pathlib import Path

from core.errors import OperationError
from submission.kaggle_client import API, NO_CREDENTIALS, TROUBLE, explain, last_words, run_kaggle, run_twice
from submission.proxies import proxy_fault

PATIENCE = 120  # seconds that an upload may be silent; Kaggle processes it after the last byte
FAILED = ("ERROR", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED")
ENDED = ("COMPLETE", *FAILED)
# What the client prints about something that does not exist or belongs to another account: Kaggle does not tell which.
ABSENT = re.compile(r"\b40[34]\b|Permission '[\w.]+' was denied|not found", re.IGNORECASE)


@dataclass(frozen=True)
class Dataset:
    status: str   # e.g. ready, failed
    version: int  # from 1


def dataset_state(dataset: str) -> Dataset | None:
    """None: there is no such data set, or it belongs to another account."""
    code, out, err = run_twice("dataset_status", dataset, program=API)
    if code and ABSENT.search(out + err) and not NO_CREDENTIALS.search(out + err):
        return None
    state = json.loads(answer(f"the data set {dataset}", code, out, err))
    return Dataset(state["status"], state["current_version_number"] or 0)


def send_dataset(folder: Path, exists: bool) -> None:
    """Uploads a new data set, or a new version of it. Does not check which of its files arrived."""
    what = ["version", "-m", "kernel.py push"] if exists else ["create"]
    code, out, err = run_kaggle("datasets", *what, "-p", str(folder), patience=PATIENCE)
    if "is being created" not in answer("the data set", code, out, err):
        raise OperationError(f"Kaggle did not accept the data set: {last_words(out, '')}")


def dataset_files(dataset: str) -> dict[str, int]:
    """Names and sizes in bytes of the current version's files."""
    return json.loads(answer(f"the files of {dataset}", *run_twice("dataset_files", dataset, program=API)))


def push_kernel(folder: Path, max_hours: float) -> str:
    """Pushes a kernel -> the new version's number. OperationError also if Kaggle left out some of its sources."""
    arguments = ["kernels", "push", "-p", str(folder), "-t", str(round(max_hours * 3600))]
    out = answer("the push", *run_kaggle(*arguments, patience=PATIENCE))
    wrong = [line for line in out.splitlines() if re.search(r"push error|not valid|could not be added", line)]
    version = re.search(r"Kernel version (\d+) successfully pushed", out)
    if wrong or not version:
        raise OperationError(f"the kernel was not pushed correctly: {(wrong or [last_words(out, '')])[0]}; check "
                             "kaggle.competition, that its rules are accepted, and kernel.owner")
    return version[1]


def kernel_status(kernel: str) -> tuple[str, str]:
    """(QUEUED | RUNNING | COMPLETE | ERROR | CANCEL_…, Kaggle's message about a failure) of the last run."""
    run = json.loads(answer(f"the status of {kernel}", *run_twice("kernel_status", kernel, program=API)))
    return run["status"], run["message"]


def fetch_output(kernel: str, folder: Path) -> None:
    """Downloads log and files of the last run into `folder`. A file may turn out to be an error page."""
    answer(f"the output of {kernel}",
           *run_twice("kernels", "output", kernel, "-p", str(folder), "--force", patience=PATIENCE))


def answer(what: str, code: int, out: str, err: str) -> str:
    """stdout of a call that succeeded, else OperationError."""
    if code == 0:
        return out
    if NO_CREDENTIALS.search(out + err) or TROUBLE.search(err) or proxy_fault(err or out):
        raise OperationError(f"{what}: {explain(out, err)}")
    if ABSENT.search(out + err):
        raise OperationError(f"{what}: does not exist on Kaggle, or your credentials are not its owner's; "
                             "check kernel.owner, kernel.title and kaggle.competition, and that the competition's "
                             f"rules are accepted ({last_words(out, err)})")
    raise OperationError(f"{what}: {last_words(out, err)}")
