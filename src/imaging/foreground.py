"""The object's own colour where the background shows through: without it cut-outs have a halo."""
import contextlib
import functools
import hashlib
import importlib.util
import os
import stat
import tempfile
import threading
from pathlib import Path

import cv2
import numpy as np

from core.errors import UserError
from core.files import stamp
from imaging.cache import Cache
from imaging.images import read_rgb, write_image

ONE_AT_A_TIME = threading.Lock()


def estimate_foreground(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H,W,3) uint8 from rgb (H,W,3) uint8 and alpha (H,W): pymatting's multilevel method (Germer et al., 2020).

    If no pixel is soft, or there is only one, rgb itself.
    """
    if alpha.size == 1 or not ((alpha > 0.005) & (alpha < 0.995)).any():
        return rgb
    # Of numba's threading layers this one survives the fork into a DataLoader worker (OpenMP does not) and shares
    # nothing with OpenVINO (whose TBB would hang at exit). It is not thread-safe, hence the lock.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    settle_cache()
    try:
        from pymatting import estimate_foreground_ml  # slow to import, and absent from Kaggle's image
    except ImportError:
        raise UserError("pymatting, needed for augment.background_p, infer.cutout_dir and data.source=rgba, is not "
                        "installed; pip install pymatting, or do without these") from None
    with ONE_AT_A_TIME:
        foreground = estimate_foreground_ml(rgb / np.float32(255), alpha.astype(np.float32))
    return np.rint(np.clip(foreground, 0, 1) * 255).astype(np.uint8)


@functools.cache
def settle_cache() -> None:
    """Gives numba a writable cache folder, without which pymatting cannot be imported.

    numba tries $NUMBA_CACHE_DIR, pymatting's own folder and the user's cache; if none is writable, it gets a temporary
    folder, which the next process reuses.
    """
    package = importlib.util.find_spec("pymatting")
    if package is None:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    places = [os.environ.get("NUMBA_CACHE_DIR"), str(Path(package.origin).parent / "util/__pycache__"), f"{home}/numba"]
    if not any(place and is_writable(place) for place in places):
        os.environ["NUMBA_CACHE_DIR"] = own_temporary(f"numba-{os.getuid()}")


def is_writable(folder: str) -> bool:
    """Tested as numba does it; creates the folder."""
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return True
    except OSError:
        return False


def own_temporary(name: str) -> str:
    """A temporary folder that only this user can write to, as numba runs code from it."""
    folder = os.path.join(tempfile.gettempdir(), name)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            return tempfile.mkdtemp(prefix=f"{name}-")
    return folder


def cached_foreground(cache: Cache, sources: tuple[Path, Path], rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """estimate_foreground(), kept in `cache` until one of the source files changes."""
    identity = str([*map(stamp, sources), rgb.shape])
    path = cache.folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.png"
    with contextlib.suppress(UserError):  # missing or damaged
        return read_rgb(path)
    foreground = estimate_foreground(rgb, alpha)
    cache.keep(lambda: write_image(path, foreground, [cv2.IMWRITE_PNG_COMPRESSION, 1]))
    return foreground
