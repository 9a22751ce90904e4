"""What Kaggle is told and asked about a kernel and its data set: one call of the real client each.

    kernel_status("somebody/dense-alpha-matting")     # -> ("RUNNING", "")

Each raises OperationError with what went wrong and the remedy.
"""
import csv
import io
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from core.errors import OperationError
from submission import kaggle_client
from submission.kaggle_client import NO_CREDENTIALS, TROUBLE, explain, last_words, run_kaggle
from submission.proxies import proxy_fault

PATIENCE = 120  # seconds without a sign of life that an upload may take; Kaggle works on it after the last byte
FAILED = ("ERROR", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED")
ENDED = ("COMPLETE", *FAILED)
# How the client says that something is not there, or not this account's: Kaggle answers the same to both.
ABSENT = re.compile(r"\b40[34]\b|Permission '[\w.]+' was denied|not found", re.IGNORECASE)


@dataclass(frozen=True)
class Dataset:
    status: str   # e.g. ready, failed
    version: int  # from 1


def dataset_state(dataset: str) -> Dataset | None:
    """None: there is no such data set (or not for this account)."""
    code, out, err = ask("datasets", "status", dataset, "--format", "json")
    if code and ABSENT.search(out + err) and not NO_CREDENTIALS.search(out + err):
        return None
    text = answer(f"the data set {dataset}", code, out, err)
    try:
        values = json.loads(text[text.index("{"):])  # warnings may come first
        return Dataset(values["status"], int(values["current_version_number"] or 0))
    except (ValueError, KeyError, TypeError):
        raise OperationError(f"the status of {dataset} is not understood: {last_words(out, err)}") from None


def send_dataset(folder: Path, exists: bool) -> None:
    """A new data set, or a new version of it; which of its files arrived is another question."""
    what = ["version", "-m", "kernel.py push"] if exists else ["create"]
    code, out, err = run_kaggle("datasets", *what, "-p", str(folder), patience=PATIENCE)
    if "is being created" not in answer("the data set", code, out, err):
        raise OperationError(f"the data set was not taken: {last_words(out, '')}")


def dataset_files(dataset: str) -> dict[str, int]:
    """Names and sizes in bytes of the current version's files."""
    text = answer(f"the files of {dataset}", *ask("datasets", "files", dataset, "--csv", "--page-size", "200"))
    table = text[max(0, text.find("name,")):]  # warnings may come first
    return {row["name"]: int(row["size"]) for row in csv.DictReader(io.StringIO(table)) if row.get("size")}


def push_kernel(folder: Path, max_hours: float) -> str:
    """-> the new version's number. A push with an error line, or without some of its sources, is none."""
    arguments = ["kernels", "push", "-p", str(folder), "-t", str(round(max_hours * 3600))]
    out = answer("the push", *run_kaggle(*arguments, patience=PATIENCE))
    wrong = [line for line in out.splitlines() if re.search(r"push error|not valid|could not be added", line)]
    version = re.search(r"Kernel version (\d+) successfully pushed", out)
    if wrong or not version:
        raise OperationError(f"the kernel was not pushed as it should be: {(wrong or [last_words(out, '')])[0]}; check "
                             "kaggle.competition, that its rules are accepted, and kernel.owner")
    return version[1]


def kernel_status(kernel: str) -> tuple[str, str]:
    """(QUEUED | RUNNING | COMPLETE | ERROR | CANCEL_…, Kaggle's message about a failure) of the last run."""
    out = answer(f"the status of {kernel}", *ask("kernels", "status", kernel))
    status, message = re.search(r'status "(?:\w+\.)?(\w+)"', out), re.search(r'Failure message: "(.*)"', out)
    if not status:
        raise OperationError(f"the status of {kernel} is not understood: {last_words(out, '')}")
    return status[1].upper(), message[1] if message else ""


def fetch_output(kernel: str, folder: Path) -> None:
    """Log and files of the last run into `folder`; an error page may come as a file's content."""
    answer(f"the output of {kernel}",
           *ask("kernels", "output", kernel, "-p", str(folder), "--force", patience=PATIENCE))


def ask(*arguments: str, **how) -> tuple[int, str, str]:
    """run_kaggle() of a call that changes nothing, made again where Kaggle was in trouble for a moment."""
    for attempt in range(1, kaggle_client.TRIES + 1):
        code, out, err = run_kaggle(*arguments, **how)
        if code == 0 or attempt == kaggle_client.TRIES or "no answer" in err or not TROUBLE.search(err):
            return code, out, err
        time.sleep(kaggle_client.PAUSE)


def answer(what: str, code: int, out: str, err: str) -> str:
    """stdout of a call that ended well, else OperationError."""
    if code == 0:
        return out
    if NO_CREDENTIALS.search(out + err) or TROUBLE.search(err) or proxy_fault(err or out):
        raise OperationError(f"{what}: {explain(out, err)}")
    if ABSENT.search(out + err):
        raise OperationError(f"{what}: Kaggle denies it: it does not exist, or the credentials are not its owner's; "
                             "check kernel.owner, kernel.title and kaggle.competition, and that the competition's "
                             f"rules are accepted ({last_words(out, err)})")
    raise OperationError(f"{what}: {last_words(out, err)}")
