"""Image files -> rgb (H,W,3) uint8, and back; folders of images. Alphas are read in alphas.py.

Pillow decodes, not OpenCV: it is about as fast (a 1024² PNG takes 20 ms, not 18), and OpenCV fills the missing part of
a truncated JPEG with grey, without an error.
"""
import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from core.errors import OperationError, UserError, brief, out_of_resources
from core.files import written_whole
from core.ownership import signed
from imaging.formats import SUFFIXES as UNREAD
from imaging.formats import foreign

TEST_SHAPE = (1024, 1024)  # height and width of the competition's test images
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # regardless of a file's suffix: Pillow would run Ghostscript on EPS
MOST_TEXT = 2**25  # bytes of a PNG's text, unpacked: image generators store whole workflows there
DNG_VERSION = 50706  # TIFF tag
MOST_PIXELS = 2**27  # about 11600²; a header of a few bytes can claim any size


def read_rgb(path: str | Path) -> np.ndarray:
    """(H,W,3) uint8 of any common format: upright (EXIF), palette expanded, 16 bit scaled, transparency ignored."""
    with opened(path) as image:
        if is_deep(image):
            grey = np.rint(deep_grey(image, path)[0] * 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(upright(image).convert("RGB"))


def upright(image: Image.Image) -> Image.Image:
    image.load()
    return ImageOps.exif_transpose(image)


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """The image, its header read, its size and kind checked. UserError for a bad file, also from within the block.

    Too many open files and a full memory are no fault of the file: they are raised as they are.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a named pipe would block
            raise UserError(f"{path}: is not a file")
    except (OSError, ValueError) as error:
        if out_of_resources(error):
            raise
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise UserError(f"{path}: {dangling(path) or reason}") from None
    try:
        PngImagePlugin.MAX_TEXT_CHUNK = MOST_TEXT
        with Image.open(path, formats=FORMATS) as image:
            _refuse_size_and_kind(image)
            yield image
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path}: {foreign(Path(path)) or 'cannot be read as an image (unknown format)'}") from None
    except Exception as error:  # decoders raise anything from OSError to SyntaxError and struct.error on broken files
        if out_of_resources(error):
            raise
        raise UserError(f"{path}: cannot be read as an image ({brief(error) or type(error).__name__})") from None


def _refuse_size_and_kind(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width}×{image.height} pixels; the limit is {MOST_PIXELS:,}: make it smaller")
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if DNG_VERSION in tags:
        raise ValueError("a camera's raw file; convert it to PNG or JPEG")
    if image.mode == "L" and 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, ()):
        raise ValueError("signed 8-bit values; save it as unsigned")


def dangling(path: str | Path) -> str | None:
    """What is wrong with a broken link; None for anything else."""
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        if os.path.islink(path):
            reason = "which does not exist" if isinstance(error, FileNotFoundError) else error.strerror.lower()
            return f"points to {os.readlink(path)}, {reason}; copy the files instead of the links"
    return None


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey of more than 8 bits, which Pillow's own conversion would clip at 255."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def deep_grey(image: Image.Image, path: str | Path) -> tuple[np.ndarray, int]:
    """((H,W) float32 in [0,1], the file's value for white)."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    signed = 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, ()) and bits == 16
    white = 1 if image.mode == "F" else 2**12 - 1 if bits == 12 else 2**15 - 1 if signed else 2**16 - 1
    values = np.asarray(upright(image), dtype=np.float32) / white
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise UserError(f"{path}: values outside [0,{white}]; rescale the file")
    # Pillow inverts 8-bit TIFFs whose 0 is white, but not these
    return (1 - values if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 else values), white


def resize_longer_side(image: np.ndarray, size: int | None) -> np.ndarray:
    """Longer side becomes `size` (None: no change), aspect kept; shrinks by area averaging, to keep soft edges."""
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
    """Whether a file name is valid UTF-8, so that a CSV can hold it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def list_images(folder: str | Path) -> tuple[list[Path], int]:
    """The images of a folder in natural order, and how many other visible files are ignored.

    UserError if there are none, or if one is a broken link.
    """
    images, others = image_files(folder)
    broken = [f"{path}: {reason}" for path in images if path.is_symlink() and (reason := dangling(path))]
    if broken:
        raise UserError(f"{broken[0]} ({len(broken)} broken links in {folder})")
    return images, others


def image_files(folder: str | Path) -> tuple[list[Path], int]:
    """Like list_images(), but broken links count as images."""
    folder = Path(folder)
    if not folder.is_dir():
        reason = dangling(folder) or ("is a file, not a folder of images" if folder.exists() else
                                      "no such folder of images")
        raise UserError(f"{folder}: {reason}")
    files = [path for path in folder.iterdir()
             if not path.name.startswith(".") and (path.is_file() or dangling(path))]
    images = sorted((p for p in files if p.suffix.lower() in SUFFIXES), key=lambda p: natural_key(p.name))
    unread = sorted(path.name for path in files if path.suffix.lower() in UNREAD)
    if not images:
        raise UserError(f"{folder}: has no images{_instead(folder, unread)} ({', '.join(sorted(SUFFIXES))})")
    if unread:
        print(f"note    {folder}: skipping {len(unread)} pictures whose format cannot be read, such as {unread[0]}; "
              "convert them to PNG or JPEG")
    return images, len(files) - len(images)


def _instead(folder: Path, unread: list[str]) -> str:
    """What a folder without images holds instead."""
    if unread:
        return f" but {len(unread)} pictures whose format cannot be read ({unread[0]}); convert them to PNG or JPEG"
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return f", only folders ({', '.join(folders[:3])}); choose one of them" if folders else ""


def readable_images(folder: str | Path, on_error: str) -> list[Path]:
    """The images of a folder whose headers can be read.

    UserError names the first that cannot; with on_error="skip" they are skipped and counted.
    """
    paths = list_images(folder)[0]
    with ThreadPoolExecutor() as pool:
        faults = {path: fault for path, fault in zip(paths, pool.map(_header_fault, paths), strict=True) if fault}
    if not faults:
        return paths
    first = next(iter(faults.values()))
    if on_error == "fail" or len(faults) == len(paths):
        raise UserError(f"{first} ({len(faults)} of {len(paths)} pictures in {folder} are bad; "
                        "data.on_error=skip skips them)")
    print(f"{folder}: skipped {len(faults)} of {len(paths)} pictures (data.on_error=skip), the first: {first}")
    return [path for path in paths if path not in faults]


def _header_fault(path: Path) -> str | None:
    try:
        read_shape(path)
    except UserError as error:
        return str(error)
    return None


def read_shape(path: str | Path) -> tuple[int, int]:
    """(H,W) of the upright image, from the header alone."""
    with opened(path) as image:
        width, height = image.size
        # Pillow's size of a TIFF is already upright
        turned = image.format != "TIFF" and _orientation(image) >= 5
    return (width, height) if turned else (height, width)


def is_readable(path: Path) -> bool:
    """Whether it has the header of an image."""
    return _header_fault(path) is None


def is_turned(path: str | Path) -> bool:
    """Whether the EXIF orientation swaps width and height."""
    with opened(path) as image:
        return _orientation(image) >= 5


def _orientation(image: Image.Image) -> int:
    """1 to 8; 5 to 8 swap width and height."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def read_shapes(paths: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """{name without extension: (H,W)}: what a submission for these images is checked against."""
    return {path.stem: read_shape(path) for path in paths}


def to_levels(alpha: np.ndarray) -> np.ndarray:
    """alpha (H,W) float in [0,1] (clipped) -> (H,W) uint8, rounded half up, not stretched."""
    if not np.isfinite(alpha).all():
        raise OperationError("an alpha is not finite: the weights are not, or the precision is too low for them; "
                             "set infer.precision=fp32, or train again")
    return np.floor(np.clip(alpha, 0, 1) * 255 + 0.5).astype(np.uint8)


def write_image(path: Path, image: np.ndarray, options: Sequence[int] = ()) -> None:
    """Writes (H,W) grey, (H,W,3) RGB or (H,W,4) RGBA uint8, whole or not at all. A PNG names this program."""
    swapped = image if image.ndim == 2 else image[..., [2, 1, 0, *range(3, image.shape[2])]]  # OpenCV's order
    encoded = cv2.imencode(path.suffix, np.ascontiguousarray(swapped), options)[1].tobytes()
    with written_whole(path) as part:
        part.write_bytes(signed(encoded) if path.suffix == ".png" else encoded)
