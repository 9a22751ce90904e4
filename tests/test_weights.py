"""get_weights.py with the real gdown: a mirror, and Google Drive over TLS, both on loopback."""
import hashlib
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import get_weights
from conftest import ROOT
from core import checkpoint
from core.config import load_config
from core.errors import OperationError, UserError
from fakes.loopback import Files, Reply, file_reply, isolate

CONTENT = os.urandom(4_000_000)
DRIVE_ID = get_weights.OFFICIAL["u2netp"][1]
RIGHT = ("u2netp", (hashlib.sha256(CONTENT).hexdigest(), DRIVE_ID))


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """fetch(server, *overrides) runs get_weights in an empty folder, for a network of `server` alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(get_weights.OFFICIAL, *RIGHT)

    def fetch(server, *overrides):
        isolate(monkeypatch, tmp_path, server)
        get_weights.get_weights(load_config(ROOT / "config.yaml", overrides))
        return tmp_path / "weights/u2netp.pth"
    return fetch


def mirror(server) -> str:
    return f"weights.url={server.url}/u2netp.pth"


def left(folder) -> list[str]:
    return sorted(path.name for path in (folder / "weights").iterdir())


def test_a_right_file_is_fetched_once(fetch, tmp_path):
    with Files({"u2netp.pth": CONTENT}) as server:
        assert fetch(server, mirror(server)) == fetch(server, mirror(server))
        assert len(server.requests) == 1
        assert left(tmp_path) == ["u2netp.pth"]


@pytest.mark.parametrize("fault", ["drop", "slow"])
def test_what_passes_is_survived(fetch, fault):
    with Files({"u2netp.pth": CONTENT}) as server:
        server.fail("u2netp", fault)
        assert fetch(server, mirror(server)).read_bytes() == CONTENT
        assert server.sent["/u2netp.pth"] < 1.2 * len(CONTENT)  # a broken download goes on where it was


def test_a_silent_server_is_given_up_and_asked_again(fetch, monkeypatch):
    monkeypatch.setattr(get_weights, "TIMEOUT", 0.5)
    with Files({"u2netp.pth": CONTENT}) as server:
        server.fail("u2netp", "stall")
        assert fetch(server, mirror(server)).read_bytes() == CONTENT


@pytest.mark.parametrize("fault, words", [
    (401, "401"), (403, "403"), (404, "404"), (500, "500"), ("html", "got a web page"), ("truncate", "damaged"),
])
def test_a_refusal_leaves_nothing_and_says_how_to_do_it_by_hand(fetch, tmp_path, fault, words):
    with Files({"u2netp.pth": CONTENT}) as server:
        server.fail("u2netp", fault)
        with pytest.raises(OperationError, match=words) as error:
            fetch(server, mirror(server))
        assert f"https://drive.google.com/uc?id={DRIVE_ID}" in str(error.value)
        assert "weights/u2netp.pth" in str(error.value) and "\n" not in str(error.value)
        assert left(tmp_path) == []


def test_code_in_place_of_weights_is_never_run(fetch, tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it_ran"),)

    payload = pickle.dumps(Code(), protocol=2)
    with Files({"u2netp.pth": payload}) as server, pytest.raises(OperationError, match="damaged or another file"):
        fetch(server, mirror(server))
    (tmp_path / "weights/u2netp.pth").write_bytes(payload)  # put there by hand: the loader is the second wall
    with pytest.raises(UserError, match="holds code"):
        checkpoint.load(tmp_path / "weights/u2netp.pth")
    assert not (tmp_path / "it_ran").exists()


def test_no_network(fetch, tmp_path):
    with Files({}) as server, pytest.raises(OperationError, match=r"download https://drive.google.com") as error:
        fetch(server, "weights.source=drive")
    assert server.refused == ["drive.google.com:443"]  # the proxy refused it: nothing left the machine
    assert "\n" not in str(error.value) and left(tmp_path) == []


class Drive(Files):
    HOSTS = ("drive.google.com",)

    def answer(self, request):
        body = self.files.get(request.path.partition("id=")[2])
        page = b'<html><body><p class="uc-error-subcaption">Too many users have downloaded this file.</p></body></html>'
        if body is None:
            return Reply(200, page, {"Content-Type": "text/html; charset=utf-8"})
        return file_reply(body, **{"Content-Disposition": 'attachment; filename="u2netp.pth"',
                                   "Content-Type": "application/octet-stream"})


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "drive.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", path, "-out", path.with_suffix(".crt"), "-days", "2", "-subj", "/CN=drive.google.com",
                    "-addext", "subjectAltName=DNS:drive.google.com"], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


def test_google_drive_and_its_quota_page(fetch, tmp_path, monkeypatch, certificate):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with Drive({}, certificate) as server, pytest.raises(OperationError, match="Too many users") as error:
        fetch(server, "weights.source=drive")
    assert "\n" not in str(error.value) and left(tmp_path) == []
    with Drive({DRIVE_ID: CONTENT}, certificate) as server:
        assert fetch(server).read_bytes() == CONTENT


def test_a_killed_download_goes_on(fetch, tmp_path, monkeypatch):
    code = (f"import sys; sys.path[:0] = ['src', 'scripts']; import os, get_weights\n"
            f"from core.config import load_config\n"
            f"get_weights.OFFICIAL['u2netp'] = {RIGHT[1]!r}\n"
            f"cfg = load_config('config.yaml', [sys.argv[1]]); os.chdir(sys.argv[2]); get_weights.get_weights(cfg)")
    with Files({"u2netp.pth": CONTENT}) as server:
        isolate(monkeypatch, tmp_path, server)
        server.fail("u2netp", "stall")
        process = subprocess.Popen([sys.executable, "-c", code, mirror(server), tmp_path], cwd=ROOT)
        part = tmp_path / "weights/.download"
        while not (part.exists() and sum(path.stat().st_size for path in part.iterdir())):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert fetch(server, mirror(server)).read_bytes() == CONTENT
        assert re.fullmatch(r"bytes=[1-9]\d+-", server.requests[-1].headers["Range"])
        assert left(tmp_path) == ["u2netp.pth"]
