"""Image files -> arrays: rgb (H,W,3) uint8, alpha (H,W) float32 in [0,1]; folders of images.

Pillow decodes: about as fast as OpenCV (a 1024² PNG in 20 against 18 ms), but OpenCV returns a truncated JPEG with
its missing part grey and no error.
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

from core.errors import OperationError, UserError, brief
from core.files import written_whole
from core.ownership import signed
from imaging.formats import SUFFIXES as UNREAD
from imaging.formats import foreign

TEST_SHAPE = (1024, 1024)  # height and width of the competition's test images
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # whatever a file is called: Pillow would hand EPS to Ghostscript
MOST_TEXT = 2**25  # bytes of a PNG's text, unpacked: what has drawn a picture may keep its whole workflow there
MOST_NOISE = 24  # levels between the channels of a grey picture saved as a colour JPEG
DNG_VERSION = 50706  # TIFF tag
MOST_PIXELS = 2**27  # about 11600²; a few bytes of header can claim more than any memory holds


def read_rgb(path: str | Path) -> np.ndarray:
    """(H,W,3) uint8 of any common format: upright (EXIF), palette expanded, 16 bit scaled, transparency ignored."""
    with opened(path) as image:
        if _is_deep(image):
            grey = np.rint(_deep_grey(image, path)[0] * 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(_upright(image).convert("RGB"))


def read_alpha(path: str | Path) -> np.ndarray:
    """(H,W) float32 in [0,1]: of a cut-out its transparency, where that is not constant; else the grey value.

    16-bit grey is read in full. UserError for what cannot be a matte: colours, and masks of 0 and 1.
    """
    with opened(path) as image:
        deep_colours = ";16" in str(image.tile)
        alpha, white = _deep_grey(image, path) if _is_deep(image) else (_shallow_alpha(image, path), 255)
    top = float(f"{alpha.max() * white:.4f}")
    if deep_colours and not top:  # of 16-bit colours Pillow keeps the higher byte alone
        top, white = int(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., :3].max()), 2**16 - 1
    # 1 of 255 is no alpha; a 16-bit file may hold values of 8, 10, 12 or 14 bits
    if 0 < top <= white / 254 or (white == 65535 and top in (511, 1023, 2047, 4095, 8191, 16383)):
        mask = " (a mask of 0 and 1)" if top == 1 else ""
        raise UserError(f"{path}: its largest value is {top:g} of {white}: does {top:g} mean opaque{mask}? Then "
                        f"multiply all its values by {white / top:.6g}")
    return alpha


def _shallow_alpha(image: Image.Image, path: str | Path) -> np.ndarray:
    """(H,W) float32 in [0,1], from 8 bits per channel or fewer. UserError for colours."""
    upright = _upright(image)
    if upright.has_transparency_data:
        transparency = upright.convert("RGBA").getchannel("A")
        empty = transparency.getextrema() == (0, 0) and all(map(_is_constant, upright.convert("RGB").split()))
        if empty or not _is_constant(transparency):
            return np.asarray(transparency, dtype=np.float32) / 255
    if upright.mode not in ("1", "L", "LA", "La"):
        _refuse_colours(upright, path)
        upright = upright.convert("RGB")
    return np.asarray(upright.convert("L"), dtype=np.float32) / 255


def _refuse_colours(image: Image.Image, path: str | Path) -> None:
    palette = image.mode in ("P", "PA")
    if is_coloured(np.asarray(image.convert("RGB"))) or (palette and _is_class_map(image)):
        raise UserError(f"{path}: " + (
            "is a map of classes (its palette has colours); draw the object white (255) on black instead" if palette
            else "is coloured, but an alpha is grey; save it as grey, or as a cut-out with transparency"))


def _is_constant(channel: Image.Image) -> bool:
    low, high = channel.getextrema()
    return low == high


def _is_class_map(image: Image.Image) -> bool:
    """Whether greys that stay below white come from a palette that has colours, as one class of many may be grey."""
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(1, -1, 3)
    return bool(np.ptp(palette.astype(int), axis=2).max() > MOST_NOISE) and image.convert("L").getextrema()[1] < 255


def is_coloured(rgb: np.ndarray) -> bool:
    """Whether the channels differ by more than a JPEG's noise in more than 1 % of what is not black."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]  # ten times as fast as along the last axis
    brightest = np.maximum(np.maximum(red, green), blue)
    spread = brightest - np.minimum(np.minimum(red, green), blue)
    top = int(brightest.max())
    coloured = np.count_nonzero(spread > min(MOST_NOISE, top // 2))
    return coloured > 0.01 * np.count_nonzero(brightest > min(MOST_NOISE, top // 4))


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    return ImageOps.exif_transpose(image)


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """The file with its header read and its size allowed. UserError for all that goes wrong, in the block too."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would be waited for
            raise UserError(f"{path}: is not a file")
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise UserError(f"{path}: {dangling(path) or reason}") from None
    try:
        PngImagePlugin.MAX_TEXT_CHUNK = MOST_TEXT
        with Image.open(path, formats=FORMATS) as image:
            _refuse_size_and_kind(image)
            yield image
    except (MemoryError, UserError):
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path}: {foreign(Path(path)) or 'cannot be read as an image (no known format)'}") from None
    except Exception as error:  # decoders raise anything from OSError to SyntaxError and struct.error on broken files
        raise UserError(f"{path}: cannot be read as an image ({brief(error) or type(error).__name__})") from None


def _refuse_size_and_kind(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width}×{image.height} pixels; at most {MOST_PIXELS:,} are read: make it smaller")
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if DNG_VERSION in tags:
        raise ValueError("a camera's raw file; convert it to PNG or JPEG")
    if image.mode == "L" and 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, ()):
        raise ValueError("signed 8-bit values; save them unsigned")


def dangling(path: str | Path) -> str | None:
    """What is wrong with a link that leads nowhere; None for anything else."""
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        if os.path.islink(path):
            reason = "which does not exist" if isinstance(error, FileNotFoundError) else error.strerror.lower()
            return f"points to {os.readlink(path)}, {reason}; copy the files, not the links to them"
    return None


def _is_deep(image: Image.Image) -> bool:
    """More than 8 bits of grey, which Pillow's own conversion would clip at 255."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def _deep_grey(image: Image.Image, path: str | Path) -> tuple[np.ndarray, int]:
    """((H,W) float32 in [0,1], the file's value for white)."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    signed = 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, ()) and bits == 16
    white = 1 if image.mode == "F" else 2**12 - 1 if bits == 12 else 2**15 - 1 if signed else 2**16 - 1
    values = np.asarray(_upright(image), dtype=np.float32) / white
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise UserError(f"{path}: values outside [0,{white}]; rescale the file")
    # Pillow inverts where white is the smallest value, but not these
    return (1 - values if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 else values), white


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
    """The images of a folder in natural order, and how many other visible files are ignored.

    UserError where there are none, and where one is a link that leads nowhere.
    """
    images, others = image_files(folder)
    broken = [f"{path}: {reason}" for path in images if path.is_symlink() and (reason := dangling(path))]
    if broken:
        raise UserError(f"{broken[0]} ({len(broken)} such links in {folder})")
    return images, others


def image_files(folder: str | Path) -> tuple[list[Path], int]:
    """As list_images, with the links that lead nowhere among the images."""
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
        raise UserError(f"{folder}: no image in it{_instead(folder, unread)} ({', '.join(sorted(SUFFIXES))})")
    if unread:
        print(f"note    {folder}: {len(unread)} pictures are left out, {unread[0]} for example: their format cannot be "
              "read; convert them to PNG or JPEG")
    return images, len(files) - len(images)


def _instead(folder: Path, unread: list[str]) -> str:
    """What there is in a folder that has no image."""
    if unread:
        return f", but {len(unread)} pictures whose format cannot be read ({unread[0]}); convert them to PNG or JPEG"
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return f", only folders ({', '.join(folders[:3])}); name one of them" if folders else ""


def readable_images(folder: str | Path, on_error: str) -> list[Path]:
    """The images of a folder whose headers can be read.

    UserError names the first that cannot; with on_error="skip" those are left out and counted.
    """
    paths = list_images(folder)[0]
    with ThreadPoolExecutor() as pool:
        faults = {path: fault for path, fault in zip(paths, pool.map(_header_fault, paths), strict=True) if fault}
    if not faults:
        return paths
    first = next(iter(faults.values()))
    if on_error == "fail" or len(faults) == len(paths):
        raise UserError(f"{first} ({len(faults)} of {len(paths)} pictures in {folder}; data.on_error=skip leaves "
                        "them out)")
    print(f"{folder}: left out {len(faults)} of {len(paths)} pictures (data.on_error=skip), the first: {first}")
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
        # Pillow gives a TIFF's size upright already
        turned = image.format != "TIFF" and _orientation(image) >= 5
    return (width, height) if turned else (height, width)


def is_readable(path: Path) -> bool:
    """Whether it has the header of an image."""
    try:
        read_shape(path)
    except UserError:
        return False
    return True


def is_turned(path: str | Path) -> bool:
    """Whether EXIF exchanges the image's sides."""
    with opened(path) as image:
        return _orientation(image) >= 5


def _orientation(image: Image.Image) -> int:
    """1 to 8; 5 to 8 exchange width and height."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def read_shapes(paths: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """{name without extension: (H,W)}: what a submission for these images is held against."""
    return {path.stem: read_shape(path) for path in paths}


def to_levels(alpha: np.ndarray) -> np.ndarray:
    """alpha (H,W) float in [0,1] (clipped) -> (H,W) uint8, rounded half up, never stretched."""
    if not np.isfinite(alpha).all():
        raise OperationError("an alpha is not finite: weights that are not, or a precision too low for them; "
                             "set infer.precision=fp32, or train again")
    return np.floor(np.clip(alpha, 0, 1) * 255 + 0.5).astype(np.uint8)


def write_image(path: Path, image: np.ndarray, options: Sequence[int] = ()) -> None:
    """(H,W) grey, (H,W,3) RGB or (H,W,4) RGBA, uint8; whole or not at all. A PNG names this program as its software."""
    swapped = image if image.ndim == 2 else image[..., [2, 1, 0, *range(3, image.shape[2])]]  # OpenCV's order
    encoded = cv2.imencode(path.suffix, np.ascontiguousarray(swapped), options)[1].tobytes()
    with written_whole(path) as part:
        part.write_bytes(signed(encoded) if path.suffix == ".png" else encoded)
