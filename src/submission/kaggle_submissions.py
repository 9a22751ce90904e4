"""The submissions on Kaggle: lists them, sends one (never twice), waits for its score.

    from submission.kaggle_submissions import list_submissions, send
    before = list_submissions("titanic")
    new = send("titanic", ["--file", "submission.csv"], "a description", {each.reference for each in before})

The client's exit code proves nothing: a failed upload can exit with 0, a registered submission with 1. A submission
counts as received when a new reference appears in Kaggle's list.
"""
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from core.errors import OperationError
from submission.kaggle_client import NO_CREDENTIALS, SILENT, TROUBLE, ask_kaggle, explain, last_words, run_kaggle

PAUSES = (3, 10, 30)      # seconds of back-off after each failed attempt
LOOKS, LOOK_PAUSE = 6, 5  # how often, and every how many seconds, to look for an accepted submission in the list
PATIENCE = 120            # seconds that Kaggle may stay silent after the upload
POLL = 10                 # seconds between two checks for the score
NOT_SENT = "Could not submit to competition"  # what the client prints after a failed upload, with exit code 0


@dataclass(frozen=True)
class Submission:
    reference: str
    time: str                    # UTC, to the second
    file_name: str
    message: str
    status: str                  # pending | complete | error
    public_score: float | None
    error: str = ""              # why Kaggle could not score it


def page(competition: str) -> str:
    return f"https://www.kaggle.com/competitions/{competition}/submissions"


def list_submissions(competition: str) -> list[Submission]:
    """The account's (or its team's) most recent ones, newest first."""
    return [Submission(**{**each, "public_score": _number(each["public_score"])})
            for each in ask_kaggle("submissions", competition)]


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None  # empty or "None" while the score is pending


def remaining_today(competition: str) -> str:
    """How many more submissions are allowed today; empty if Kaggle does not say."""
    try:
        limits = ask_kaggle("limits", competition)
    except OperationError:
        return ""  # only information: the upload still follows
    return f"{limits['left']}{' (lifetime limit)' if limits['by_total'] else ''}"


def send(competition: str, what: Sequence[str], message: str, known: Iterable[str]) -> Submission:
    """Submits `what` (the client's arguments), trying again after passing failures -> the new submission."""
    known = set(known)
    for pause in PAUSES:
        code, out, err = _submit(competition, what, message)
        if NO_CREDENTIALS.search(out + err):
            raise OperationError(explain(out, err))
        taken = code == 0 and NOT_SENT not in out
        passing = not taken and (code == 0 or TROUBLE.search(err))
        if passing:
            print(f"upload failed ({last_words(out, err)}); checking in {pause} s whether Kaggle received it anyway",
                  flush=True)
            time.sleep(pause)
        # Also after a failed attempt: Kaggle may have registered the submission before it failed.
        new = _look(competition, message, known, LOOKS if taken else 1)
        if new:
            return new
        if taken or code == SILENT:  # Kaggle may have it: another attempt could submit it twice
            raise OperationError(f"{'Kaggle accepted it but does not list it' if taken else err}; check on "
                                 f"{page(competition)} whether it arrived before you submit again")
        if not passing:
            raise OperationError(explain(out, err))
    raise OperationError(f"nothing was submitted: {len(PAUSES)} attempts failed, try again later "
                         f"({last_words(out, err)})")


def _submit(competition: str, what: Sequence[str], message: str) -> tuple[int, str, str]:
    with tqdm(total=100, desc="upload", bar_format="{l_bar}{bar}| {elapsed}", disable=None, leave=False) as bar:
        return run_kaggle("competitions", "submit", competition, *what, f"--message={message}",
                          patience=PATIENCE, heard=lambda text: _show(bar, text))


def _show(bar: tqdm, text: str) -> None:
    """Moves the upload's bar to where the client's own is."""
    shares = re.findall(r"(\d+)%\|", text)
    if shares:
        bar.update(int(shares[-1]) - bar.n)


def _look(competition: str, message: str, known: set[str], looks: int) -> Submission | None:
    """The submission with this message that was not `known`, if one appears. A teammate's has another message."""
    for i in range(looks):
        try:
            listed = list_submissions(competition)
        except OperationError as error:
            raise OperationError(f"the list of submissions cannot be read ({error}); check on {page(competition)} "
                                 "whether yours arrived before you submit again") from None
        new = [each for each in listed if each.reference not in known and _same(each.message, message)]
        if new:
            return new[0]
        time.sleep(LOOK_PAUSE if i + 1 < looks else 0)


def _same(theirs: str, ours: str) -> bool:
    # Kaggle may shorten a message or change its spaces.
    theirs, ours = " ".join(theirs.split()), " ".join(ours.split())
    return bool(theirs) and ours.startswith(theirs)


def await_end(competition: str, submission: Submission, minutes: float) -> Submission:
    """Waits at most `minutes` until it is scored or refused -> its latest state."""
    deadline = time.monotonic() + 60 * minutes
    with tqdm(desc="waiting for the public score", bar_format="{desc}: {elapsed}", disable=None, leave=False) as bar:
        while submission.status == "pending" and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(POLL, left))
            bar.refresh()
            try:
                listed = list_submissions(competition)
            except OperationError:
                continue  # Kaggle has the submission; the network may come back before the deadline
            submission = next((each for each in listed if each.reference == submission.reference), submission)
    return submission
