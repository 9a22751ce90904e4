"""Files of credentials and proxies that the clients cannot use: one line names the thing and the remedy."""
import json
import sys

import pytest

import get_weights
from conftest import ROOT
from core.config import load_config
from core.errors import OperationError, UserError
from fakes.loopback import isolate
from fakes.loopback_kaggle import KaggleServer
from sources.hub import Hub
from submission import kaggle_client, proxies
from submission.kaggle_client import check_credentials, config_dir, read_kaggle

CREDENTIALS = json.dumps({"username": "somebody", "key": "secret"})


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, without credentials and without a network."""
    with KaggleServer() as server:
        isolate(monkeypatch, tmp_path, server)
    monkeypatch.delenv("KAGGLE_CONFIG_DIR")
    (tmp_path / "home/.kaggle").mkdir(parents=True)
    return tmp_path / "home/.kaggle"


@pytest.mark.parametrize("data, words", [
    (CREDENTIALS.encode("utf-16"), "is UTF-16 text"), (CREDENTIALS.encode("utf-16-le"), "is UTF-16 text"),
    (CREDENTIALS.encode("utf-8-sig"), "byte order mark"), (b"\xe9" + CREDENTIALS.encode(), "is not UTF-8"),
    (b'{"username": "somebody",', "is not valid JSON"), (b"", "is not valid JSON"), (b"3", "is not valid JSON"),
    (b'{"username": "somebody"}', "has no key;"), (b"{}", "has no key and no username;")])
def test_a_bad_kaggle_json_is_named(home, monkeypatch, data, words):
    (home / "kaggle.json").write_bytes(data)
    with pytest.raises(UserError, match=f"kaggle.json: .*{words}") as error:
        read_kaggle("competitions", "list")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")  # with these the client does not need the file
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    check_credentials()


def test_a_token_in_utf_16_is_named_and_a_good_one_is_enough(home, monkeypatch):
    (home / "kaggle.json").write_text("{")
    (home / "access_token").write_bytes("secret".encode("utf-16"))
    with pytest.raises(UserError, match="access_token: is UTF-16 text"):
        check_credentials()
    (home / "access_token").write_text("secret")
    check_credentials()
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    (home / "access_token").unlink()
    check_credentials()


def test_credentials_are_looked_for_where_the_client_does(home, monkeypatch):
    assert config_dir() == home
    home.rmdir()
    assert config_dir() == home.parent / ".config/kaggle"
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", "/elsewhere")
    assert str(config_dir()) == "/elsewhere"


@pytest.fixture
def no_socks(tmp_path, monkeypatch):
    """A Python that has none of the packages that SOCKS proxies need."""
    for name in ("socks", "socksio"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "secret")

    def set_proxy(name: str, value: str) -> None:
        for other in proxies.VARIABLES:
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, value)
    return set_proxy


@pytest.mark.parametrize("name, value, words", [
    ("ALL_PROXY", "socks5://me:secret@127.0.0.1:9", "ALL_PROXY names a socks5 proxy.*`pip install PySocks`"),
    ("https_proxy", "http://me:secret@host:port", "https_proxy is not of the form http://host:port"),
    ("https_proxy", "http://me:se#cret@127.0.0.1:9", "https_proxy is not of the form"),
    ("HTTPS_PROXY", "ftp://127.0.0.1:9", "HTTPS_PROXY names a ftp proxy, which cannot be used here")])
def test_the_kaggle_client_behind_a_proxy_that_it_cannot_use(home, no_socks, name, value, words):
    no_socks(name, value)
    with pytest.raises(OperationError, match=f"Kaggle cannot be reached: {words}") as error:
        read_kaggle("competitions", "submissions", "matting")
    assert "secret" not in str(error.value) and "se#" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name, value, words", [
    ("all_proxy", "socks5h://me:secret@127.0.0.1:9", "all_proxy names a socks5h proxy.*socksio"),
    ("HTTPS_PROXY", "socks4://me:secret@127.0.0.1:9", "HTTPS_PROXY names a socks4 proxy, which cannot be used here"),
    ("https_proxy", "http://me:secret@host:port", "https_proxy is not of the form")])
def test_the_hub_behind_a_proxy_that_it_cannot_use(home, no_socks, monkeypatch, name, value, words):
    no_socks(name, value)
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(OperationError, match=f"Hugging Face cannot be reached: {words}") as error:
        Hub("OneOverZero/MAGICK", "magick_index.tsv")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", [None, "https://example.org/u2netp.pth"], ids=["Google Drive", "weights.url"])
def test_weights_behind_a_proxy_that_cannot_be_used(home, no_socks, monkeypatch, tmp_path, url):
    no_socks("https_proxy", "http://me:secret@host:port")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OperationError, match="https_proxy is not of the form") as error:
        get_weights.get_weights(load_config(ROOT / "config.yaml", [f"weights.url={url}"] if url else []))
    assert "secret" not in str(error.value)


def test_a_proxy_is_not_blamed_for_what_is_not_its_fault(monkeypatch):
    for name in proxies.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    assert proxies.proxy_fault("Failed to parse: 'host:port' is not a valid host or port") is None
    monkeypatch.setenv("https_proxy", "socks5://proxy.example.org:1080")
    assert proxies.proxy_fault("Connection refused") is None
    assert kaggle_client.explain("", "SOCKSConnection: Max retries exceeded").startswith("Kaggle cannot be reached or")
