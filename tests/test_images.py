import errno
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from core.errors import UserError
from fakes.corpus import chunk
from imaging.alphas import read_alpha
from imaging.images import list_images, natural_key, read_rgb, read_shape, resize_longer_side

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
RGB = np.stack([GREY, GREY[::-1], GREY.T], 2)


def saved(tmp_path, name: str, image: Image.Image, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff"])
def test_lossless_formats_are_read_exactly(tmp_path, name):
    path = saved(tmp_path, name, Image.fromarray(RGB))
    np.testing.assert_array_equal(read_rgb(path), RGB)
    grey = saved(tmp_path, f"grey_{name}", Image.fromarray(np.dstack([GREY] * 3)))
    np.testing.assert_array_equal(read_alpha(grey), GREY / np.float32(255))


def test_webp_and_jpeg_are_read(tmp_path):
    np.testing.assert_array_equal(read_rgb(saved(tmp_path, "a.webp", Image.fromarray(RGB), lossless=True)), RGB)
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    jpeg = read_rgb(saved(tmp_path, "a.jpg", Image.fromarray(smooth), quality=95))
    assert np.abs(jpeg.astype(int) - smooth).max() < 4


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    wide = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    np.testing.assert_allclose(read_alpha(tmp_path / "wide.png"), wide / 65535, atol=1e-7)
    np.testing.assert_array_equal(read_rgb(tmp_path / "wide.png")[..., 1], np.rint(wide / 257))


def test_16_bit_colour_is_scaled(tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), RGB[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_rgb(tmp_path / "wide.png"), RGB)


def test_palette_is_expanded_with_and_without_transparency(tmp_path):
    palette = Image.fromarray(RGB).quantize(64)
    np.testing.assert_array_equal(read_rgb(saved(tmp_path, "p.png", palette)), np.asarray(palette.convert("RGB")))
    assert read_rgb(saved(tmp_path, "t.png", palette, transparency=0)).shape == (8, 8, 3)


def test_alpha_of_a_cut_out_is_its_transparency_unless_that_is_constant(tmp_path):
    cutout = Image.fromarray(np.dstack([RGB, GREY.T]))
    np.testing.assert_array_equal(read_alpha(saved(tmp_path, "c.png", cutout)), GREY.T / np.float32(255))
    for opacity in (255, 128, 0):  # grey mattes saved with an unused transparency channel
        matte = Image.fromarray(np.dstack([GREY] * 3 + [np.full_like(GREY, opacity)]))
        np.testing.assert_array_equal(read_alpha(saved(tmp_path, "m.png", matte)), GREY / np.float32(255))
    empty = saved(tmp_path, "e.png", Image.new("RGBA", (8, 8), (255, 255, 255, 0)))
    assert not read_alpha(empty).any()
    palette = Image.fromarray(GREY % 16).convert("P")
    path = saved(tmp_path, "p.png", palette, transparency=bytes(range(0, 256, 16)))
    np.testing.assert_array_equal(read_alpha(path), GREY % 16 * np.float32(16) / 255)


COLOURS = {"rgb.png": Image.fromarray(RGB), "palette.png": Image.fromarray(RGB).quantize(16),
           "red.jpg": Image.new("RGB", (16, 16), (200, 30, 30)),
           "dark.png": Image.fromarray(np.dstack([GREY // 16, 0 * GREY, 0 * GREY]))}  # object numbers as red
CLASSES = Image.fromarray((GREY > 100).astype(np.uint8))
CLASSES.putpalette([0, 0, 0, 128, 128, 128, 128, 0, 0])
COLOURS["one_class_is_grey.png"] = CLASSES


@pytest.mark.parametrize("name", COLOURS)
def test_a_coloured_alpha_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: (has colours, but|is a class map)"):
        read_alpha(saved(tmp_path, name, COLOURS[name]))


def test_grey_in_three_channels_may_carry_a_jpegs_noise_or_a_grey_palette(tmp_path):
    rng = np.random.default_rng(0)
    matte = np.kron(GREY, np.ones((8, 8), np.uint8))
    noisy = np.clip(matte[..., None] + rng.integers(-8, 9, (64, 64, 3)), 0, 255).astype(np.uint8)
    path = saved(tmp_path, "noisy.jpg", Image.fromarray(noisy), quality=75)
    assert np.abs(read_alpha(path) * 255 - matte).mean() < 8
    path = saved(tmp_path, "palette.png", Image.fromarray(GREY).quantize(256))
    np.testing.assert_array_equal(read_alpha(path), GREY / np.float32(255))


@pytest.mark.parametrize("values, words", [
    (GREY // 252, "largest value is 1 of 255: a mask of 0 and 1; .*multiply all values by 255"),
    (np.dstack([GREY // 252] * 3), "largest value is 1 of 255"),
    ((GREY > 9).astype(np.uint16), "largest value is 1 of 65535: .*by 65535"),
    (GREY.astype(np.uint16) + 3, "largest value is 255 of 65535; .*by 257"),
    (GREY.astype(np.uint16) * 4 + 15, "largest value is 1023 of 65535; .*by 64.0616"),
    (GREY / np.float32(255 * 255), "largest value is 0.0039 of 1; .*by 2"),
])
def test_an_alpha_in_other_units_is_refused(tmp_path, values, words):
    with pytest.raises(UserError, match=words):
        read_alpha(saved(tmp_path, "mask.tif", Image.fromarray(values)))


def test_a_mask_of_0_and_1_in_16_bit_colours_is_refused_and_an_empty_one_is_not(tmp_path):
    for top in (0, 1):
        cv2.imwrite(str(tmp_path / f"{top}.png"), np.dstack([(GREY > 100).astype(np.uint16) * top] * 3))
    assert not read_alpha(tmp_path / "0.png").any()
    with pytest.raises(UserError, match="largest value is 1 of 65535"):
        read_alpha(tmp_path / "1.png")


def test_an_empty_or_faint_alpha_is_accepted(tmp_path):
    for top in (0, 2, 30):
        values = np.minimum(GREY, top)
        path = saved(tmp_path, "a.png", Image.fromarray(values))
        np.testing.assert_array_equal(read_alpha(path), values / np.float32(255))


def tiff(path, bits: int, white_is_zero: bool, data: bytes, order: str = "<", sample_format: int = 1):
    """A TIFF of 8×8 grey pixels, uncompressed."""
    tags = [(256, 8), (257, 8), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 8), (277, 1), (278, 8),
            (279, len(data)), (339, sample_format)]
    body = data + struct.pack(f"{order}H", len(tags))
    for tag, value in tags:
        body += struct.pack(f"{order}HHI", tag, 3, 1) + struct.pack(f"{order}HH", value, 0)
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    path.write_bytes(start + body + bytes(4))
    return path


def packed(values: np.ndarray, bits: int) -> bytes:
    """The lowest bits of the values, concatenated."""
    return np.packbits(np.unpackbits(values.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 16 - bits:]).tobytes()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_grey_tiffs_of_all_depths(tmp_path, bits, order, white_is_zero):
    levels = (np.arange(64).reshape(8, 8) * 2654435761 % 65521) >> (16 - bits)
    levels[0, :2] = 0, 2**bits - 1
    data = levels.astype(f"{order}u2").tobytes() if bits == 16 else packed(levels, bits)
    path = tiff(tmp_path / "a.tif", bits, white_is_zero, data, order)
    if (bits, white_is_zero, order) in ((12, True, "<"), (12, True, ">"), (12, False, ">"), (16, True, ">")):
        with pytest.raises(UserError, match=r"a TIFF that .* cannot be read; save it as PNG"):  # not in Pillow
            read_alpha(path)
        return
    expected = levels / (2**bits - 1)
    np.testing.assert_allclose(read_alpha(path), 1 - expected if white_is_zero else expected, atol=1e-6)
    np.testing.assert_allclose(read_rgb(path)[..., 0] / 255, read_alpha(path), atol=0.51 / 255)


def test_signed_and_float_tiffs(tmp_path):
    levels = np.linspace(0, 2**15 - 1, 64).astype("<i2").reshape(8, 8)
    path = tiff(tmp_path / "a.tif", 16, False, levels.tobytes(), sample_format=2)
    np.testing.assert_allclose(read_alpha(path), levels / np.float32(2**15 - 1), atol=1e-6)
    with pytest.raises(UserError, match="outside"):
        read_alpha(tiff(tmp_path / "a.tif", 16, False, (-levels).tobytes(), sample_format=2))
    with pytest.raises(UserError, match="signed"):
        read_alpha(tiff(tmp_path / "a.tif", 8, False, bytes(64), sample_format=2))
    share = np.linspace(0, 1, 64, dtype="<f4").reshape(8, 8)
    path = tiff(tmp_path / "a.tif", 32, True, share.tobytes(), sample_format=3)
    np.testing.assert_allclose(read_alpha(path), 1 - share, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_is_scaled(tmp_path, bits):
    levels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 2**bits
    header = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)
    rows = b"".join(b"\0" + packed(row, bits) for row in levels)
    body = b"".join(chunk(*part) for part in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    np.testing.assert_allclose(read_alpha(tmp_path / "a.png"), levels / (2**bits - 1), atol=1e-6)


def test_a_png_with_a_long_text_is_read(tmp_path):
    note = PngImagePlugin.PngInfo()
    note.add_text("workflow", "node " * 2**20, zip=True)
    np.testing.assert_array_equal(read_rgb(saved(tmp_path, "a.png", Image.fromarray(RGB), pnginfo=note)), RGB)


@pytest.mark.parametrize("start, words", [
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC picture; convert it to PNG or JPEG"),
    (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "is an AVIF picture; convert it"),
    (b"\0\0\0\x14ftypisom\0\0\0\0isom", "is a video"), (b"GIF89a", "is a GIF"), (b"8BPS", "is a Photoshop file"),
    (b'<?xml version="1.0"?>\n<svg>', "is an SVG drawing"), (b"\xef\xbb\xbf <!DOCTYPE html>", "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer.*git lfs pull"), (b"", "is empty"),
    (b"no picture", "cannot be read as an image"),
])
def test_other_formats_are_recognised_despite_the_suffix(tmp_path, start, words):
    (tmp_path / "a.jpg").write_bytes(start)
    with pytest.raises(UserError, match=f"a.jpg: {words}"):
        read_rgb(tmp_path / "a.jpg")


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # rotate clockwise to display
    path = saved(tmp_path, "turned.png", Image.fromarray(RGB[:4]), exif=exif)
    np.testing.assert_array_equal(read_rgb(path), np.rot90(RGB[:4], -1))
    assert read_shape(path) == (8, 4)


def test_cmyk_jpeg_and_greyscale_become_rgb(tmp_path):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    red = read_rgb(saved(tmp_path, "cmyk.jpg", cmyk, quality=95))
    assert red[..., 0].min() > 240 and red[..., 1:].max() < 15
    np.testing.assert_array_equal(read_rgb(saved(tmp_path, "g.png", Image.fromarray(GREY)))[..., 2], GREY)
    bit = Image.fromarray(GREY > 100)
    np.testing.assert_array_equal(read_alpha(saved(tmp_path, "bit.png", bit)), (GREY > 100).astype(np.float32))


def test_float_alpha_is_accepted_in_range_and_refused_out_of_range(tmp_path):
    np.testing.assert_array_equal(read_alpha(saved(tmp_path, "f.tif", Image.fromarray(GREY / np.float32(255)))),
                                  GREY / np.float32(255))
    with pytest.raises(UserError, match="outside"):
        read_alpha(saved(tmp_path, "g.tif", Image.fromarray(GREY.astype(np.float32))))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_truncated_and_empty_files_are_refused(tmp_path, name):
    rng = np.random.default_rng(0)
    path = saved(tmp_path, name, Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)))
    whole = path.read_bytes()
    for length in (len(whole) // 2, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=name):
            read_rgb(path)
    with pytest.raises(UserError, match="no such file"):
        read_rgb(tmp_path / "missing.png")


def test_the_longer_side_sets_the_size():
    assert resize_longer_side(np.zeros((100, 50, 3), np.uint8), 20).shape == (20, 10, 3)
    assert resize_longer_side(np.zeros((5, 300)), 30).shape == (1, 30)
    image = np.zeros((7, 9))
    assert resize_longer_side(image, None) is image


def test_folders_are_listed_in_natural_order_and_others_counted(tmp_path):
    for name in ("10.png", "2.png", "1.PNG", ".hidden.png", "notes.txt"):
        saved(tmp_path, "x.png", Image.fromarray(GREY)).rename(tmp_path / name)
    paths, ignored = list_images(tmp_path)
    assert [path.name for path in paths] == ["1.PNG", "2.png", "10.png"] and ignored == 1
    assert sorted(["img10", "img2", "a", "007"], key=natural_key) == ["007", "a", "img2", "img10"]


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no images \("):
        list_images(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "day1").mkdir()
    with pytest.raises(UserError, match=r"only folders \(day1\); choose one of them"):
        list_images(tmp_path)
    (tmp_path / "a.HEIC").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 pictures whose format cannot be read \(a.HEIC\); convert"):
        list_images(tmp_path)
    with pytest.raises(UserError, match="is a file, not a folder"):
        list_images(tmp_path / "a.HEIC")


def test_broken_links_and_pictures_of_other_formats_are_reported(tmp_path, capsys):
    saved(tmp_path, "a.png", Image.fromarray(GREY))
    (tmp_path / "b.heic").write_bytes(b"")
    assert list_images(tmp_path) == ([tmp_path / "a.png"], 1)
    assert "skipping 1 pictures whose format cannot be read, such as b.heic; convert" in capsys.readouterr().out
    (tmp_path / "c.png").symlink_to("../blobs/0123")
    with pytest.raises(UserError, match=r"c.png: points to ../blobs/0123, which does not exist.*\(1 broken links"):
        list_images(tmp_path)
    (tmp_path / "folder").symlink_to("gone")
    with pytest.raises(UserError, match="folder: points to gone, which does not exist"):
        list_images(tmp_path / "folder")


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENFILE, "file table"),
                                   OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError()])
def test_a_lack_of_memory_or_file_descriptors_is_not_a_bad_image(tmp_path, monkeypatch, error):
    path = saved(tmp_path, "a.png", Image.fromarray(RGB))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(type(error)) as raised:
        read_rgb(path)
    assert raised.value is error
