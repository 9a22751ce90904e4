"""outputs/submissions.csv, the local leaderboard: each submission with its run's validation and its public score.

    python src/submit.py history      # sorted, with the rank correlation of val_mse_dense and the public score
"""
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import UserError, brief
from core.files import written_whole
from submission.kaggle_submissions import Submission

if TYPE_CHECKING:  # a second to import, which `validate` and `score` need not wait for
    import pandas as pd

PATH = Path("outputs/submissions.csv")
COLUMNS = ["reference", "time", "competition", "run", "predicts", "epoch", "val_mse", "val_mse_dense", "public_score",
           "status"]
NEWER = {"competition", "predicts"}  # not in older files; read as empty
NUMBERS = ["epoch", "val_mse", "val_mse_dense", "public_score"]  # may be empty
ENOUGH = 3  # scored submissions needed for a rank correlation


def read() -> "pd.DataFrame":
    """COLUMNS as text, oldest submission first; no rows if nothing was submitted yet."""
    import pandas as pd

    if not PATH.exists() or PATH.stat().st_size == 0:
        return pd.DataFrame(columns=COLUMNS, dtype=str)
    try:
        rows = pd.read_csv(PATH, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' parser errors, and UnicodeDecodeError
        raise UserError(f"{PATH}: cannot be read as a CSV ({brief(error)})") from None
    line = first_bad_line(rows)
    if line:
        raise UserError(f"{PATH} line {line}: must be {','.join(COLUMNS)}; fix or delete this line")
    return rows.reindex(columns=COLUMNS, fill_value="")


def first_bad_line(rows: "pd.DataFrame") -> int | None:
    if {*rows.columns} | NEWER != {*COLUMNS}:
        return 1
    numbers = rows[NUMBERS]
    well_formed = (numbers.eq("") | np.isfinite(as_numbers(numbers))).all(axis=1) & rows["status"].ne("")
    return None if well_formed.all() else int(np.argmin(well_formed)) + 2


def as_numbers(texts: "pd.DataFrame") -> "pd.DataFrame":
    """NaN for what is not a number."""
    import pandas as pd

    return texts.apply(pd.to_numeric, errors="coerce").astype(float)


def record(submission: Submission, competition: str, run: dict[str, str]) -> None:
    """Appends a new submission; `run`: of run_numbers()."""
    row = {**run, **_columns(submission), "time": submission.time, "competition": competition}
    rows = read()
    rows.loc[len(rows)] = [row.get(name, "") for name in COLUMNS]
    _write(rows)


def update(submissions: Iterable[Submission]) -> None:
    """Copies new scores and statuses into the recorded submissions."""
    before = read()
    rows = before.copy()
    for each in submissions:
        for name, value in _columns(each).items():
            rows.loc[rows["reference"] == each.reference, name] = value
    if not rows.equals(before):
        _write(rows)


def _columns(submission: Submission) -> dict[str, str]:
    score = submission.public_score
    return {"reference": submission.reference, "status": submission.status,
            "public_score": "" if score is None else str(score)}


def _write(rows: "pd.DataFrame") -> None:
    with written_whole(PATH, known=True) as part:
        rows.to_csv(part, index=False, lineterminator="\n", encoding="utf-8")


def ranked(rows: "pd.DataFrame") -> "pd.DataFrame":
    """By public score, lowest (best) first; those without one last, by time."""
    scores = as_numbers(rows[["public_score"]])["public_score"]
    return rows.assign(score=scores).sort_values(["score", "time"], na_position="last")[COLUMNS]


def table(rows: "pd.DataFrame") -> str:
    """The rows as aligned text."""
    lines = [COLUMNS, *rows.replace("", "–").to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def rank_correlation(rows: "pd.DataFrame") -> tuple[float | None, int]:
    """Spearman's between val_mse_dense and the public score, over the rows that have both -> (value, their number).

    None with fewer than ENOUGH of them, or if one of the two is the same in all.
    """
    pairs = as_numbers(rows[["val_mse_dense", "public_score"]]).dropna()
    if len(pairs) < ENOUGH or (pairs.nunique() == 1).any():
        return None, len(pairs)
    return float(pairs.corr("spearman").iloc[0, 1]), len(pairs)
