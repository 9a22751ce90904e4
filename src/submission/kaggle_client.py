"""Runs the real Kaggle client as a child process, since its requests can hang and its exit code 0 is not success.

    from submission.kaggle_client import ask_kaggle, read_kaggle
    ask_kaggle("submissions", "titanic")                       # -> JSON from kaggle_api.py, as Python values
    read_kaggle("competitions", "files", "titanic", "--csv")   # -> what the client's own command prints

The client finds its own credentials: KAGGLE_API_TOKEN, ~/.kaggle/access_token or ~/.kaggle/kaggle.json. A file that it
would silently ignore or crash on (UTF-16 text, invalid JSON) is a UserError here.
"""
import codecs
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from core.errors import OperationError, UserError, brief
from submission.proxies import proxy_fault

CLIENT = (sys.executable, "-m", "kaggle", "-W")  # its own commands; -W: no warning about a newer version
API = (sys.executable, "-P", str(Path(__file__).with_name("kaggle_api.py")))  # -P: no file beside it hides a library
PATIENCE = 20  # seconds of silence after which the client is killed; it has no timeout of its own
TRIES, PAUSE = 2, 2  # attempts of a call that only reads, and seconds between them
# What the client's words mean. Kaggle answers many mistakes with a bare 400 or 403.
NO_CREDENTIALS = re.compile(r"Authentication required|\b401\b")
TROUBLE = re.compile(r"\b5\d\d Server Error|connection|max retries|timed? ?out|no answer", re.IGNORECASE)
UNKNOWN = re.compile(r"\b404\b|not found", re.IGNORECASE)
PROGRESS_BAR = re.compile(r"^.*\d+%\|.*\n?", re.MULTILINE)
SILENT = -1  # exit code of a call that was killed because it was silent


def ask_kaggle(question: str, name: str) -> object:
    """kaggle_api.py's answer to one of its QUESTIONS. OperationError says what went wrong and what to do."""
    return json.loads(read_kaggle(question, name, program=API))


def read_kaggle(*arguments: str, **options) -> str:
    """stdout of a call that only reads. OperationError says what went wrong and what to do.

    `options`: run_kaggle's keywords.
    """
    code, out, err = run_twice(*arguments, **options)
    if code:
        raise OperationError(explain(out, err))
    return out


def run_twice(*arguments: str, **options) -> tuple[int, str, str]:
    """run_kaggle() of a call that only reads, tried again after a failure that may have passed."""
    for attempt in range(1, TRIES + 1):
        code, out, err = run_kaggle(*arguments, **options)
        # After "no answer" the user has waited long enough.
        if code == 0 or attempt == TRIES or "no answer" in err or not TROUBLE.search(err):
            return code, out, err
        time.sleep(PAUSE)


def run_kaggle(*arguments: str, program: Sequence[str] = CLIENT, patience: float | None = None,
               progress: Callable[[], object] = lambda: None,
               heard: Callable[[str], object] = lambda text: None) -> tuple[int, str, str]:
    """Exit code, stdout, and stderr without progress bars of one call; exit code SILENT: killed, outcome unknown.

    program: CLIENT or API. patience: seconds of silence after which it is killed (None: PATIENCE). Output counts as a
    sign of life, and so does a new value of `progress()`, polled several times a second. `heard(stderr so far)` can
    show what the client prints.
    """
    check_credentials()
    # VERBOSE makes the client print the Authorization header.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VERBOSE")}
    with (tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err,
          subprocess.Popen([*program, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=out,
                           stderr=err) as process):
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
            process.kill()  # also after Ctrl-C or an error here
    silence = f"{patience or PATIENCE:g} s"
    return SILENT, "", f"the connection stalled for {silence}" if last != first else f"no answer within {silence}"


def config_dir() -> Path:
    """The folder in which the client looks for kaggle.json."""
    home = Path.home() / ".kaggle"
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(os.environ["KAGGLE_CONFIG_DIR"])
    if home.exists() or not sys.platform.startswith("linux"):
        return home
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"


def check_credentials() -> None:
    """UserError if the client could not read the file that it takes its credentials from."""
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
        raise UserError(f"{path}: is not valid JSON as downloaded from Kaggle; {remedy}") from None
    missing = sorted({"username", "key"} - keys - given)
    if missing and not (home / "credentials.json").exists():
        raise UserError(f"{path}: has no {' and no '.join(missing)}; {remedy}")


def plain_text(path: Path) -> str:
    """A credentials file's text. UserError if it is not plain UTF-8, the only encoding that the client reads."""
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
    # pread does not move the file position, which the client shares.
    text = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
    return text.replace("\r", "\n")


def explain(out: str, err: str) -> str:
    """One line: what the client's output means, the remedy, and the client's own last line."""
    if NO_CREDENTIALS.search(out + err):
        return ("Kaggle got no valid credentials: create a token at https://www.kaggle.com/settings/api and set "
                "KAGGLE_API_TOKEN to it, or save it as ~/.kaggle/access_token")
    if fault := proxy_fault(err or out):
        return f"Kaggle cannot be reached: {fault}"
    words = last_words(out, err)
    if TROUBLE.search(err):
        return f"Kaggle cannot be reached or has a problem; check the network and try again ({words})"
    if UNKNOWN.search(err):
        return ("Kaggle found nothing of that name; compare kaggle.competition with the competition's address "
                f"({words})")
    return ("Kaggle refused the request: accept the competition's rules on its Rules page with this account, "
            f"and check the spelling of kaggle.competition ({words})")


def last_words(out: str, err: str) -> str:
    """The last line of the client's output, shortened and without the signatures in links to Kaggle's storage."""
    return brief(re.sub(r"\?\S+", "?…", (err.strip() or out.strip() or "no message").splitlines()[-1]))
