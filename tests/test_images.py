import cv2
import numpy as np
import pytest
from PIL import Image

from cli import UserError
from images import list_images, natural_key, read_alpha, read_rgb, read_shape, resize_longer_side

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
RGB = np.stack([GREY, GREY[::-1], GREY.T], 2)


def saved(tmp_path, name: str, image: Image.Image, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff"])
def test_lossless_formats_are_read_exactly(tmp_path, name):
    path = saved(tmp_path, name, Image.fromarray(RGB))
    np.testing.assert_array_equal(read_rgb(path), RGB)
    np.testing.assert_array_equal(read_alpha(path), RGB[..., 0] / np.float32(255))


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


def test_alpha_of_rgba_is_the_colour_unless_that_is_constant(tmp_path):
    coloured = Image.fromarray(np.dstack([RGB, GREY.T]))
    np.testing.assert_array_equal(read_alpha(saved(tmp_path, "c.png", coloured)), RGB[..., 0] / np.float32(255))
    constant = Image.fromarray(np.dstack([np.full_like(RGB, 255), GREY]))
    np.testing.assert_array_equal(read_alpha(saved(tmp_path, "k.png", constant)), GREY / np.float32(255))


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # stored lying on its side: turn clockwise to see it upright
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


def test_float_alpha_in_range_is_taken_and_out_of_range_refused(tmp_path):
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
    with pytest.raises(UserError, match="no image in it"):
        list_images(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "nowhere")
