"""Source magick with the real huggingface_hub against a hub on loopback."""
import io
import os
import signal
import subprocess
import sys
import time

import cv2
import huggingface_hub
import numpy as np
import pytest
from PIL import Image

import get_data
from conftest import ROOT, call
from core.config import load_config
from core.errors import OperationError, UserError
from fakes.loopback import Loopback, isolate
from fakes.loopback_hub import HubServer
from imaging.alphas import read_alpha
from imaging.images import read_rgb
from sources import hub, magick


def png(mode: str = "RGBA", side: int = 1024, alpha: int = 255) -> bytes:
    """A red disc of a soft edge; compresses to a few kilobytes."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    disc = np.clip((0.3 - np.hypot(x, y)) * 40, 0, 1) * alpha
    rgba = np.dstack([np.full_like(disc, 200), np.zeros_like(disc), np.zeros_like(disc), disc]).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgba).convert(mode).save(file, "PNG", compress_level=1)
    return file.getvalue()


GOOD = png()


def data_set(count: int, nsfw: int = 0) -> dict[str, bytes]:
    """The index and images of `count` page ids, the first `nsfw` of them marked."""
    ids = [f"{i:02d}page" for i in range(count)]
    table = "page_id\tsubject\tnsfw\tpicked\n" + "".join(
        f"{page_id}\ta thing, 5\"\t{int(i < nsfw)}\thand\n" for i, page_id in enumerate(ids))
    return {"magick_index.tsv": table.encode(), **{f"images/{page_id[:2]}/{page_id}.png": GOOD for page_id in ids}}


def overrides(folder, *more: str) -> list[str]:
    return [f"data.root={folder}/data", "data.source=magick", "data.magick.limit=4", "data.magick.workers=2", *more]


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """fetch(server, *overrides) runs the source into tmp_path/data for a network of `server` alone."""
    def fetch(server, *more):
        isolate(monkeypatch, tmp_path, server)
        point_client(monkeypatch, server)
        monkeypatch.setattr(hub, "PAUSES", (0, 0))
        return magick.fetch(load_config(ROOT / "config.yaml", overrides(tmp_path, *more)))
    yield fetch
    huggingface_hub.utils.close_session()


def point_client(monkeypatch, server) -> None:
    """What HF_ENDPOINT does, which the client reads only when it is imported."""
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    huggingface_hub.utils.close_session()


def names(split) -> set[str]:
    return {image.stem for pairs in split.values() for image, _ in pairs}


def files(folder) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def test_pairs_are_exact_and_a_second_call_fetches_nothing(fetch, tmp_path, capsys):
    with HubServer(data_set(6)) as server:
        split = fetch(server)
        asked, first = len(server.requests), server.fetched()
        assert fetch(server) == split
        assert (len(server.requests), server.fetched()) == (asked + 1, first)  # is the index still the same?
    image, alpha = split["train"][0]
    rgba = np.asarray(Image.open(io.BytesIO(GOOD)))
    assert np.array_equal(np.rint(read_alpha(alpha) * 255), rgba[..., 3])
    rgb = read_rgb(image)
    assert (rgb[rgba[..., 3] == 255] == (200, 0, 0)).all()
    assert rgb[0].min() >= 235 and cv2.imread(str(alpha), cv2.IMREAD_UNCHANGED).dtype == np.uint8
    assert names(split) == files(tmp_path / "data/magick/images") == files(tmp_path / "data/magick/alphas")
    assert not (tmp_path / "data/magick/raw").exists()
    assert "of the alphas' pixels are in (.05,.95)" in capsys.readouterr().out


def test_a_larger_limit_only_adds_and_none_changes_sides(fetch):
    with HubServer(data_set(12, nsfw=4)) as server:
        small, large = fetch(server), fetch(server, "data.magick.limit=100")
        assert names(small) < names(large) == {f"{i:02d}page" for i in range(4, 12)}
        assert server.fetched() == 8 * len(GOOD)
        assert len(names(fetch(server, "data.magick.limit=100", "data.magick.nsfw=true"))) == 12
    assert all(set(small[side]) <= set(large[side]) for side in ("train", "val"))


def test_backgrounds(fetch, tmp_path):
    (tmp_path / "green").mkdir()
    Image.new("RGB", (300, 200), (0, 255, 0)).save(tmp_path / "green/1.png")
    with HubServer(data_set(3)) as server:
        split = fetch(server, "data.magick.background=folder", f"data.backgrounds_dir={tmp_path}/green")
        assert (read_rgb(split["train"][0][0])[0] == (0, 255, 0)).all()
        with pytest.raises(UserError, match=r"made with data.magick.background=folder .*delete the folder"):
            fetch(server)
        with pytest.raises(UserError, match=r"set data.backgrounds_dir"):
            fetch(server, "data.magick.background=folder")
        split = fetch(server, "data.magick.background=none", f"data.root={tmp_path}/plain")
        assert (read_rgb(split["train"][0][0]) == (200, 0, 0)).all()
    nothing, green = np.zeros((1024, 1024, 4), np.uint8), [tmp_path / "green/1.png"]
    mixed = [magick.on_background(nothing, page_id, "mixed", green)[0, 0, 0] for page_id in ("00page", "07page")]
    assert mixed[0] == 0 and mixed[1] >= 235


@pytest.mark.parametrize("path, fault, method", [
    ("index", 500, "HEAD"), ("images", 500, "GET"), ("images", "drop", "GET"), ("images", "slow", "GET"),
    ("images", "stall", "GET"),
])
def test_what_passes_is_survived(fetch, monkeypatch, path, fault, method):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    with HubServer(data_set(4)) as server:
        server.fail(path, fault, method=method)
        assert len(names(fetch(server))) == 4


@pytest.mark.parametrize("path, fault, method, words", [
    ("index", 401, "HEAD", r"denies access \(401\).*hf auth login"), ("index", 403, "HEAD", "denies access"),
    ("index", 404, "HEAD", "not found on Hugging Face; check data.magick.repo"),
    ("images", 403, "GET", "denies access"),
])
def test_a_refusal_ends_it(fetch, path, fault, method, words):
    with HubServer(data_set(4)) as server:
        server.fail(path, fault, method=method)
        with pytest.raises(OperationError, match=words) as error:
            fetch(server)
        assert "\n" not in str(error.value)
        assert len(names(fetch(server))) == 4


@pytest.mark.parametrize("content, words", [
    (png("RGB"), "is PNG RGB 1024×1024"), (png(side=512), "is PNG RGBA 512×512"), (png(alpha=0), "the same alpha"),
    (b"<!DOCTYPE html><html></html>", "cannot be read as an image"), (GOOD[:len(GOOD) // 2], "cannot be read"),
    (None, "not on the hub"),
], ids=["rgb", "512", "constant", "html", "truncated", "missing"])
def test_a_bad_image_is_left_out_and_leaves_nothing(fetch, tmp_path, capsys, content, words):
    images = data_set(4)
    images["images/02/02page.png"] = content
    with HubServer(images) as server:
        assert names(fetch(server)) == {"00page", "01page", "03page"}
    assert words in capsys.readouterr().out
    assert {path.stem for path in tmp_path.rglob("*.png")} == {"00page", "01page", "03page"}


def test_another_data_set_is_noticed(fetch, tmp_path):
    files = data_set(20)
    with HubServer({name: b"<html>" if name.endswith(".png") else body for name, body in files.items()}) as server:
        with pytest.raises(OperationError, match=r"7 images are unusable.*check data.magick.repo"):
            fetch(server, "data.magick.limit=20")
        server.files["magick_index.tsv"] = b"<html>"
        with pytest.raises(OperationError, match="removed, not an index with columns page_id and nsfw"):
            fetch(server, f"data.root={tmp_path}/other")


def test_no_network(tmp_path, monkeypatch):
    with Loopback() as server:  # a proxy that lets nothing out
        isolate(monkeypatch, tmp_path, server)
        huggingface_hub.utils.close_session()
        result = call(get_data.main, *overrides(tmp_path))
        huggingface_hub.utils.close_session()
    assert result.returncode == 1 and hub.FIRST_ANSWER + sum(hub.PAUSES) < 30  # seconds
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: source magick: ") and "SOURCE=synthetic needs no network" in result.stderr
    assert server.refused


def test_a_killed_fetch_goes_on(tmp_path, monkeypatch):
    with HubServer(data_set(12)) as server:
        isolate(monkeypatch, tmp_path, server)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        point_client(monkeypatch, server)  # of this process
        options = overrides(tmp_path, "data.magick.limit=12")
        server.fail("images/03", "stall", times=2)
        process = subprocess.Popen([sys.executable, "scripts/get_data.py", *options], cwd=ROOT)
        pairs = tmp_path / "data/magick/images"
        while not (pairs.exists() and len(list(pairs.glob("[0-9]*.png"))) >= 5):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "data/splits").exists()
        before = {path: path.stat().st_mtime_ns for path in pairs.glob("[0-9]*.png")}
        monkeypatch.setattr(server, "_faults", [])
        assert call(get_data.main, *options).returncode == 0
        huggingface_hub.utils.close_session()
        assert len(files(pairs)) == 12 > len(before)
        assert all(path.stat().st_mtime_ns == written for path, written in before.items())
        assert server.fetched() <= 14 * len(GOOD)  # at most the two in flight came twice
    assert os.path.getsize(tmp_path / "data/splits/train.csv")
