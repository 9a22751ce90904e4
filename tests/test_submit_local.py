"""What submit.py does without Kaggle: the local leaderboard, validation."""
import numpy as np
import pandas as pd
import pytest

from conftest import ROOT, call, one_error_line
from core.config import load_config
from core.errors import UserError
from submission import leaderboard
from submission.kaggle_submissions import Submission
from submission.submission_csv import SubmissionWriter
from submit import main as submit_main
from submit import validated


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submitted(reference: int, dense: str, score: float | None, status: str = "complete") -> None:
    submission = Submission(str(reference), f"2026-01-0{reference} 00:00:00", "submission.csv", "", status, score)
    leaderboard.record(submission, "matting", {"run": "trial", "epoch": "3", "val_mse": "0.1", "val_mse_dense": dense})


def test_history_is_sorted_and_says_how_well_validation_predicts_the_score(folder):
    for reference, dense, score in ((1, "0.03", 0.05), (2, "0.01", 0.02), (3, "0.02", 0.07), (4, "0.04", 0.08)):
        submitted(reference, dense, score)
    submitted(5, "0.005", None, "pending")
    result = call(submit_main, "history", "--config", str(ROOT / "config.yaml"), cwd=folder)
    header, *rows, last = result.stdout.splitlines()
    assert result.returncode == 0 and header.split() == leaderboard.COLUMNS
    assert [row.split()[0] for row in rows] == ["2", "1", "3", "4", "5"] and rows[-1].endswith("–             pending")
    assert last == "rank correlation of val_mse_dense and the public score: +0.80 over 4 submissions"


def test_a_leaderboard_from_before_it_named_competitions(folder):
    submitted(1, "0.03", 0.05)
    text = leaderboard.PATH.read_text().replace("competition,", "").replace("matting,", "")
    leaderboard.PATH.write_text(text)
    submitted(2, "0.01", 0.02)
    assert leaderboard.read()[["reference", "competition"]].values.tolist() == [["1", ""], ["2", "matting"]]
    leaderboard.PATH.write_text(leaderboard.PATH.read_text().replace("matting", "another"))
    result = call(submit_main, "history", "--config", str(ROOT / "config.yaml"), "kaggle.competition=matting",
                    cwd=folder)
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["1"]


def test_nothing_to_rank_and_a_broken_leaderboard(folder):
    assert leaderboard.read().empty
    submitted(1, "0.03", 0.05)
    submitted(2, "", 0.02)
    assert leaderboard.rank_correlation(leaderboard.read()) == (None, 1)
    leaderboard.PATH.write_text(leaderboard.PATH.read_text() + "3,yesterday\n")
    result = call(submit_main, "history", "--config", str(ROOT / "config.yaml"), cwd=folder)
    assert "outputs/submissions.csv line 4: must be reference,time" in one_error_line(result, 2)


@pytest.mark.parametrize("row, words", [
    ("3,t,,trial,,three,,,,complete", "line 3: must be"), ("3,t,,trial,,3,,inf,,complete", "line 3: must be"),
    ("3,t,,trial,,3,,,,complete,more", "in line 3, saw 11"), ("3,t,,trial", "line 3: must be")])
def test_the_bad_line_of_a_leaderboard_is_named(row, words):
    submitted(1, "0.03", 0.05)
    leaderboard.PATH.write_text(leaderboard.PATH.read_text() + row + "\n")
    with pytest.raises(UserError, match=words):
        leaderboard.read()


def test_the_bytes_of_the_leaderboard():
    submitted(1, "0.0100", 0.05)
    leaderboard.record(Submission("2", "t", "submission.csv", "", "pending", None), "matting", {"run": 'a,"b"'})
    assert leaderboard.PATH.read_bytes() == (
        b"reference,time,competition,run,predicts,epoch,val_mse,val_mse_dense,public_score,status\n"
        b"1,2026-01-01 00:00:00,matting,trial,,3,0.1,0.0100,0.05,complete\n"
        b'2,t,matting,"a,""b""",,,,,,pending\n')
    before = leaderboard.PATH.read_bytes()
    leaderboard.update([Submission("2", "t", "submission.csv", "", "pending", None)])
    assert leaderboard.PATH.read_bytes() == before


def test_scores_are_taken_over_for_what_was_recorded_only():
    submitted(1, "0.03", None, "pending")
    leaderboard.update([Submission(str(i), "", "", "", "complete", 0.5) for i in (1, 2)])
    assert leaderboard.read()[["reference", "public_score"]].values.tolist() == [["1", "0.5"]]


def test_equal_values_share_their_ranks():
    rows = pd.DataFrame({"val_mse_dense": ["1", "1", "2"], "public_score": ["1", "2", "3"]})
    value, count = leaderboard.rank_correlation(rows)
    assert value == pytest.approx(np.sqrt(3) / 2) and count == 3


def test_without_the_test_folder_the_sample_submission_names_the_rows(folder):
    (folder / "sample.csv").write_text("filename,image_utf\na,\nb,\n")
    cfg = load_config(ROOT / "config.yaml", ["data.sample_submission=sample.csv", "infer.submission=mine.csv"])
    with SubmissionWriter("mine.csv") as writer:
        for name in "ab":
            writer.write(name, np.zeros((1024, 1024), np.float32))
    assert validated(cfg) == 2
    (folder / "sample.csv").write_text("filename,image_utf\na,\n")
    with pytest.raises(UserError, match="line 3: b is not a test image"):
        validated(cfg)
