"""Image files -> arrays: rgb (H,W,3) uint8, alpha (H,W) float32 in [0,1]; folders of images.

Pillow decodes: about as fast as OpenCV (a 1024² PNG in 20 against 18 ms), but OpenCV returns a truncated JPEG with
its missing part grey and no error.
"""
import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from cli import UserError, brief

TEST_SHAPE = (1024, 1024)  # height and width of the competition's test images
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # whatever a file is called: Pillow would hand EPS to Ghostscript
MOST_PIXELS = 2**27  # about 11600²; a few bytes of header can claim more than any memory holds


def read_rgb(path: str | Path) -> np.ndarray:
    """(H,W,3) uint8 of any common format: upright (EXIF), palette expanded, 16 bit scaled, transparency ignored."""
    image = _decode(path)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey = np.rint(_grey(image, path) * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def read_alpha(path: str | Path) -> np.ndarray:
    """(H,W) float32 in [0,1]: grey as it is (16 bit in full); of colours the first channel.

    Where the file has a transparency channel and its colours are all the same, that channel is the alpha.
    """
    image = _decode(path)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _grey(image, path)
    transparent = image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info
    channels = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    constant = transparent and (channels[..., :3] == channels[0, 0, :3]).all()
    return channels[..., 3 if constant else 0].astype(np.float32) / 255


def _decode(path: str | Path) -> Image.Image:
    with opened(path) as image:
        image.load()
        return ImageOps.exif_transpose(image)


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """The file with its header read and its size allowed. UserError for all that goes wrong, in the block too."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would be waited for
            raise UserError(f"{path}: is not a file")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {(getattr(error, 'strerror', None) or str(error)).lower()}") from None
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels; at most {MOST_PIXELS:,} are read: make it "
                                 "smaller")
            yield image
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything from OSError to SyntaxError and struct.error on broken files
        raise UserError(f"{path}: cannot be read as an image ({brief(error) or type(error).__name__})") from None


def _grey(image: Image.Image, path: str | Path) -> np.ndarray:
    """16-bit integer and float images, which Pillow's own conversion would clip at 255."""
    values = np.asarray(image, dtype=np.float32)
    if image.mode != "F":
        values = values / 65535
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise UserError(f"{path}: values outside [0,1] (float) or [0,65535] (integer); rescale the file")
    return values


def resize_longer_side(image: np.ndarray, size: int | None) -> np.ndarray:
    """Longer side becomes `size` (None: as it is), aspect kept; area filter down, so that soft edges stay right."""
    height, width = image.shape[:2]
    ratio = (size or max(height, width)) / max(height, width)
    if ratio == 1:
        return image
    shape = max(1, round(width * ratio)), max(1, round(height * ratio))
    return cv2.resize(image, shape, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)


def natural_key(name: str) -> list:
    """Sorts img2 before img10."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def is_text(name: str) -> bool:
    """Whether a file's name is valid UTF-8, so that a CSV can hold it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def list_images(folder: str | Path) -> tuple[list[Path], int]:
    """The images of a folder in natural order, and how many other visible files are ignored."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images")
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    images = sorted((p for p in files if p.suffix.lower() in SUFFIXES), key=lambda p: natural_key(p.name))
    if not images:
        raise UserError(f"{folder}: no image in it ({', '.join(sorted(SUFFIXES))})")
    return images, len(files) - len(images)


def read_shape(path: str | Path) -> tuple[int, int]:
    """(H,W) of the upright image, from the header alone."""
    with opened(path) as image:
        width, height = image.size
        # Pillow gives a TIFF's size upright already
        turned = image.format != "TIFF" and 5 <= image.getexif().get(ExifTags.Base.Orientation, 1) <= 8
    return (width, height) if turned else (height, width)


def is_readable(path: Path) -> bool:
    """Whether it has the header of an image."""
    try:
        read_shape(path)
    except UserError:
        return False
    return True


def read_shapes(paths: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """{name without extension: (H,W)}: what a submission for these images is held against."""
    return {path.stem: read_shape(path) for path in paths}
