"""`submit.py upload` with the real Kaggle client against a Kaggle on loopback: what it sends and what it says."""
import base64
import csv
import io
import json
import os
from types import SimpleNamespace

import pytest
from PIL import Image

import submit
from conftest import ROOT, call
from core import checkpoint
from core.errors import OperationError
from fakes.loopback import Reply, isolate
from fakes.loopback_kaggle import JSON, RPC, KaggleServer
from submission import kaggle_client, kaggle_submissions
from submission.kaggle_submissions import Submission, list_submissions

SERVICE, KERNELS = "competitions.CompetitionApiService", "kernels.KernelsApiService"
NAMES = ["1", "2", "010"]
METRICS = {"epoch": 3, "val_mse": 0.12, "val_mse_dense": 0.0123456}


def png(mode: str = "L") -> str:
    file = io.BytesIO()
    Image.new(mode, (32, 32)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write_submission(path, modes=("L", "L", "L")) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{name},{png(mode)}\n" for name, mode in zip(NAMES, modes, strict=True)]
    path.write_text("filename,image_utf\n" + "".join(rows))


@pytest.fixture
def server():
    with KaggleServer() as server:
        server.submissions["matting"] = []
        yield server


@pytest.fixture
def user(tmp_path, monkeypatch, server, capsys):
    """user(*arguments) runs submit.py in a folder with a finished run -> (exit code, stdout, stderr)."""
    isolate(monkeypatch, tmp_path, server)
    server.isolate(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kaggle_client, "PAUSE", 0)
    monkeypatch.setattr(kaggle_client, "PATIENCE", 120)  # on a busy machine the client takes long to start
    monkeypatch.setattr(kaggle_submissions, "PAUSES", (0, 0))
    monkeypatch.setattr(kaggle_submissions, "POLL", 0.1)
    monkeypatch.setattr(kaggle_submissions, "LOOKS", 1)
    for name in NAMES:
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / f"images/{name}.png")
    run = tmp_path / "outputs/trial"
    checkpoint.save(run / "best.pth", {"model_state": {}, "epoch": 3, "metrics": METRICS})
    write_submission(run / "submission.csv")
    settings = ["train.out_dir=outputs/trial", "infer.images=images", "kaggle.competition=matting"]

    def user(action, *more):
        arguments = ["--config", str(ROOT / "config.yaml"), action, *settings, *more]
        code, out, err = call(submit.main, *arguments)
        assert "secret" not in out + err and not server.refused
        assert err.count("error:") == (code != 0)
        return code, out, err
    return user


def recorded() -> list[dict]:
    with open("outputs/submissions.csv", newline="") as file:
        return list(csv.DictReader(file))


def nothing_submitted(server) -> bool:
    return not server.submissions.get("matting") and not os.path.exists("outputs/submissions.csv")


def test_a_file_goes_up_and_its_score_comes_down(user, server, monkeypatch):
    server.pending = 1
    monkeypatch.setattr(submit, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    code, out, _ = user("upload")
    assert code == 0, out
    sent = server.submissions["matting"]
    assert [each["fileName"] for each in sent] == ["submission.csv"]
    with open("outputs/trial/submission.csv", "rb") as file:
        body = file.read()
    assert list(server.uploads.values()) == [body]
    assert f"3 rows, {len(body):,} bytes" in out and f"with the message '{sent[0]['description']}'" in out
    assert sent[0]["description"].startswith("trial, epoch 3, val_mse_dense 0.0123456")
    assert "submissions left today: 5" in out and "public score of 1001: 0.01234" in out
    assert recorded() == [{"reference": "1001", "time": "2026-01-02 03:04:41", "competition": "matting",
                           "run": "trial", "predicts": "", "epoch": "3", "val_mse": "0.12",
                           "val_mse_dense": "0.0123456",
                           "public_score": "0.01234", "status": "complete"}]


def test_the_list_of_submissions_is_read_despite_warnings(user, server, monkeypatch):
    first = {"ref": 11, "fileName": "submission.csv", "date": "2026-01-01T03:04:05Z", "description": "first",
             "status": "PENDING"}
    second = first | {"ref": 12, "date": "2026-01-02T03:04:05.600Z", "description": "two\nlines, \"quoted\"",
                      "status": "COMPLETE", "publicScore": "0.0100"}
    for listed in ([second, first], []):
        reply = Reply(200, json.dumps({"submissions": listed}).encode(), {**JSON, "X-Kaggle-APIVersion": "99.0.0"})
        monkeypatch.setitem(RPC, f"{SERVICE}/ListSubmissions", lambda server, request, reply=reply: reply)
        found = list_submissions("matting")
        assert [each.reference for each in found] == [str(each["ref"]) for each in listed]
        if listed:
            assert found[0] == Submission("12", "2026-01-02 03:04:05", "submission.csv", "two\nlines, \"quoted\"",
                                          "complete", 0.01)
            assert (found[1].status, found[1].public_score) == ("pending", None)
    monkeypatch.setitem(RPC, f"{SERVICE}/ListSubmissions", lambda server, request: Reply(200, b"<html>Quota</html>"))
    with pytest.raises(OperationError, match="Kaggle refused the request"):
        list_submissions("matting")


def test_a_score_that_does_not_come_is_taken_up_later(user, server):
    server.pending = 1000
    code, out, _ = user("upload", "kaggle.wait=0.01", "kaggle.message=mine")
    assert code == 0 and "score of 1001 is still pending after 0.01 minutes" in out
    assert [(row["public_score"], row["status"]) for row in recorded()] == [("", "pending")]
    server.submissions["matting"][0]["looks"] = 0
    code, out, _ = user("wait")
    assert code == 0 and "public score of 1001: 0.01234" in out
    assert [(row["public_score"], row["status"]) for row in recorded()] == [("0.01234", "complete")]


def test_a_file_that_kaggle_cannot_score(user, server):
    server.verdict = {"status": "ERROR", "errorDescription": "Image 010 has the wrong size."}
    code, _, err = user("upload")
    assert code == 1 and "could not score submission 1001: Image 010 has the wrong size." in err
    assert [(row["public_score"], row["status"]) for row in recorded()] == [("", "error")]


@pytest.mark.parametrize("path, fault, method, uploads, creations", [
    ("/upload/", 500, "PUT", 2, 1),
    ("/upload/", 503, "PUT", 2, 1),
    ("/upload/", "cut", "PUT", 2, 1),
    ("StartSubmissionUpload", 502, "POST", 1, 1),
    ("CreateSubmission", 500, "POST", 2, 2),
    ("CreateSubmission", "lost", "POST", 1, 1),
    ("CreateSubmission", "drop", "POST", 1, 1),
])
def test_trouble_that_passes_ends_in_one_submission(user, server, path, fault, method, uploads, creations):
    server.fail(path, fault, method=method)
    code, out, err = user("upload")
    assert code == 0 and "public score of 1001: 0.01234" in out, err
    assert (server.calls("/upload/"), server.calls("CreateSubmission")) == (uploads, creations)
    assert len(server.submissions["matting"]) == len(recorded()) == 1
    assert ("upload failed" in out) == (fault != "cut")  # the client itself survives a break of the upload


def test_trouble_that_stays(user, server):
    server.fail("/upload/", 500, times=9, method="PUT")
    code, _, err = user("upload")
    assert code == 1 and "nothing was submitted: 2 attempts failed, try again later" in err
    assert server.calls("/upload/") == 2 and nothing_submitted(server)


def test_silence_is_not_answered_by_another_attempt(user, server, monkeypatch):
    monkeypatch.setattr(kaggle_submissions, "PATIENCE", 3)
    monkeypatch.setitem(RPC, f"{SERVICE}/CreateSubmission", lambda server, request: server.wait(60))
    code, _, err = user("upload")
    assert code == 1 and "stalled for 3 s; check on https://www.kaggle.com/" in err
    assert server.calls("CreateSubmission") == 1 and not os.path.exists("outputs/submissions.csv")


def test_a_code_competition_gets_the_version_of_a_kernel(user, server, monkeypatch):
    def kernel(status):
        monkeypatch.setitem(RPC, f"{KERNELS}/GetKernelSessionStatus", lambda server, request: {"status": status})

    monkeypatch.setitem(RPC, f"{KERNELS}/GetKernel", lambda server, request: {"metadata": {"currentVersionNumber": 7}})
    kernel("RUNNING")
    code, _, err = user("upload", "kaggle.kernel=somebody/matting")
    assert code == 1 and "is not complete (RUNNING); nothing was submitted" in err and nothing_submitted(server)
    kernel("COMPLETE")
    code, out, err = user("upload", "kaggle.kernel=somebody/matting")
    assert code == 0 and "somebody/matting: version 7 of the kernel" in out, err
    request = json.loads(next(each.body for each in server.requests if "CreateCodeSubmission" in each.path))
    assert (request["kernelOwner"], request["kernelSlug"], request["kernelVersion"]) == ("somebody", "matting", 7)
    assert server.calls("Upload") == 0 and recorded()[0]["public_score"] == "0.01234"


def test_a_submission_that_is_never_listed_is_no_success(user, server, monkeypatch):
    monkeypatch.setattr(kaggle_submissions, "_same", lambda theirs, ours: False)
    code, _, err = user("upload")
    assert code == 1 and "does not list it" in err
    assert "competitions/matting/submissions whether it arrived before you submit again" in err
    assert server.calls("CreateSubmission") == 1 and not os.path.exists("outputs/submissions.csv")


def test_what_is_wrong_before_anything_is_sent(user, server, monkeypatch):
    code, _, err = user("upload", "kaggle.competition=mating")
    assert code == 1 and "Kaggle found nothing of that name; compare kaggle.competition" in err
    server.closed = ("matting",)
    code, _, err = user("upload")
    assert code == 1 and "accept the competition's rules on its Rules page" in err
    server.fail("ListSubmissions", 401, method="POST")
    code, _, err = user("upload")
    assert code == 1 and "Kaggle got no valid credentials" in err
    assert server.calls("StartSubmissionUpload") == 0 and nothing_submitted(server)
    monkeypatch.delenv("KAGGLE_KEY")
    code, _, err = user("upload")
    assert code == 1 and "create a token at https://www.kaggle.com/settings/api" in err
    assert server.calls("") == 3


def test_an_invalid_file_is_not_sent(user, server, tmp_path):
    write_submission(tmp_path / "outputs/trial/submission.csv", ("L", "L", "RGB"))
    code, _, err = user("upload")
    assert code == 2 and "submission.csv line 4 (010): is not an 8-bit single-channel PNG (8 bit, RGB)" in err
    assert "nothing was sent" in err
    code, _, err = user("upload", "kaggle.competition=null")
    assert code == 2 and "kaggle.competition is not set" in err
    assert not server.requests and nothing_submitted(server)


def test_no_kaggle_at_all(user, server):
    server.__exit__()
    code, _, err = user("upload")
    assert code == 1 and "cannot be reached" in err and nothing_submitted(server)
