"""Source rgba: pairs from pictures with transparency."""
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import ROOT
from core.config import load_config
from core.errors import UserError
from imaging.alphas import read_alpha
from imaging.images import read_rgb
from sources import objects, rgba

SIDE = 96
RED = (200, 10, 30)


def disc(side: int = 80, soft: float = 2) -> np.ndarray:
    """(side,side) alpha in levels, its edge `soft` pixels wide."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    return np.rint(np.clip((0.3 - np.hypot(x, y)) * side / soft + 0.5, 0, 1) * 255)


def cutout(alpha: np.ndarray, colour=RED) -> Image.Image:
    colours = np.where(alpha[..., None] > 0, np.broadcast_to(colour, (*alpha.shape, 3)), 0)  # undefined outside
    return Image.fromarray(np.dstack([colours, alpha]).astype(np.uint8))


@pytest.fixture
def own(tmp_path):
    """Six red discs: two formats, two folders."""
    (tmp_path / "cutouts/more").mkdir(parents=True)
    for i in range(6):
        name = f"{'more/' if i > 2 else ''}disc {i % 3}.{'webp' if i == 5 else 'tif' if i == 4 else 'png'}"
        cutout(disc()).save(tmp_path / "cutouts" / name, **({"lossless": True} if i == 5 else {}))
    return tmp_path


@pytest.fixture
def fetch(own):
    def fetch(*more: str):
        return rgba.fetch(load_config(ROOT / "config.yaml", [
            f"data.root={own}/data", f"data.rgba_dir={own}/cutouts", f"data.rgba.size={SIDE}", *more]))
    return fetch


def pairs(split) -> list:
    return [row[:2] for row in split["train"] + split["val"]]


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_whole_objects_at_random_places_on_catalogue_backgrounds(fetch):
    split = fetch("data.rgba.per_object=3")
    assert len(pairs(split)) == 18
    sides = {side: {image.name.rsplit("-", 1)[0] for image, *_ in split[side]} for side in split}
    assert len({row[3] for side in split for row in split[side]}) == 6  # one group per file, for folds
    assert sides["train"] and sides["val"] and not sides["train"] & sides["val"]  # an object is on one side only
    centres = []
    for image, alpha in pairs(split):
        rgb, true = read_rgb(image), read_alpha(alpha)
        assert rgb.shape == (SIDE, SIDE, 3) and true.max() == 1
        assert rgb[true == 0].min() >= 235 and np.abs(rgb[true == 1].astype(int) - RED).max() <= 2
        rows, columns = np.flatnonzero(true.max(1)), np.flatnonzero(true.max(0))
        assert abs(np.ptp(rows) - np.ptp(columns)) <= 1  # not cut off
        assert 0.4 * SIDE - 2 <= np.ptp(rows) + 1 <= 0.95 * SIDE + 1
        centres.append((rows.mean(), columns.mean()))
    assert np.std(centres, axis=0).min() > 2


def test_a_second_call_makes_nothing_and_more_pairs_only_add(fetch, own):
    first = fetch()
    written = {path: path.stat().st_mtime_ns for path in (own / "data").rglob("*.png")}
    assert fetch() == first and len(written) == 12
    assert set(pairs(first)) < set(pairs(fetch("data.rgba.per_object=2")))
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    fetch(f"data.root={own}/again", "data.rgba.per_object=2")
    assert contents(own / "data") == contents(own / "again")


def test_what_has_changed_is_made_again_and_files_of_others_stay(fetch, own):
    first = fetch()
    cutout(disc(), (0, 0, 255)).save(own / "cutouts/disc 1.png")
    os.utime(own / "cutouts/disc 1.png", (1, 1))
    (own / "data/rgba/images/mine-0123456789ab-0.png").write_bytes(b"mine")
    second = fetch()
    assert len(set(pairs(first)) & set(pairs(second))) == 5
    assert not set(pairs(second)) & set(pairs(fetch("seed=7")))
    assert len(contents(own / "data/rgba")) == 13


def test_backgrounds(fetch, own):
    (own / "green").mkdir()
    Image.new("RGB", (300, 200), (0, 255, 0)).save(own / "green/1.png")
    mixed = pairs(fetch("data.rgba.background=mixed", f"data.backgrounds_dir={own}/green", "data.rgba.per_object=4"))
    green = [(read_rgb(image)[read_alpha(alpha) == 0] == (0, 255, 0)).all() for image, alpha in mixed]
    assert 5 < sum(green) < 19
    with pytest.raises(UserError, match=r"data.rgba.background=folder: set data.backgrounds_dir"):
        fetch("data.rgba.background=folder")
    stored = pairs(fetch("data.rgba.background=none", "data.rgba.per_object=4"))
    assert len(stored) == 6
    assert all(np.array_equal(np.rint(read_alpha(alpha) * 255), disc()) for _, alpha in stored)
    assert {tuple(read_rgb(image)[0, 0]) for image, _ in stored} == {(0, 0, 0)}


def test_bad_files_end_it_or_are_left_out(fetch, own, capsys):
    folder = own / "cutouts/bad"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "opaque.png")
    Image.new("RGBA", (64, 64), (1, 2, 3, 255)).save(folder / "constant.png")
    cutout(np.eye(8) * 255).save(folder / "tiny.png")
    cutout(disc() * 0.05).save(folder / "faint.png")
    (folder / "text.webp").write_text("no image")
    (folder / "link.png").symlink_to("nowhere.png")
    (folder / "photo.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"cutouts/bad/constant.png: has the same alpha everywhere \(6 files cannot "
                                        r"become pairs, 6 can; data.on_error=skip leaves them out\)"):
        fetch()
    assert len(pairs(fetch("data.on_error=skip"))) == 6
    said = capsys.readouterr().out
    for words in ("bad/opaque.png: has no transparency", "tiny.png: its object is only 8×8 pixels large",
                  "faint.png: is almost transparent", "text.webp: cannot be read", "link.png: points to nowhere.png",
                  "skipping 1 pictures whose format has no transparency", "6 files left out"):
        assert words in said


@pytest.mark.parametrize("more, words", [
    ("data.rgba_dir=null", "data.rgba_dir is not set"),
    ("data.rgba_dir=nowhere", "nowhere: no such folder of pictures"),
    ("data.root={own}/cutouts", "one of the two is inside the other"), ("data.rgba_dir={own}/none", "has no PNG, WebP"),
])
def test_folders_that_cannot_be_it(fetch, own, more, words):
    (own / "none").mkdir()
    with pytest.raises(UserError, match=words):
        fetch(more.format(own=own))


@pytest.mark.parametrize("soft", [1, 6, 30])
@pytest.mark.parametrize("mixed", [None, 255, 0])
def test_edges_lose_what_was_mixed_in_and_keep_what_was_right(soft, mixed):
    alpha = (disc(128, soft) / 255).astype(np.float32)[..., None]
    y, x = np.mgrid[:128, :128] / 128
    own = np.dstack([60 + 150 * x, 200 - 120 * y, 90 + 60 * np.sin(9 * x)])
    stored = own if mixed is None else alpha * own + (1 - alpha) * mixed
    stored = np.rint(np.where(alpha > 0, stored, 0)).astype(np.uint8)
    edge = ((alpha > 0) & (alpha < 1))[..., 0]

    def fringe(colours) -> float:
        """Mean error in levels of a composite's edge."""
        return np.abs(alpha * (colours - own))[edge].mean()

    before, after = fringe(stored.astype(float)), fringe(objects.defringed(stored, alpha[..., 0])[0].astype(float))
    assert after < 5 if mixed is None else after < before / 3 and before > 15


@given(st.integers(1, 60), st.integers(32, 60), st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
       st.integers(0, 99))
@settings(max_examples=40)
def test_objects_are_placed_whole(width, height, scale, seed):
    canvas = objects.placed(np.ones((height, width, 4), np.float32), SIDE, scale, np.random.default_rng(seed))
    rows, columns = np.flatnonzero(canvas[..., 3].max(1)), np.flatnonzero(canvas[..., 3].max(0))
    longer = max(len(rows), len(columns))
    assert canvas.shape == (SIDE, SIDE, 4) and canvas[..., 3].sum() == pytest.approx(len(rows) * len(columns), rel=1e-5)
    most = 2 * max(height, width)
    assert min(scale[0] * SIDE, most) - 1 <= longer <= min(scale[1] * SIDE, most) + 1
