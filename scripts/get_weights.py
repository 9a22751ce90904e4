"""Fetches the official U²-Net weights of model.variant into weights/, verified by their SHA-256.

    python scripts/get_weights.py                       # weights/u2netp.pth, 4.7 MB, from its authors' Google Drive
    python scripts/get_weights.py model.variant=u2net   # weights/u2net.pth, 176 MB
    python scripts/get_weights.py weights.url=https://example.org/u2netp.pth

A right file already there costs nothing; a download that was killed goes on.
"""
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import gdown
from gdown.exceptions import DownloadError
from requests import RequestException

import cli
from cli import OperationError, brief
from config import Config, load_config, official_weights
from files import file_sha256, written_whole
from outputs import check_folder
from schema import without_credentials

# variant -> (SHA-256, Google Drive id), as the authors of U²-Net (Qin et al., 2020) give them out
OFFICIAL = {
    "u2netp": ("e7567cde013fb64813973ce6e1ecc25a80c05c3ca7adbc5a54f3c3d90991b854", "1rbSTGKAE-MTxBYHd-51l2hMOQPT_7EPy"),
    "u2net": ("10025a17f49cd3208afc342b589890e402ee63123d6f2d289a4a0903695cce58", "1ao1ovG1Qtx4b7EoskHXmi2E9rp5CHLcZ"),
}
TIMEOUT, RETRIES = 10, 3  # seconds to wait for each piece; further attempts, each going on where the last one broke


def get_weights(cfg: Config) -> None:
    """weights/<variant>.pth, right or not at all. OperationError says how to get it by hand."""
    path, (sha256, drive_id) = official_weights(cfg.model.variant), OFFICIAL[cfg.model.variant]
    check_folder(path.parent, "run the command in a folder that you can write to")
    if path.exists() and file_sha256(path) == sha256:
        print(f"{path}: already there, SHA-256 verified")
        return
    page = f"https://drive.google.com/uc?id={drive_id}"
    url = cfg.weights.url or page
    scratch = path.parent / ".download"
    try:
        downloaded = download(url, scratch / path.name)
        reason = why_wrong(downloaded, sha256)
        if not reason:
            with written_whole(path) as part:
                shutil.move(downloaded, part)
    except (DownloadError, RequestException) as error:
        reason = brief(error)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if reason:
        raise OperationError(f"{without_credentials(url)}: {reason}; nothing of it was kept; try again "
                             f"later, or download {page} by hand and put it at {path}")
    print(f"{path}: {path.stat().st_size} bytes, SHA-256 verified")


def download(url: str, target: Path) -> Path:
    """`target`, whatever the address gives; what a killed run left of it is used."""
    target.parent.mkdir(parents=True, exist_ok=True)
    gdown.download(url, str(target), quiet=not sys.stderr.isatty(), resume=True, use_cookies=False, timeout=TIMEOUT,
                   retries=RETRIES)
    return target


def why_wrong(path: Path, sha256: str) -> str | None:
    """Why a download is not the official file, or None."""
    found = file_sha256(path)
    if found == sha256:
        return None
    with path.open("rb") as file:
        if file.read(512).lstrip().lower().startswith((b"<!doctype", b"<html")):
            return "a web page came instead of the weights (a quota or a login?)"
    return f"{path.stat().st_size} bytes with SHA-256 {found[:12]}… instead of {sha256[:12]}…: damaged or another file"


def main() -> None:
    args = cli.parse(__doc__)
    get_weights(load_config(args.config, args.overrides))


if __name__ == "__main__":
    cli.run(main)
