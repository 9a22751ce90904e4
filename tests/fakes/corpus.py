"""Image files of all kinds, from good ones to traps: `files()` makes them, always the same."""
import io
import pickle
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, PngImagePlugin

GREY = np.linspace(0, 255, 24 * 16).astype(np.uint8).reshape(16, 24)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], 2)


@dataclass(frozen=True)
class File:
    name: str
    content: bytes
    rgb: np.ndarray | None = None  # the correct result; None: not known
    good: bool | None = None       # True: must be read; False: must be refused; None: either, but if read then as `rgb`
    tolerance: int = 0             # of lossy formats, in levels


def encoded(array: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def files() -> Iterator[File]:
    whole = {
        "rgb.png": encoded(RGB, "png"), "palette.png": encoded(RGB, "png", "P"),
        "wide.png": encoded(GREY.astype(np.uint16) * 257, "png"), "rgba.png": encoded(RGB, "png", "RGBA"),
        "q.jpg": encoded(RGB, "jpeg", quality=90), "progressive.jpg": encoded(RGB, "jpeg", progressive=True),
        "lossless.webp": encoded(RGB, "webp", lossless=True), "lossy.webp": encoded(RGB, "webp"),
        "raw.tif": encoded(RGB, "tiff"), "lzw.tif": encoded(RGB, "tiff", compression="tiff_lzw"),
        "a.bmp": encoded(RGB, "bmp"),
    }
    decoded = {name: np.asarray(Image.open(io.BytesIO(body)).convert("RGB")) for name, body in whole.items()
               if name != "wide.png"} | {"wide.png": np.repeat(GREY[..., None], 3, 2)}
    yield from (File(f"whole_{name}", body, decoded[name], good=True) for name, body in whole.items())
    yield from truncated(whole, decoded)
    yield from flipped(whole, decoded)
    yield from bombs()
    yield from unusual()
    yield from no_images()
    yield from named(whole["rgb.png"])


def truncated(whole: dict, decoded: dict) -> Iterator[File]:
    """Must be refused, unless the missing part holds no pixels (an end mark, for example)."""
    for name, body in whole.items():
        for i, length in enumerate(np.linspace(1, len(body) - 1, 11).astype(int)):
            yield File(f"cut{i}_{name}", body[:length], decoded[name])


def flipped(whole: dict, decoded: dict) -> Iterator[File]:
    """One bit is wrong. PNG has checksums; other formats cannot detect a wrong pixel, so any picture may result."""
    rng = random.Random(1)
    for name, body in whole.items():
        for i in range(11):
            hurt = bytearray(body)
            hurt[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
            yield File(f"flip{i}_{name}", bytes(hurt), decoded[name] if name.endswith("png") else None)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 8, color: int = 0, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *more, *end))


def bombs() -> Iterator[File]:
    """A few bytes that claim to be a large image."""
    small = {kind: encoded(RGB, kind) for kind in ("bmp", "jpeg", "tiff", "webp")}
    for side in (20_000, 65_500, 2**31 - 1):
        yield File(f"claims_{side}.png", png(side, side), good=False)
        bmp = small["bmp"][:18] + struct.pack("<ii", side, side) + small["bmp"][26:]
        yield File(f"claims_{side}.bmp", bmp, good=False)
    for side in (20_000, 65_500):
        at = small["jpeg"].index(b"\xff\xc0") + 5
        yield File(f"claims_{side}.jpg", small["jpeg"][:at] + struct.pack(">HH", side, side) + small["jpeg"][at + 4:],
                   good=False)
        yield File(f"claims_{side}.tif", larger(small["tiff"], side), good=False)
    text = zlib.compress(bytes(50_000_000), 9)
    yield File("text.png", png(8, 8, 8, 0, chunk(b"zTXt", b"Comment\0\0" + text)), good=False)
    yield File("itext.png", png(8, 8, 8, 0, chunk(b"iTXt", b"Comment\0\1\0\0\0" + text)), good=False)
    yield File("profile.png", png(8, 8, 8, 0, chunk(b"iCCP", b"icc\0\0" + text)))
    yield File("too_much_data.png", png(8, 8, 8, 0, chunk(b"IDAT", text[:1000])))
    yield File("riff.webp", b"RIFF" + struct.pack("<I", 2**32 - 1) + small["webp"][8:])


def larger(tiff: bytes, side: int) -> bytes:
    """A TIFF whose directory claims this width and height."""
    start, = struct.unpack_from("<I", tiff, 4)
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", tiff, start)[0], 12):
        if struct.unpack_from("<H", tiff, entry)[0] in (256, 257):
            tiff = tiff[:entry + 2] + struct.pack("<HII", 4, 1, side) + tiff[entry + 12:]
    return tiff


def unusual() -> Iterator[File]:
    """Rare, but valid."""
    for width, height in ((1, 1), (1, 20_000), (20_000, 1), (2, 3), (31, 33)):
        rgb = np.resize(RGB, (height, width, 3))
        yield File(f"{width}x{height}.png", encoded(rgb, "png"), rgb, good=True)
    for kind in ("png", "tiff"):
        wide = encoded(GREY.astype(np.uint16) * 257, kind)
        yield File(f"wide.{kind}", wide, np.repeat(GREY[..., None], 3, 2), good=True)
    yield File("float.tif", encoded(GREY.astype(np.float32) / 255, "tiff"), np.repeat(GREY[..., None], 3, 2), good=True)
    yield File("float_out_of_range.tif", encoded(GREY.astype(np.float32) * 9, "tiff"), good=False)
    yield File("float_nan.tif", encoded(np.full((4, 4), np.nan, np.float32), "tiff"), good=False)
    yield File("int32.tif", encoded(GREY.astype(np.int32) * 100_000, "tiff"), good=False)
    yield File("negative.tif", encoded(-GREY.astype(np.int32) - 1, "tiff"), good=False)
    yield File("cmyk.jpg", encoded(RGB, "jpeg", "CMYK", quality=95), RGB, good=True, tolerance=40)
    yield File("cmyk.tif", encoded(RGB, "tiff", "CMYK"), RGB, good=True, tolerance=1)
    yield File("ycbcr.tif", encoded(RGB, "tiff", "YCbCr"), RGB, good=True, tolerance=4)
    yield File("lab.tif", encoded(RGB, "tiff", "LAB"))
    for mode in ("L", "LA", "1", "RGBA"):
        image = Image.fromarray(RGB).convert(mode)
        yield File(f"mode_{mode}.png", encoded(RGB, "png", mode), np.asarray(image.convert("RGB")), good=True)
    palette = Image.fromarray(RGB).quantize(32)
    for name, transparency in (("index", 3), ("bytes", bytes(range(0, 256, 8)))):
        buffer = io.BytesIO()
        palette.save(buffer, "png", transparency=transparency)
        yield File(f"palette_{name}.png", buffer.getvalue(), np.asarray(palette.convert("RGB")), good=True)
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    for kind in ("png", "webp", "tiff"):
        buffer = io.BytesIO()
        options = {"lossless": True} if kind == "webp" else {}
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], **options)
        yield File(f"animated.{kind}", buffer.getvalue(), RGB, good=True)
    turns = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
             6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}
    for orientation in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535):
        exif = Image.Exif()
        exif[0x112] = orientation
        for kind in ("png", "tiff"):
            yield File(f"turned_{orientation}.{kind}", encoded(RGB, kind, exif=exif),
                       turns.get(orientation, lambda a: a)(RGB), good=True)
    yield File("exif_garbage.png", encoded(RGB, "png", exif=b"Exif\0\0" + bytes(range(60))), RGB)
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "x" * 10_000, zip=True)
    yield File("commented.png", encoded(RGB, "png", pnginfo=note), RGB, good=True)


class Canary:
    def __reduce__(self):
        return exec, ("open('canary', 'w')",)


def no_images() -> Iterator[File]:
    postscript = (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
                  b"(canary) (w) file closefile\nshowpage\n")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    contents = {
        "empty": b"", "zero": b"\0", "zeros": bytes(5000), "text": b"no image", "html": b"<!DOCTYPE html><html></html>",
        "eps": postscript, "pdf": b"%PDF-1.4\n%%EOF", "svg": svg, "zip": b"PK\x05\x06" + bytes(18),
        "elf": b"\x7fELF" + bytes(90),
        "pickle": pickle.dumps(Canary()), "gif": encoded(RGB, "gif"), "ico": encoded(RGB, "ico"),
        "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
        "signature": b"\x89PNG\r\n\x1a\n", "soi": b"\xff\xd8\xff", "riff": b"RIFF\0\0\0\0WEBP",
        "tiff": b"II*\0\x08\0\0\0",
        "loop": b"II*\0\x08\0\0\0\x01\0\0\x01\x03\0\x01\0\0\0\x08\0\0\0\x08\0\0\0", "bm": b"BM",
    }
    yield from (File(f"no_{name}.png", content, good=False) for name, content in contents.items())


NAMES = ("a,b", 'a"b', "a'b", "line\nbreak", "return\rhere", "tab\there", "two.dots.in", ".dot", "..", "end.",
         " space ", "-dash", "--config=x", "$(touch canary)", "`touch canary`", ";touch canary", "%s%n", "{0}",
         "Ünïcödé", "日本語",
         "😀", "\x1b[2Jansi", "<b>&amp;", "x" * 200, "=1+1", "#comment", "a\\b", "*?[x]", "\u202erevers", "NULL")


def named(body: bytes) -> Iterator[File]:
    yield from (File(f"{name}.png", body, RGB, good=True) for name in NAMES)
