"""No credential leaves the program: a canary is put in every place that can hold one and searched for in the output."""
import base64
import json
import os
import subprocess
import sys

import pytest

import get_data
import get_weights
from conftest import ROOT, Outcome, call
from core import redact
from core.cli import message
from core.config import DEFAULTS, dump_config, load_config
from core.errors import UserError, brief
from core.redact import learn_secrets, without_secrets
from fakes.loopback import Files, isolate

CANARY = "canary-7c1f0e9b52"
ODD = "canary/7c@1f:0e?9b"  # makes a URL malformed unless it is escaped


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(redact, "_known", None)


def parts(secret: str) -> list[str]:
    return [secret, *(piece for piece in ("canary", "7c@1f") if piece in secret)]


def said(result: Outcome, *secrets: str) -> str:
    """The output of a failed command, after checking that it holds no secret or part of one."""
    text = result.stdout + result.stderr
    assert result.returncode in (1, 2) and "Traceback" not in text, text
    assert not [part for secret in secrets for part in parts(secret) if part in text], text
    return text


@pytest.mark.parametrize("password", [CANARY, ODD])
@pytest.mark.parametrize("query", ["", f"?token={CANARY}"])
def test_an_address_that_answers_404_is_named_without_its_credentials(tmp_path, monkeypatch, password, query):
    with Files({}) as server:
        isolate(monkeypatch, tmp_path, server)
        url = f"{server.url.replace('//', f'//somebody:{password}@')}/u2netp.pth{query}"
        result = call(get_weights.main, f"--config={DEFAULTS}", f"weights.url={url}", cwd=tmp_path)
        asked = [request.path for request in server.requests]
    text = said(result, password, CANARY)
    assert "weights/u2netp.pth" in text
    if password == CANARY:
        assert asked and "404" in text


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", ["http://somebody:{}@127.0.0.1:9", "socks5://somebody:{}@127.0.0.1:9",
                                   "somebody:{}@127.0.0.1:9"], ids=["http", "socks", "bare"])
def test_a_proxy_is_named_without_its_credentials(tmp_path, monkeypatch, name, proxy):
    with Files({}) as server:
        isolate(monkeypatch, tmp_path, server)
        for variable in [variable for variable in os.environ if variable.lower().endswith("_proxy")]:
            monkeypatch.delenv(variable)
        monkeypatch.setenv(name, proxy.format(CANARY))
        said(call(get_weights.main, f"--config={DEFAULTS}", cwd=tmp_path), CANARY)


@pytest.mark.parametrize("source", ["magick", "competition"])
def test_a_proxy_that_refuses_is_named_without_its_credentials(tmp_path, monkeypatch, source):
    with Files({}) as server:
        isolate(monkeypatch, tmp_path, server)
        for scheme in ("http", "https", "all"):
            for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
                monkeypatch.setenv(name, server.url.replace("//", f"//somebody:{CANARY}@"))
        monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
        monkeypatch.setenv("KAGGLE_KEY", CANARY)
        result = call(get_data.main, f"--config={DEFAULTS}", f"data.source={source}",
                        "kaggle.competition=titanic", cwd=tmp_path)
    assert f"source {source}" in said(result, CANARY) and server.refused


def test_arguments_and_config_files_are_quoted_without_credentials(tmp_path):
    url = f"//somebody:{CANARY}@host/w.pth"
    (tmp_path / "c.yaml").write_text(f"weights: {{url: 'ftp:{url}'}}\n")
    default = f"--config={DEFAULTS}"
    for arguments in ([default, f"weights.url=ftp:{url}"], [default, f"--unknown=https:{url}"],
                      [default, f"https:{url}"], [f"--config={tmp_path}/c.yaml"]):
        assert "host/w.pth" in said(call(get_weights.main, *arguments, cwd=tmp_path), CANARY)


PROGRAM = """
import logging, sys, threading, warnings
sys.path.insert(0, "src")
from core import cli
from tqdm import tqdm
def main():
    secret = sys.stdin.read()
    for text in (f"https://somebody:{secret}@host/x", f"key {secret}", f"Authorization: Bearer {secret}"):
        print(text)
        warnings.warn(text)
        logging.error(text)
        tqdm.write(text)
        for _ in tqdm(range(2), text):
            pass
        thread = threading.Thread(target=lambda: {}[text])
        thread.start()
        thread.join()
    try:
        raise ValueError(secret)
    except ValueError as error:
        raise KeyError(f"https://somebody:{secret}@host/x") from error
cli.run(main)
"""


@pytest.mark.parametrize("place", ["KAGGLE_KEY", "KAGGLE_API_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "https_proxy",
                                   "kaggle.json", "access_token", "token", ".netrc"])
def test_prints_warnings_bars_threads_and_tracebacks_hold_no_secret(tmp_path, place):
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home / "hub")}
    files = {"kaggle.json": (".kaggle/kaggle.json", json.dumps({"username": "somebody", "key": CANARY})),
             "access_token": (".kaggle/access_token", f"{CANARY}\n"), "token": ("hub/token", CANARY),
             ".netrc": (".netrc", f"machine host login somebody password {CANARY}\n")}
    if place in files:
        name, text = files[place]
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
    else:
        environment[place] = f"http://somebody:{CANARY}@host:1" if place == "https_proxy" else CANARY
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, input=CANARY,
                            capture_output=True, text=True)
    assert result.returncode == 1 and "KeyError: 'https://host/x'" in result.stderr
    assert "Traceback" in result.stderr and "key ***" in result.stdout
    assert CANARY not in result.stdout + result.stderr


def test_all_forms_of_a_password_are_hidden(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://somebody:p%40ss%2Fw0rd@host:1")
    learn_secrets()
    basic = base64.b64encode(b"somebody:p@ss/w0rd").decode()
    for text in ("p@ss/w0rd", "p%40ss%2Fw0rd", "'p@ss/w0rd'", f"Proxy-Authorization: Basic {basic}", f"[{basic}]"):
        assert "w0rd" not in without_secrets(text) and basic not in without_secrets(text)


@pytest.mark.parametrize("text", [
    "https://host:8080/path/@name?page=2&size=3", "data/me@home.png", "12:30 @ noon", "key=value", "image_0@2x.png",
    "the keys are in order: authorization is not needed", "https://www.kaggle.com/settings/api", "user@host"])
def test_other_text_is_not_changed(text):
    assert without_secrets(text) == text


def test_a_secret_is_not_cut_in_half():
    text = f"{'x' * 185} http://somebody:{CANARY}@host/w"
    assert "canary" not in brief(text)


def test_no_password_is_in_a_config_that_is_written():
    cfg = load_config(DEFAULTS, [f"weights.url=https://somebody:{CANARY}@host/w.pth?api_key={CANARY}&part=1"])
    assert CANARY in cfg.weights.url  # used for the request
    assert CANARY not in dump_config(cfg) and "https://host/w.pth?api_key=***&part=1" in dump_config(cfg)


class Elsewhere(UserError):
    """An error class outside core."""


def test_an_error_of_a_data_worker_is_reduced_to_its_message():
    ours = f"{UserError.__module__}.UserError"
    for kind, name in ((UserError, ours), (Elsewhere, f"{__name__}.Elsewhere"), (OSError, "OSError")):
        for words in ("row 3: a.png is damaged", "two\nlines: of it"):
            text = (f"Caught {kind.__name__} in DataLoader worker process 0.\nOriginal Traceback (most recent call "
                    f"last):\n  File \"x.py\", line 1, in f\n    raise\nValueError: inner\n\nDuring handling of the "
                    f"above exception, another exception occurred:\n\nTraceback (most recent call last):\n"
                    f"{name}: {words}\n")
            assert message(kind(text)) == words
    assert message(UserError("Caught a cold")) == "Caught a cold"
