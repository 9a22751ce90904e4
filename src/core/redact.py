"""Keeps credentials out of everything the program prints or writes.

    sys.stderr = Screened(sys.stderr)      # done by cli.run for every command
    without_secrets("https://me:pass@host/w.pth?token=abc")    # https://host/w.pth?token=***
"""
import base64
import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO
from urllib.parse import quote, unquote

HIDDEN = "***"
SHORTEST = 5  # shortest secret that is searched for everywhere; shorter ones could be words
NAMES = r"[\w.-]*(?:token|key|secret|signature|sig|pass|password|passwd|pwd|credential|credentials|auth)"
SECRET_NAME = re.compile(NAMES, re.IGNORECASE)
PROXY_NAME = re.compile(r"\w*_proxy", re.IGNORECASE)
SHAPES = (
    # user:password@, also with / or @ in the password; then user@
    (re.compile(r"(://)[^\s/?#@:'\"]*:(?!\d+(?:[/?#\s'\"]|$))[^\s'\"]*@"), r"\1"),
    (re.compile(r"(://)[^\s/?#'\"]*@"), r"\1"),
    (re.compile(rf"([?&;]{NAMES}=)[^&;\s'\"<>)]*[^&;\s'\"<>):,.]", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"(authorization['\"]?\s*[:=]\s*(?:b?['\"])?)(?:(?:basic|bearer|token|digest)\s+)?[^\s'\",}]+",
                re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(Bearer|Basic) [\w.~+/-]{12,}=*"), rf"\1 {HIDDEN}"),
)


class Screened:
    """A stream that removes secrets from what is written to it."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(without_secrets(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def without_secrets(text: str) -> str:
    """The text without credentials: anything of their shape, and those that learn_secrets() found on this machine."""
    for pattern, instead in SHAPES:
        text = pattern.sub(instead, text)
    return _known.sub(HIDDEN, text) if _known else text


_known: re.Pattern | None = None


def learn_secrets(words: Iterable[str] = ()) -> None:
    """Collects credentials from the environment, the clients' credential files, and `words` (command arguments)."""
    global _known
    found = {form for secret in (*of_environment(), *of_files(),
                                 *of_addresses(word for word in words if "://" in word)) for form in forms(secret)}
    found = sorted((form for form in found if len(form) >= SHORTEST), key=len, reverse=True)
    _known = re.compile("|".join(rf"(?<!\w){re.escape(form)}(?!\w)" for form in found)) if found else None


def of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if PROXY_NAME.fullmatch(name):
            yield from of_addresses([value])
        elif SECRET_NAME.fullmatch(name) and not os.path.exists(value):
            yield value


def of_addresses(words: Iterable[str]) -> Iterator[str]:
    """user:password, password and secret parameters of URLs; a proxy URL may lack its scheme."""
    for word in words:
        found = re.match(r"([^\s/?#:@]*):(\S*)@", word.partition("://")[2] or word)
        if found:
            # also its parts: a client may split a URL that it considers malformed
            yield from (f"{found[1]}:{found[2]}", found[2], *re.split(r"[/?#@]", found[2]))
        yield from (match[1] for match in re.finditer(rf"[?&]{NAMES}=([^&#\s]+)", word, re.IGNORECASE))


def of_files() -> Iterator[str]:
    """Kaggle's and Hugging Face's tokens and netrc passwords, from the files where the clients look for them."""
    home = Path(os.path.expanduser("~"))
    kaggle = [Path(os.environ.get("KAGGLE_CONFIG_DIR") or home / ".kaggle"), home / ".kaggle", home / ".config/kaggle"]
    hub = Path(os.environ.get("HF_HOME") or home / ".cache/huggingface")
    tokens = [*(folder / "access_token" for folder in kaggle), hub / "token",
              Path(os.environ.get("HF_TOKEN_PATH") or hub / "token")]
    for path in tokens:
        yield from read(path).split()
    for folder in kaggle:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            yield str(json.loads(read(folder / "kaggle.json"))["key"])
    yield from re.findall(r"hf_token\s*=\s*(\S+)", read(hub / "stored_tokens"))
    yield from re.findall(r"\bpassword\s+(\S+)", read(Path(os.environ.get("NETRC") or home / ".netrc")))


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def forms(secret: str) -> Iterator[str]:
    """The forms in which clients print a secret: plain, escaped for a URL or unescaped, in base64."""
    for form in {secret, unquote(secret)}:
        yield from (form, quote(form, safe=""), repr(form)[1:-1],
                    base64.b64encode(form.encode(errors="surrogateescape")).decode())
