"""outputs/submissions.csv, the local leaderboard: each submission with its run's validation and its public score.

    python src/submit.py history      # sorted, with how well val_mse_dense foretells the public score
"""
import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.files import written_whole
from submission.kaggle_submissions import Submission

PATH = Path("outputs/submissions.csv")
COLUMNS = ["reference", "time", "competition", "run", "epoch", "val_mse", "val_mse_dense", "public_score", "status"]
SINCE = {"competition"}  # columns that older files do not have; they are read as empty
NUMBERS = ["epoch", "val_mse", "val_mse_dense", "public_score"]  # or empty
ENOUGH = 3  # scored submissions from which on a rank correlation means something


def read() -> list[dict[str, str]]:
    """The rows, oldest first; none where nothing was submitted yet."""
    if not PATH.exists():
        return []
    try:
        with PATH.open(newline="", encoding="utf-8") as file:
            rows = [{**dict.fromkeys(SINCE, ""), **row} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{PATH}: cannot be read as a CSV ({error})") from None
    for line, row in enumerate(rows, 2):
        try:
            well_formed = (row.keys() == set(COLUMNS) and None not in row.values()
                           and all(np.isfinite(float(row[name] or 0)) for name in NUMBERS))
        except (TypeError, ValueError):
            well_formed = False
        if not well_formed:
            raise UserError(f"{PATH} line {line}: must be {','.join(COLUMNS)}; mend or remove this line")
    return rows


def record(submission: Submission, competition: str, run: dict[str, str]) -> None:
    """Appends a new submission; `run` has the columns run, epoch, val_mse and val_mse_dense, as far as known."""
    _write([*read(), {**dict.fromkeys(COLUMNS, ""), **run, **_columns(submission), "time": submission.time,
                      "competition": competition}])


def update(submissions: Iterable[Submission]) -> None:
    """Takes over the scores of recorded submissions that have come since."""
    news = {each.reference: _columns(each) for each in submissions}
    rows = read()
    updated = [row | news.get(row["reference"], {}) for row in rows]
    if updated != rows:
        _write(updated)


def _columns(submission: Submission) -> dict[str, str]:
    score = submission.public_score
    return {"reference": submission.reference, "status": submission.status,
            "public_score": "" if score is None else str(score)}


def _write(rows: list[dict]) -> None:
    with written_whole(PATH, known=True) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def ranked(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The best public score first (it is an error: the lowest), those without one last, in order of time."""
    return sorted(rows, key=lambda row: (row["public_score"] == "", float(row["public_score"] or 0), row["time"]))


def table(rows: list[dict[str, str]]) -> str:
    """The rows as aligned text."""
    lines = [COLUMNS, *([row[name] or "–" for name in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def rank_correlation(rows: list[dict[str, str]]) -> tuple[float | None, int]:
    """Spearman's between val_mse_dense and the public score, over the rows that have both -> (value, their number).

    None with fewer than ENOUGH of them, or where one of the two is the same in all.
    """
    pairs = np.array([(float(row["val_mse_dense"]), float(row["public_score"])) for row in rows
                      if row["val_mse_dense"] and row["public_score"]]).reshape(-1, 2)
    ranks = [_ranks(column) for column in pairs.T]
    if len(pairs) < ENOUGH or any(np.ptp(rank) == 0 for rank in ranks):
        return None, len(pairs)
    return float(np.corrcoef(*ranks)[0, 1]), len(pairs)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
