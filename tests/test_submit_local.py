"""What submit.py does with no Kaggle in reach: the list that the client prints, the local leaderboard, validation."""
import numpy as np
import pytest

from conftest import ROOT, one_error_line, script
from core.config import load_config
from core.errors import OperationError, UserError
from submission import leaderboard
from submission.kaggle_submissions import Submission, parse_list
from submission.submission_csv import SubmissionWriter
from submit import validated

LIST = ('Warning: a new version is available\nref,fileName,date,description,status,publicScore,privateScore\r\n'
        '12,submission.csv,2026-01-02 03:04:05.600000,"two\nlines, quoted",SubmissionStatus.COMPLETE,0.0100,\r\n'
        '11,submission.csv,2026-01-01 03:04:05,first,SubmissionStatus.PENDING,None,None\r\n')


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submitted(reference: int, dense: str, score: float | None, status: str = "complete") -> None:
    submission = Submission(str(reference), f"2026-01-0{reference} 00:00:00", "submission.csv", "", status, score)
    leaderboard.record(submission, "matting", {"run": "trial", "epoch": "3", "val_mse": "0.1", "val_mse_dense": dense})


def test_the_clients_list_is_read_past_its_warnings():
    second, first = parse_list(LIST)
    assert second == Submission("12", "2026-01-02 03:04:05", "submission.csv", "two\nlines, quoted", "complete", 0.01)
    assert (first.reference, first.status, first.public_score) == ("11", "pending", None)
    assert parse_list("Warning: old\nNo submissions found\n") == []
    with pytest.raises(OperationError, match="list of submissions cannot be read"):
        parse_list("<html>Quota exceeded</html>")


def test_history_is_sorted_and_says_how_well_validation_foretells_the_score(folder):
    for reference, dense, score in ((1, "0.03", 0.05), (2, "0.01", 0.02), (3, "0.02", 0.07), (4, "0.04", 0.08)):
        submitted(reference, dense, score)
    submitted(5, "0.005", None, "pending")
    result = script("src/submit.py", "history", "--config", str(ROOT / "config.yaml"), cwd=folder)
    header, *rows, last = result.stdout.splitlines()
    assert result.returncode == 0 and header.split() == leaderboard.COLUMNS
    assert [row.split()[0] for row in rows] == ["2", "1", "3", "4", "5"] and rows[-1].endswith("–             pending")
    assert last == "rank correlation of val_mse_dense and the public score: +0.80 over 4 submissions"


def test_a_leaderboard_from_before_it_named_competitions(folder):
    submitted(1, "0.03", 0.05)
    text = leaderboard.PATH.read_text().replace("competition,", "").replace("matting,", "")
    leaderboard.PATH.write_text(text)
    submitted(2, "0.01", 0.02)
    assert [(row["reference"], row["competition"]) for row in leaderboard.read()] == [("1", ""), ("2", "matting")]
    leaderboard.PATH.write_text(leaderboard.PATH.read_text().replace("matting", "another"))
    result = script("src/submit.py", "history", "--config", str(ROOT / "config.yaml"), "kaggle.competition=matting",
                    cwd=folder)
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["1"]


def test_nothing_to_rank_and_a_broken_leaderboard(folder):
    assert leaderboard.read() == []
    submitted(1, "0.03", 0.05)
    submitted(2, "", 0.02)
    assert leaderboard.rank_correlation(leaderboard.read()) == (None, 1)
    leaderboard.PATH.write_text(leaderboard.PATH.read_text() + "3,yesterday\n")
    result = script("src/submit.py", "history", "--config", str(ROOT / "config.yaml"), cwd=folder)
    assert "outputs/submissions.csv line 4: must be reference,time" in one_error_line(result, 2)


def test_scores_are_taken_over_for_what_was_recorded_only():
    submitted(1, "0.03", None, "pending")
    leaderboard.update([Submission(str(i), "", "", "", "complete", 0.5) for i in (1, 2)])
    assert [(row["reference"], row["public_score"]) for row in leaderboard.read()] == [("1", "0.5")]


def test_equal_values_share_their_ranks():
    rows = [{"val_mse_dense": dense, "public_score": score} for dense, score in (("1", "1"), ("1", "2"), ("2", "3"))]
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
