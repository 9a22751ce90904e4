"""`kernel.py push` with the real Kaggle client against data sets and kernels on loopback: what it sends and says."""
import json

import cv2
import numpy as np
import pytest

import kernel
from conftest import ROOT, call
from core import checkpoint
from core.config import load_config
from core.errors import OperationError
from fakes.loopback import isolate
from fakes.loopback_kernels import KernelServer
from kaggle_kernel import bundle
from kaggle_kernel import push as kernel_push
from kaggle_kernel import remote as kernel_at_kaggle
from kaggle_kernel.lint import kernel_problems
from submission import kaggle_client
from submission.submission_csv import SubmissionWriter
from u2net import U2Net

NAMES = ["1", "2", "010"]
DATASET = "somebody/dense-alpha-matting-weights"
KERNEL = "somebody/dense-alpha-matting"
CFG = load_config(ROOT / "config.yaml", ["infer.images=images"])
FILES = {"SHA256SUMS", "config.yaml", "weights.pth"}


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    checkpoint.save(path, {"model_state": U2Net().state_dict(), "epoch": 1, "metrics": {}})
    return path


@pytest.fixture
def server():
    with KernelServer() as server:
        yield server


@pytest.fixture
def user(tmp_path, monkeypatch, server, weights, capsys):
    """user(action, …) runs kernel.py in a folder with a built kernel -> (exit code, stdout, error line)."""
    isolate(monkeypatch, tmp_path, server)
    server.isolate(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name, value in {"POLL": 0, "STALE": 0, "LOST": 2}.items():
        monkeypatch.setattr(kernel_push, name, value)
    monkeypatch.setattr(kaggle_client, "PAUSE", 0)
    monkeypatch.setattr(kaggle_client, "PATIENCE", 120)  # on a busy machine the client takes long to start
    (tmp_path / "images").mkdir()
    for name in NAMES:
        cv2.imwrite(f"images/{name}.png", np.zeros((32, 32, 3), np.uint8))
    settings = [f"--config={ROOT / 'config.yaml'}", "kaggle.competition=matting", "infer.images=images",
                f"infer.weights={weights}"]

    def user(action, *overrides):
        code, out, err = call(kernel.main, action, *settings, *overrides)
        errors = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(errors) == (code != 0) and not server.refused
        return code, out, errors[0] if errors else ""

    assert user("build")[0] == 0
    with SubmissionWriter("submission.csv") as writer:
        for name in NAMES:
            writer.write(name, np.zeros((32, 32), np.float32))
    server.output = {"submission.csv": (tmp_path / "submission.csv").read_bytes()}
    server.log = json.dumps([{"stream_name": "stdout", "time": 1.0, "data": f"{line}\n"} for line in (
        f"bundle  {kernel_push.bundle_name(kernel.BUILD)}", *map(str, range(50)), "the last line")])
    return user


def failing(words: str, call, *arguments) -> None:
    with pytest.raises(OperationError) as caught:
        call(*arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_push_creates_the_data_set_follows_the_run_and_fetches_a_valid_submission(user, server, tmp_path):
    server.fail("GetDatasetStatus", 500, method="POST")  # a moment's trouble ends nothing
    server.fail("GetKernelSessionStatus", 503, method="POST")
    code, out, _ = user("push")
    assert code == 0 and "submission.csv: 3 rows, valid" in out and "submits version 1" in out
    assert [line.split(",")[0] for line in out.splitlines() if line.startswith("run ")] == [
        "run     QUEUED", "run     RUNNING", "run     COMPLETE"]
    (version,) = server.datasets[DATASET]
    assert {name: len(body) for name, body in version.items()} == {
        name: (tmp_path / "build/dataset" / name).stat().st_size for name in FILES}
    (sent,) = server.pushes
    assert sent["text"] == (tmp_path / "build/kernel/kernel.py").read_text()
    assert {key: sent.get(key) for key in ("isPrivate", "enableInternet", "enableGpu", "machineShape")} == {
        "isPrivate": True, "enableInternet": False, "enableGpu": True, "machineShape": "NvidiaTeslaT4"}
    assert sent["datasetDataSources"] == [DATASET] and sent["competitionDataSources"] == ["matting"]
    assert sent["sessionTimeoutSeconds"] == 9 * 3600


def test_a_notebook_is_pushed_as_one(user, server):
    user("build", "kernel.format=notebook")
    assert kernel_at_kaggle.push_kernel(kernel.BUILD / "kernel", 9) == "1"
    (sent,) = server.pushes
    cells = json.loads(sent["text"])["cells"]
    assert sent["kernelType"] == "notebook" and "".join(cells[-1]["source"]) == "finish(job)"
    assert f"'bundle': '{kernel_push.bundle_name(kernel.BUILD)}'" in sent["text"]


def test_an_existing_data_set_gets_a_new_version_and_a_file_that_the_client_drops_is_sent_again(user, server, capsys):
    server.datasets[DATASET] = [{"old.pth": b"x"}]
    server.fail("/upload/", 500, method="PUT")
    kernel_push.send_dataset(DATASET, kernel.BUILD / "dataset")
    out = capsys.readouterr().out
    assert "was lost; sending it again" in out and "new version, 3 files verified" in out
    assert [set(version) == FILES for version in server.datasets[DATASET]] == [False, False, True]


def test_a_file_that_never_arrives_stops_the_push_before_the_kernel(user, server, monkeypatch):
    monkeypatch.setattr(kernel_push, "SENDS", 1)
    server.fail("weights.pth", 500, method="PUT", times=9)
    code, _, error = user("push")
    assert code == 1 and "weights.pth did not arrive in full" in error and not server.pushes


@pytest.mark.parametrize("refusal, words", [
    ({"error": "Notebook not found"}, "Kernel push error: Notebook not found"),
    ({"versionNumber": 1, "url": "u", "invalidDatasetSources": [DATASET]}, "not valid dataset sources"),
    ({"versionNumber": 1, "url": "u", "invalidCompetitionSources": ["matting"]}, "not valid competition sources")])
def test_a_push_that_exits_with_0_but_is_none(user, server, refusal, words):
    server.refusal = refusal
    failing(words, kernel_at_kaggle.push_kernel, kernel.BUILD / "kernel", 9)


@pytest.mark.parametrize("left", [True, False], ids=["log", "no log"])
def test_a_failed_run_shows_the_end_of_its_log(user, server, capsys, left):
    server.statuses, server.failure, server.output = ["ERROR"], "Your notebook ran out of memory", {}
    server.log = server.log if left else ""
    failing("ended with ERROR (Your notebook ran out of memory)", kernel_push.finish, CFG, KERNEL, kernel.BUILD)
    out = capsys.readouterr().out
    assert out.endswith("49\nthe last line\n") and "\n20\n" not in out if left else "the run left no log" in out


def test_the_result_of_another_version_is_not_taken_for_this_one(user, server):
    server.statuses, server.log = ["COMPLETE"], server.log.replace("bundle", "bundel")
    failing("of another version", kernel_push.finish, CFG, KERNEL, kernel.BUILD)


@pytest.mark.parametrize("body, words", [
    (b"filename,image_utf\n1,AAAA\n", "line 2 (1): is not a PNG"), (b"<html>error</html>", "the first line must be"),
    (None, "no such CSV"), (b"filename,image_utf\n", "has no rows")])
def test_a_run_without_a_valid_submission_is_no_success(user, body, words):
    (kernel.BUILD / "output").mkdir()
    if body:
        (kernel.BUILD / "output/submission.csv").write_bytes(body)
    failing(words, kernel_push.check, CFG, kernel.BUILD)


@pytest.mark.parametrize("local", ["other.png", None], ids=["another test set", "none"])
def test_a_good_run_counts_whatever_test_set_is_here(user, tmp_path, capsys, local):
    (kernel.BUILD / "output").mkdir()
    (kernel.BUILD / "output/submission.csv").write_bytes((tmp_path / "submission.csv").read_bytes())
    assert kernel_push.check(CFG, kernel.BUILD) == 3
    assert "not compared" not in capsys.readouterr().out
    for name in NAMES:
        (tmp_path / f"images/{name}.png").unlink()
    if local:
        cv2.imwrite(f"images/{local}", np.zeros((8, 8, 3), np.uint8))
    assert kernel_push.check(CFG, kernel.BUILD) == 3
    assert "images does not have the run's test images" in capsys.readouterr().out


def test_slugs_are_those_of_kaggles_client():
    cfg = load_config(ROOT / "config.yaml", ["kernel.title=Prüfung der Straße", "kernel.owner=me"])
    metadata = bundle.kernel_metadata(cfg)
    assert metadata["id"] == "me/prufung-der-strasse"
    assert not [line for line in kernel_problems(metadata, kernel.BUILD / "kernel") if "slug" in line]


@pytest.mark.parametrize("path, fault, words, call", [
    ("GetDatasetStatus", 401, "got no valid credentials", lambda: kernel_at_kaggle.dataset_state(DATASET)),
    ("GetDatasetStatus", 500, "has a problem", lambda: kernel_at_kaggle.dataset_state(DATASET)),
    ("SaveKernel", 401, "got no valid credentials", lambda: kernel_at_kaggle.push_kernel(kernel.BUILD / "kernel", 9)),
    ("SaveKernel", 403, "does not exist on Kaggle", lambda: kernel_at_kaggle.push_kernel(kernel.BUILD / "kernel", 9)),
    ("GetKernelSessionStatus", 401, "credentials are not its owner's", lambda: kernel_at_kaggle.kernel_status(KERNEL)),
    ("GetKernelSessionStatus", 500, "continues on Kaggle", lambda: kernel_push.finish(CFG, KERNEL, kernel.BUILD))])
def test_a_refusal_names_its_remedy(user, server, path, fault, words, call):
    server.datasets[DATASET] = [{}]
    server.fail(path, fault, method="POST", times=9)
    failing(words, call)


def test_without_a_server(user, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    code, _, error = user("push")
    assert code == 1 and "cannot be reached" in error


def test_status_and_output(user, server, tmp_path):
    server.statuses = ["RUNNING"]
    assert "somebody/dense-alpha-matting: RUNNING" in user("status")[1]
    server.statuses = ["COMPLETE"]
    assert "3 rows, valid" in user("output")[1]
    assert (tmp_path / "build/output/dense-alpha-matting.log").exists()


def test_what_kaggle_would_refuse_is_refused_before_anything_is_sent(user, server, monkeypatch):
    monkeypatch.delenv("KAGGLE_USERNAME")
    user("build")
    code, _, error = user("push")
    assert code == 2 and "kernel.owner" in error and not server.requests
