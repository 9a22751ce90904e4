"""The real Kaggle client, run as a checked process: its requests may hang, and its exit code 0 is not yet success.

    from submission.kaggle_client import read_kaggle
    read_kaggle("competitions", "files", "titanic", "--csv")   # -> what the client prints

Credentials are the client's own affair: KAGGLE_API_TOKEN, ~/.kaggle/access_token or ~/.kaggle/kaggle.json. What it
would silently ignore or break on, a file in UTF-16 or JSON that is none, is a UserError here.
"""
import codecs
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from core.errors import OperationError, UserError, brief
from submission.proxies import proxy_fault

PATIENCE = 20  # seconds without a sign of life after which the client is stopped; it knows no limit of its own
TRIES, PAUSE = 2, 2  # a call that only reads is made again after PAUSE seconds where that may help
# What the client's words mean, the first that fits, and the remedy. Kaggle answers much with an opaque 400 or 403.
NO_CREDENTIALS = re.compile(r"Authentication required|\b401\b")
TROUBLE = re.compile(r"\b5\d\d Server Error|connection|max retries|timed? ?out|no answer", re.IGNORECASE)
UNKNOWN = re.compile(r"\b404\b|not found", re.IGNORECASE)
PROGRESS_BAR = re.compile(r"^.*\d+%\|.*\n?", re.MULTILINE)
SILENT = -1  # the exit code of a call that was stopped for its silence


def read_kaggle(*arguments: str, **how) -> str:
    """stdout of a call that changes nothing at Kaggle. OperationError says what went wrong and what to do.

    `how`: run_kaggle's keywords.
    """
    for attempt in range(1, TRIES + 1):
        code, out, err = run_kaggle(*arguments, **how)
        if code == 0:
            return out
        # Without an answer the user has waited long enough; other trouble may have passed by now.
        if attempt == TRIES or "no answer" in err or not TROUBLE.search(err):
            raise OperationError(explain(out, err))
        time.sleep(PAUSE)


def run_kaggle(*arguments: str, progress: Callable[[], object] = lambda: None,
               heard: Callable[[str], object] = lambda text: None, patience: float | None = None,
               program: str | None = None) -> tuple[int, str, str]:
    """(exit code, stdout, stderr without progress bars) of one call; exit code SILENT: stopped, its fate unknown.

    `progress()` is asked several times a second; each new value of it is a sign of life, as is all that the client
    prints, which `heard(stderr so far)` can show. The client is stopped after `patience` seconds without one (None:
    PATIENCE). `program` is Python run in place of the client's own commands, for what only its library can say.
    """
    check_credentials()
    # VERBOSE makes the client print the Authorization header.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VERBOSE")}
    command = [sys.executable, *(["-c", program] if program else ["-m", "kaggle", "-W"]), *arguments]
    with (tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err,
          subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err) as process):
        try:
            first = last = progress(), 0
            alive = time.monotonic()
            while time.monotonic() - alive < (patience or PATIENCE):
                try:
                    code = process.wait(timeout=0.2)
                    return code, _text(out), PROGRESS_BAR.sub("", _text(err))
                except subprocess.TimeoutExpired:
                    now = progress(), len(_text(out) + _text(err))
                    heard(_text(err))
                if now != last:
                    last, alive = now, time.monotonic()
        finally:
            process.kill()  # also when Ctrl-C or an error ends the wait
    silence = f"{patience or PATIENCE:g} s"
    return SILENT, "", f"the connection stalled for {silence}" if last != first else f"no answer within {silence}"


def config_dir() -> Path:
    """Where the client looks for kaggle.json."""
    home = Path.home() / ".kaggle"
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(os.environ["KAGGLE_CONFIG_DIR"])
    if home.exists() or not sys.platform.startswith("linux"):
        return home
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"


def check_credentials() -> None:
    """UserError where the file that the client takes its credentials from cannot be read as it reads it."""
    home, token = Path.home() / ".kaggle", os.environ.get("KAGGLE_API_TOKEN")
    tokens = [Path(token)] if token else [home / "access_token", home / "access_token.txt"]
    given = {key for key in ("username", "key") if os.environ.get(f"KAGGLE_{key.upper()}")}
    for path in tokens:
        if len(str(path)) < 1000 and path.is_file() and plain_text(path).strip():
            return
    path = config_dir() / "kaggle.json"
    if token or len(given) == 2 or not path.is_file():
        return
    remedy = "create a new one at https://www.kaggle.com/settings/api, or set KAGGLE_API_TOKEN"
    try:
        keys = set(json.loads(plain_text(path)))
    except (ValueError, TypeError):
        raise UserError(f"{path}: is not the JSON that Kaggle gives out; {remedy}") from None
    missing = sorted({"username", "key"} - keys - given)
    if missing and not (home / "credentials.json").exists():
        raise UserError(f"{path}: has no {' and no '.join(missing)}; {remedy}")


def plain_text(path: Path) -> str:
    """A credentials file's text. UserError where it is not the UTF-8 that the client reads."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    kind = None
    if b"\0" in data:
        kind = "is UTF-16 text"  # as PowerShell's > and Out-File write it
    elif data.startswith(codecs.BOM_UTF8):
        kind = "begins with a byte order mark"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        kind = kind or "is not UTF-8 text"
    if kind:
        raise UserError(f"{path}: {kind}, which the Kaggle client cannot read; save it as UTF-8 without a byte order "
                        "mark (PowerShell: Set-Content -Encoding ascii)")
    return text


def _text(file) -> str:
    # pread leaves the position alone, which the client shares as it writes.
    text = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
    return text.replace("\r", "\n")


def explain(out: str, err: str) -> str:
    """One line from what the client printed: what it means and the remedy, then the client's own last words."""
    if NO_CREDENTIALS.search(out + err):
        return ("Kaggle knows no valid credentials: create a token at https://www.kaggle.com/settings/api and set "
                "KAGGLE_API_TOKEN to it, or save it as ~/.kaggle/access_token")
    if fault := proxy_fault(err or out):
        return f"Kaggle cannot be reached: {fault}"
    words = last_words(out, err)
    if TROUBLE.search(err):
        return f"Kaggle cannot be reached or is in trouble; check the network and try again ({words})"
    if UNKNOWN.search(err):
        return f"Kaggle knows no such name; compare kaggle.competition with the site's address ({words})"
    return ("Kaggle refused: accept the rules on the competition's Rules page with this account, "
            f"and check the spelling of kaggle.competition ({words})")


def last_words(out: str, err: str) -> str:
    """The client's own, on one short line. Links to Kaggle's storage carry a signature: it is cut off."""
    return brief(re.sub(r"\?\S+", "?…", (err.strip() or out.strip() or "no message").splitlines()[-1]))
