"""The submissions at Kaggle: list them, send one and never twice, wait for its score.

    from submission.kaggle_submissions import list_submissions, send
    before = list_submissions("titanic")
    new = send("titanic", ["--file", "submission.csv"], "a description", {each.reference for each in before})

The client's exit code proves nothing (an upload that was answered 500 ends with 0; a submission that was registered may
end with 1). The list does: a submission is there when a reference is in it that was not there before.
"""
import csv
import io
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from core.errors import OperationError
from submission.kaggle_client import NO_CREDENTIALS, SILENT, TROUBLE, explain, last_words, read_kaggle, run_kaggle

RECENT = "50"             # submissions looked at, newest first
PAUSES = (3, 10, 30)      # seconds of back-off after each attempt that failed
LOOKS, LOOK_PAUSE = 6, 5  # a submission that Kaggle says it took may be listed some seconds later
PATIENCE = 120            # seconds that Kaggle may take for what was uploaded without a word
POLL = 10                 # seconds between two looks for the score
NOT_SENT = "Could not submit to competition"  # the client's words, with exit code 0, for an upload that failed
ERROR_DESCRIPTION = """
import sys
from kaggle import api
for each in api.competition_submissions(sys.argv[1], page_size=int(sys.argv[2])):
    if str(each.ref) == sys.argv[3]:
        print(each.error_description)
"""


@dataclass(frozen=True)
class Submission:
    reference: str
    time: str                    # UTC, to the second
    file_name: str
    message: str
    status: str                  # pending | complete | error
    public_score: float | None


def page(competition: str) -> str:
    return f"https://www.kaggle.com/competitions/{competition}/submissions"


def list_submissions(competition: str) -> list[Submission]:
    """The account's (or its team's) most recent ones, newest first."""
    return parse_list(read_kaggle("competitions", "submissions", competition, "--csv", "--page-size", RECENT))


def parse_list(text: str) -> list[Submission]:
    """What `kaggle competitions submissions --csv` prints; warnings may stand ahead of the CSV."""
    header = re.search(r"^ref,.*\bstatus\b", text, re.MULTILINE)
    if header is None:
        if "No submissions found" in text:
            return []
        raise OperationError(f"the Kaggle client's list of submissions cannot be read ({text.strip()[:80]!r})")
    return [Submission(row["ref"], row["date"][:19], row["fileName"], row["description"],
                       row["status"].rpartition(".")[2].lower(), _number(row["publicScore"]))
            for row in csv.DictReader(io.StringIO(text[header.start():]))]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # empty or "None" while the score is pending


def remaining_today(competition: str) -> str:
    """How many more may be submitted today, in the client's words; empty where it does not say."""
    try:
        text = read_kaggle("competitions", "submission-limits", competition)
    except OperationError:
        return ""  # it is a courtesy; what matters is still to come
    return "".join(re.findall(r"^Remaining today: (.+)$", text, re.MULTILINE))


def send(competition: str, what: Sequence[str], message: str, known: Iterable[str]) -> Submission:
    """Submits `what` (the client's arguments), again after trouble that passes -> the new submission in the list."""
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
        # Also after a failure, and after the back-off: Kaggle may have registered it before it failed.
        new = _look(competition, message, known, LOOKS if taken else 1)
        if new:
            return new
        if taken or code == SILENT:  # it may be in Kaggle's hands; to try again might submit it twice
            raise OperationError(f"{'Kaggle took it but does not list it' if taken else err}; whether it was submitted "
                                 f"shows on {page(competition)}: look there before you submit again")
        if not passing:
            raise OperationError(explain(out, err))
    raise OperationError(f"nothing was submitted: {len(PAUSES)} attempts failed, try again later "
                         f"({last_words(out, err)})")


def _submit(competition: str, what: Sequence[str], message: str) -> tuple[int, str, str]:
    with tqdm(total=100, desc="upload", bar_format="{l_bar}{bar}| {elapsed}", disable=None, leave=False) as bar:
        return run_kaggle("competitions", "submit", competition, *what, f"--message={message}",
                          patience=PATIENCE, heard=lambda text: _show(bar, text))


def _show(bar: tqdm, text: str) -> None:
    """The upload's bar, from the client's own."""
    shares = re.findall(r"(\d+)%\|", text)
    if shares:
        bar.update(int(shares[-1]) - bar.n)


def _look(competition: str, message: str, known: set[str], looks: int) -> Submission | None:
    """The submission with this message that was not `known`, if one appears; teammates' have another message."""
    for i in range(looks):
        try:
            listed = list_submissions(competition)
        except OperationError as error:
            raise OperationError(f"whether it was submitted is not known, look at {page(competition)} before you "
                                 f"submit again: {error}") from None
        new = [each for each in listed if each.reference not in known and _same(each.message, message)]
        if new:
            return new[0]
        time.sleep(LOOK_PAUSE if i + 1 < looks else 0)


def _same(theirs: str, ours: str) -> bool:
    # Kaggle may shorten a description or change its spaces.
    theirs, ours = " ".join(theirs.split()), " ".join(ours.split())
    return bool(theirs) and ours.startswith(theirs)


def await_end(competition: str, submission: Submission, minutes: float) -> Submission:
    """Waits until it is scored or refused, at most so long -> how it stands then."""
    deadline = time.monotonic() + 60 * minutes
    with tqdm(desc="waiting for the public score", bar_format="{desc}: {elapsed}", disable=None, leave=False) as bar:
        while submission.status == "pending" and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(POLL, left))
            bar.refresh()
            try:
                listed = list_submissions(competition)
            except OperationError:
                continue  # the submission is safe at Kaggle; the network may come back before the deadline
            submission = next((each for each in listed if each.reference == submission.reference), submission)
    return submission


def error_description(competition: str, submission: Submission) -> str:
    """Why Kaggle refused a file; its client's commands leave that out."""
    text = read_kaggle(competition, RECENT, submission.reference, program=ERROR_DESCRIPTION)
    return " ".join(text.split()) or "without a reason"
