"""The object's own colour, also where the background shines through: without it cut-outs carry a halo."""
import contextlib
import hashlib
import os
import threading
from pathlib import Path

import cv2
import numpy as np

from cache import Cache
from cli import UserError
from files import stamp, written_whole
from images import read_rgb

ONE_AT_A_TIME = threading.Lock()


def estimate_foreground(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H,W,3) uint8 from rgb (H,W,3) uint8 and alpha (H,W): pymatting's multilevel method (Germer et al., 2020).

    Where nothing is soft, the image's own colours.
    """
    if not ((alpha > 0.005) & (alpha < 0.995)).any():
        return rgb
    # Of numba's kinds of threads this one survives the fork into a DataLoader worker, as OpenMP's do not, and shares
    # nothing with OpenVINO, whose copy of TBB would wait for ever when the process ends. It takes one call at a time.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    try:
        from pymatting import estimate_foreground_ml  # slow to import, and absent from Kaggle's image
    except ImportError:
        raise UserError("pymatting is not installed: augment.background_p and infer.cutout_dir need it "
                        "(pip install pymatting), or set them to 0 and null") from None
    with ONE_AT_A_TIME:
        foreground = estimate_foreground_ml(rgb / np.float32(255), alpha.astype(np.float32))
    return np.rint(np.clip(foreground, 0, 1) * 255).astype(np.uint8)


def cached_foreground(cache: Cache, sources: tuple[Path, Path], rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """estimate_foreground(), computed once and kept in `cache` until one of its source files changes."""
    identity = str([*map(stamp, sources), rgb.shape])
    path = cache.folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.png"
    with contextlib.suppress(UserError):  # not there, or damaged
        return read_rgb(path)
    foreground = estimate_foreground(rgb, alpha)
    encoded = cv2.imencode(".png", foreground[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]

    def write() -> None:
        with written_whole(path) as part:
            part.write_bytes(encoded)

    cache.keep(write)
    return foreground
