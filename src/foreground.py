"""The object's own colour, also where the background shines through: without it cut-outs carry a halo."""
import hashlib
from pathlib import Path

import cv2
import numpy as np

from cli import UserError, written_whole
from images import read_rgb


def estimate_foreground(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H,W,3) uint8 from rgb (H,W,3) uint8 and alpha (H,W): pymatting's multilevel method (Germer et al., 2020).

    Where nothing is soft, the image's own colours.
    """
    if not ((alpha > 0.005) & (alpha < 0.995)).any():
        return rgb
    try:
        from pymatting import estimate_foreground_ml  # slow to import, and absent from Kaggle's image
    except ImportError:
        raise UserError("pymatting is not installed: augment.background_p and infer.cutout_dir need it "
                        "(pip install pymatting), or set them to 0 and null") from None
    foreground = estimate_foreground_ml(rgb / 255.0, alpha.astype(np.float64))
    return np.rint(np.clip(foreground, 0, 1) * 255).astype(np.uint8)


def cached_foreground(folder: Path, sources: tuple[Path, Path], rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """estimate_foreground(), computed once and kept in `folder` until one of its source files changes."""
    identity = str([(str(path.resolve()), path.stat().st_mtime_ns) for path in sources] + [rgb.shape])
    path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.png"
    if not path.exists():
        encoded = cv2.imencode(".png", estimate_foreground(rgb, alpha)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
        with written_whole(path) as part:
            part.write_bytes(encoded)
    return read_rgb(path)
