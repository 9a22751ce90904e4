"""Names the format of a file that cannot be read as an image, from its first bytes, with a remedy."""
from pathlib import Path

CONVERT = "convert it to PNG or JPEG, e.g. with ImageMagick: magick IN OUT.png"
DOWNLOAD = "download the file again"
TIFF = ("a TIFF that is damaged or of a kind that cannot be read", "save it as PNG, or as a TIFF of 8 or 16 bits "
        "whose 0 is black")
HEIC = ("heic", "heix", "hevc", "heim", "heis", "mif1", "msf1")  # brands of ISO files
# First bytes -> (kind of file, remedy).
STARTS = {
    b"GIF8": ("a GIF", CONVERT), b"8BPS": ("a Photoshop file", CONVERT), b"v/1\1": ("an OpenEXR picture", CONVERT),
    b"\0\0\0\x0cjP  ": ("a JPEG 2000 picture", CONVERT), b"\xff\x4f\xff\x51": ("a JPEG 2000 picture", CONVERT),
    b"\0\0\0\x0cJXL ": ("a JPEG XL picture", CONVERT), b"\xff\x0a": ("a JPEG XL picture", CONVERT),
    b"%PDF": ("a PDF", CONVERT), b"%!PS": ("PostScript", CONVERT), b"<svg": ("an SVG drawing", CONVERT),
    b"\0\0\1\0": ("an icon (ICO)", CONVERT), b"#?RADIANCE": ("a Radiance HDR picture", CONVERT),
    b"DDS ": ("a DirectDraw (DDS) picture", CONVERT), b"P5": ("a PGM picture", CONVERT),
    b"P6": ("a PPM picture", CONVERT), b"II\xbc\1": ("a JPEG XR picture", CONVERT),
    b"FUJIFILMCCD-RAW": ("a camera's raw file", CONVERT), b"IIRO": ("a camera's raw file", CONVERT),
    b"IIU\0": ("a camera's raw file", CONVERT), b"\x93NUMPY": ("a NumPy array", "save it as PNG"),
    b"II*\0": TIFF, b"MM\0*": TIFF,
    b"PK\3\4": ("a zip archive", "unpack it"),
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "run git lfs pull"),
    b"<!doctype": ("a web page", DOWNLOAD), b"<html": ("a web page", DOWNLOAD),
}
# Suffixes of pictures that cannot be read.
SUFFIXES = {".heic", ".heif", ".avif", ".gif", ".jxl", ".jp2", ".j2k", ".psd", ".exr", ".hdr", ".dng", ".cr2", ".cr3",
            ".nef", ".arw", ".orf", ".raf", ".rw2", ".svg", ".pdf", ".jfif", ".tga", ".ppm", ".pgm"}


def foreign(path: Path) -> str | None:
    """`is a HEIC picture; convert it …`, or None if the kind of file is unknown."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return None
    if not head:
        return f"is empty; {DOWNLOAD}"
    kind, remedy = _known(head)
    return f"is {kind}; {remedy}" if kind else None


def _known(head: bytes) -> tuple[str | None, str]:
    if head[4:8] == b"ftyp":
        return _iso(head), CONVERT
    if head[128:132] == b"DICM":
        return "a DICOM file", CONVERT
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<?xml") and b"<svg" in text:
        return STARTS[b"<svg"]
    return next((known for start, known in STARTS.items() if head.startswith(start) or text.startswith(start)),
                (None, ""))


def _iso(head: bytes) -> str:
    """HEIC, AVIF and videos share one container, whose first box lists compatible brands."""
    length = int.from_bytes(head[:4])
    brands = [head[8:12].decode("latin-1"), *(head[at:at + 4].decode("latin-1") for at in range(16, length, 4))]
    if "avif" in brands or "avis" in brands:
        return "an AVIF picture"
    if brands[0] == "crx ":
        return "a camera's raw file (CR3)"
    return "a HEIC picture" if any(brand in HEIC for brand in brands) else "a video"
