"""Source competition with the real Kaggle client against a Kaggle on loopback, and what is wrong with archives."""
import io
import os
import zipfile
import zlib

import pytest
from PIL import Image

from conftest import ROOT
from core.config import load_config
from core.errors import OperationError, UserError
from fakes.loopback import isolate
from fakes.loopback_kaggle import KaggleServer
from sources import archive, competition
from submission import kaggle_client


def png(side: int = 1024, shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side), shade).save(file, "PNG")
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as content:
        for name, body in files.items():
            content.writestr(name, body)
    return file.getvalue()


TEST_SET = {f"data/test/orig_1024/{name}.png": png(shade=int(name)) for name in ("1", "2", "010")}
SAMPLE = {"data/example_submission.csv": b"filename,image_utf\n2,\n010,\n1,\n"}
ARCHIVE = zipped({**TEST_SET, **SAMPLE, "data/test/small/1.png": png(64), "data/__MACOSX/._1.png": b"x"})


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """fetch(server) runs the source into tmp_path/data, with credentials, for a network of `server` alone."""
    def fetch(server, without=()):
        isolate(monkeypatch, tmp_path, server)
        server.isolate(monkeypatch)
        monkeypatch.setattr(kaggle_client, "PAUSE", 0)
        for name in without:
            monkeypatch.delenv(name)
        overrides = [f"data.root={tmp_path}/data", "kaggle.competition=matting"]
        return competition.fetch(load_config(ROOT / "config.yaml", overrides))
    return fetch


def refused(fetch, server, words: str, error=OperationError, **options) -> None:
    with pytest.raises(error, match=words) as caught:
        fetch(server, **options)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    assert not server.refused


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_test_images_and_sample_are_found_and_the_download_is_not_repeated(fetch, tmp_path, capsys):
    with KaggleServer({"matting": ARCHIVE}) as server:
        assert fetch(server) == {"train": [], "val": []}
        written = (tmp_path / "data/competition/matting.zip").stat().st_ctime_ns
        fetch(server)
        assert (tmp_path / "data/competition/matting.zip").stat().st_ctime_ns == written
    assert names(tmp_path / "data/test_dataset/orig_1024") == ["010.png", "1.png", "2.png"]
    assert (tmp_path / "data/test_dataset/example_submission.csv").read_bytes() == SAMPLE["data/example_submission.csv"]
    assert "3 test images, with example_submission.csv; no training pairs" in capsys.readouterr().out


def test_training_pairs_are_picked_up(fetch, tmp_path):
    pairs = {f"train/{i}.png": png(64) for i in range(6)}
    table = "image_path,alpha_path\n" + "".join(f"{i}.png,{i}.png\n" for i in range(6))
    with KaggleServer({"matting": zipped({**TEST_SET, **pairs, "train/pairs.csv": table.encode()})}) as server:
        split = fetch(server)
    assert len(split["train"] + split["val"]) == 6 and split["train"] and split["val"]
    assert all(path.is_file() for side in split.values() for pair in side for path in pair)


def test_images_of_another_test_set_are_never_lost(fetch, tmp_path):
    (tmp_path / "data/test_dataset/orig_1024").mkdir(parents=True)
    (tmp_path / "data/test_dataset/orig_1024/mine.png").write_bytes(b"x")
    with KaggleServer({"matting": ARCHIVE}) as server:
        refused(fetch, server, "mine.png: does not belong to this competition", UserError)
    assert names(tmp_path / "data/test_dataset/orig_1024") == ["mine.png"]


def test_an_archive_without_test_images_lists_what_is_there(fetch):
    files = {"a/1.png": png(), "b/1.png": png(), "small/1.png": png(64)}
    with KaggleServer({"matting": zipped(files)}) as server:
        refused(fetch, server, r"cannot tell .*: a \(1\), b \(1\);")


def test_without_a_slug(tmp_path):
    with pytest.raises(UserError, match=r"kaggle.competition is not set.*SOURCE=synthetic"):
        competition.fetch(load_config(ROOT / "config.yaml", [f"data.root={tmp_path}"]))


def test_without_credentials(fetch):
    with KaggleServer({"matting": ARCHIVE}) as server:
        refused(fetch, server, "no valid credentials.*https://www.kaggle.com/settings/api.*KAGGLE_API_TOKEN",
                without=("KAGGLE_USERNAME", "KAGGLE_KEY"))
        assert not server.requests  # it was not even asked


def test_rules_not_accepted_and_unknown_slug(fetch):
    with KaggleServer({}, closed=("matting",)) as server:
        refused(fetch, server, "Kaggle refused the request: accept the competition's rules.*"
                "must accept this competition's rules")
        server.closed = ()
        refused(fetch, server, "nothing of that name; compare kaggle.competition")


@pytest.mark.parametrize("fault, words", [
    (401, "no valid credentials"), (403, "accept the competition's rules"), (404, "nothing of that name"),
])
def test_a_refusal(fetch, tmp_path, fault, words):
    with KaggleServer({"matting": ARCHIVE}) as server:
        server.fail("DownloadDataFiles", fault, method="POST")
        refused(fetch, server, words)
    assert names(tmp_path / "data/competition") == []


@pytest.mark.parametrize("path, fault, method", [
    ("DownloadDataFiles", 500, "POST"), (".zip", "drop", "GET"), (".zip", "slow", "GET"),
])
def test_what_passes_is_survived(fetch, tmp_path, path, fault, method):
    with KaggleServer({"matting": ARCHIVE}) as server:
        server.fail(path, fault, method=method)
        fetch(server)
    assert len(names(tmp_path / "data/test_dataset/orig_1024")) == 3


def test_a_stalled_download_goes_on_and_a_silent_kaggle_is_given_up(fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle_client, "PATIENCE", 3)
    with KaggleServer({"matting": zipped({**TEST_SET, "large.bin": os.urandom(5_000_000)})}) as server:
        server.fail(".zip", "stall")
        fetch(server)
        assert server.requests[-1].headers["Range"] == f"bytes={2 * 2**20}-"  # whole pieces that came before
        assert len(names(tmp_path / "data/test_dataset/orig_1024")) == 3
        server.fail("DownloadDataFiles", "stall", method="POST")
        refused(fetch, server, "cannot be reached.*no answer within 3 s")


@pytest.mark.parametrize("fault", ["html", "truncate"])
def test_what_is_no_archive_is_removed(fetch, tmp_path, fault):
    with KaggleServer({"matting": ARCHIVE}) as server:
        server.fail(".zip", fault)
        refused(fetch, server, "removed, not a complete zip archive")
    assert names(tmp_path / "data/competition") == [] and not (tmp_path / "data/test_dataset").exists()


def link(name: str, target: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        info = zipfile.ZipInfo(name)
        info.external_attr = 0o120777 << 16
        content.writestr(info, target)
    return file.getvalue()


def bomb() -> bytes:
    """Ten members that inflate to 1 GB of zeros each: one block of them, repeated."""
    block, file = zlib.compressobj(9, zlib.DEFLATED, -15), io.BytesIO()
    deflated = (block.compress(bytes(2**24)) + block.flush(zlib.Z_FULL_FLUSH)) * 64 + block.flush()
    with zipfile.ZipFile(file, "w") as content:
        for i in range(10):
            content.writestr(f"{i}.png", deflated)
            content.infolist()[i].compress_type, content.infolist()[i].file_size = zipfile.ZIP_DEFLATED, 2**30
    return file.getvalue()


@pytest.mark.parametrize("content, words", [
    (zipped({**TEST_SET, "../evil.png": b"x"}), "../evil.png points outside"),
    (zipped({**TEST_SET, "/tmp/evil.png": b"x"}), "/tmp/evil.png points outside"),
    (zipped({**TEST_SET, "C:\\evil.png": b"x"}), "points outside"),
    (link("test/1.png", "/etc/passwd"), "test/1.png is a link"),
    (bomb(), "would unpack to 10.7 GB.*zip bomb"),
    (ARCHIVE[:-30], "not a complete zip"),
    (ARCHIVE[:300] + b"damage" + ARCHIVE[306:], "not a complete zip"),
], ids=["parent", "absolute", "windows", "link", "zeros", "cut", "damaged"])
def test_bad_archives_are_refused_and_leave_nothing(tmp_path, content, words):
    (tmp_path / "home").mkdir()
    path = tmp_path / "home/matting.zip"
    path.write_bytes(content)
    with pytest.raises(OperationError, match=words) as error:
        archive.unpack(path, tmp_path / "home/matting")
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["home"] and names(tmp_path / "home") == []
