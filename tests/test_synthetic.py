"""The procedural data set: exact, deterministic, soft where its subject is soft, and the same scene at every size."""
import cv2
import numpy as np
import pytest

from core.config import DEFAULTS, load_config
from core.errors import UserError
from scenes.backgrounds import catalog_background, contact_shadow
from scenes.families import FAMILIES
from scenes.families.drawing import blank, draw_polygons, draw_strands, ellipse, extend_foreground, over, paint, reduce
from scenes.scene import composite, contact_sheet, draw_pair, draw_scene, family_of, photograph
from sources.synthetic import ways_to_draw

# Least share of soft pixels in the object; solids are soft along their edge only.
LEAST_SOFT = {"glass": 0.4, "smoke": 0.4, "lace": 0.25, "web": 0.25, "blur": 0.15, "dense": 0.6}


def first_index(family: str, seed: int = 5) -> int:
    return next(index for index in range(len(FAMILIES)) if family_of(seed, index) == family)


@pytest.fixture(scope="module")
def scenes():
    return {family: draw_scene(5, first_index(family), 97) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_scene_is_well_formed(scenes, family):
    scene = scenes[family]
    assert scene.family == family
    assert scene.alpha.shape == (97, 97)
    for array in (scene.foreground, scene.background, scene.alpha):
        assert array.dtype == np.float32 and np.isfinite(array).all()
        assert array.min() >= 0 and array.max() <= 1
        assert array.shape[:2] == (97, 97)
    assert 0.01 < (scene.alpha > 0.05).mean() < 0.95, "neither an empty nor a full frame"


@pytest.mark.parametrize("family", FAMILIES)
def test_object_is_soft_where_its_subject_is(family):
    soft = []
    for seed in range(4):
        alpha = FAMILIES[family](128, np.random.default_rng(seed))[..., 3]
        soft.append(((alpha > 0.05) & (alpha < 0.95)).sum() / (alpha > 0.05).sum())
    assert np.mean(soft) > LEAST_SOFT.get(family, 0.03)


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_is_premultiplied_and_not_cut_by_its_own_frame(family):
    for seed in range(3):
        layer = FAMILIES[family](96, np.random.default_rng(seed))
        assert (layer[..., :3] <= layer[..., 3:] + 1 / 255).all()
        assert max(layer[0, :, 3].max(), layer[:, 0, 3].max(), layer[:, -1, 3].max()) < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_small_picture_is_the_large_one_reduced(scenes, family):
    large = draw_scene(5, first_index(family), 194)
    # Threads are too fine to compare pixel by pixel, so both are averaged over patches of 4 x 4.
    pair = (scenes[family].alpha, large.alpha)
    small, reduced = (cv2.resize(alpha, (24, 24), interpolation=cv2.INTER_AREA) for alpha in pair)
    assert np.mean((small - reduced) ** 2) < 0.004


def test_composite_is_the_equation_and_background_shows_outside(scenes):
    for scene in scenes.values():
        clean = composite(scene)
        inside = scene.alpha[..., None]
        assert np.abs(clean - (scene.background + inside * (scene.foreground - scene.background))).max() < 1e-6
        outside = scene.alpha == 0
        assert outside.any() and np.array_equal(clean[outside], scene.background[outside])


def test_strands_composite_as_drawn_on_the_background():
    """Drawing on white must equal drawing on an empty canvas, un-premultiplying, and compositing on white."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.8, 0.8, (60, 4, 2))
    palette = np.array([(0.9, 0.1, 0.1), (0.1, 0.2, 0.8)])
    tone, width = rng.integers(2, size=(60, 3)), np.full((60, 3), 0.02)
    empty, white = blank(64), blank(64)
    white[:] = 255
    for canvas in (empty, white):
        draw_strands(canvas, points, tone, width, palette)
    layer = reduce(empty, 64)
    alpha = layer[..., 3:]
    seen = alpha * extend_foreground(layer) + (1 - alpha)
    covered = alpha[..., 0] > 1 / 8  # below, the foreground comes from the neighbourhood
    assert covered.any() and np.abs(seen - reduce(white, 64)[..., :3])[covered].max() < 0.02


def test_foreground_has_no_dark_fringe():
    canvas = blank(64)
    draw_polygons(canvas, [ellipse((0, 0), (0.5, 0.5))], [(0.9, 0.8, 0.7)])
    foreground = extend_foreground(reduce(canvas, 64))
    assert np.abs(foreground - (0.9, 0.8, 0.7)).max() < 0.04  # one 8-bit step at 1/8 coverage


def test_over_covers_and_shows_through():
    red, blue = np.array((1, 0, 0), np.float32), np.array((0, 0, 1), np.float32)
    half, full = np.full((2, 2), 0.5, np.float32), np.ones((2, 2), np.float32)
    assert np.allclose(over(paint(red, half), paint(blue, full)), (0.5, 0, 0.5, 1))


def test_pairs_depend_on_seed_and_index_alone():
    rgb, alpha, family = draw_pair(1, 7, 64)
    again = draw_pair(1, 7, 64)
    assert rgb.dtype == np.uint8 and rgb.shape == (64, 64, 3)
    assert np.array_equal(rgb, again[0]) and np.array_equal(alpha, again[1]) and family == again[2]
    for seed, index in ((1, 7 + len(FAMILIES)), (2, 7)):
        assert not np.array_equal(alpha, draw_pair(seed, index, 64)[1])


def test_every_round_holds_each_family_once():
    rounds = [[family_of(0, start + k) for k in range(len(FAMILIES))] for start in (0, len(FAMILIES))]
    assert all(sorted(names) == sorted(FAMILIES) for names in rounds)
    assert rounds[0] != rounds[1]


def test_photograph_is_close_to_the_composite_but_not_equal(scenes):
    clean = composite(scenes["turned"])
    shots = [photograph(scenes["turned"], np.random.default_rng(k)) / 255 for k in range(4)]
    assert all(0 < np.sqrt(np.mean((shot - clean) ** 2)) < 0.06 for shot in shots)
    assert not np.array_equal(shots[0], shots[1])


def test_catalog_backgrounds_are_pale_and_vary():
    papers = [catalog_background((40, 30), np.random.default_rng(k)) for k in range(12)]
    for paper in papers:
        assert paper.shape == (40, 30, 3) and paper.dtype == np.float32
        assert paper.min() >= 235 / 255 - 1e-6 and paper.max() <= 1
        assert (np.diff(paper[:, 0, 0]) <= 0).all(), "never brighter below"
    assert len({round(float(paper.mean()), 4) for paper in papers}) > 4


def test_contact_shadow_darkens_around_the_foot():
    alpha = np.zeros((64, 64), np.float32)
    alpha[10:50, 20:44] = 1
    shadowed = contact_shadow(np.ones((64, 64, 3), np.float32), alpha, np.random.default_rng(0))
    assert shadowed[48:50, 26:38].max() < 0.95
    assert shadowed[:20].min() > 0.99


def test_backgrounds_from_files_are_used(tmp_path):
    path = tmp_path / "green.png"
    cv2.imwrite(str(path), np.full((50, 80, 3), (10, 200, 30), np.uint8))
    scenes = [draw_scene(0, index, 64, [path]) for index in range(8)]
    shares = [np.isclose(scene.background, np.array([30, 200, 10]) / 255, atol=1e-3).all() for scene in scenes]
    assert any(shares) and not all(shares)


def test_mixed_backgrounds_are_pictures_for_every_second_pair_and_never_for_the_test_set(tmp_path):
    cv2.imwrite(str(tmp_path / "green.png"), np.full((50, 80, 3), (10, 200, 30), np.uint8))
    cfg = load_config(DEFAULTS, ["data.synthetic.background=mixed", f"data.backgrounds_dir={tmp_path}"])
    draw_pairs, draw_test = ways_to_draw(cfg)
    for index in range(8):
        drawn, on_pictures = draw_pair(cfg.seed, index, 64), draw_pair(cfg.seed, index, 64, [tmp_path / "green.png"])
        assert np.array_equal(draw_pairs(index, 64)[0], (drawn, on_pictures)[index % 2][0])
        assert np.array_equal(draw_test(index, 64)[0], drawn[0])
    with pytest.raises(UserError, match=r"background=mixed: set data\.backgrounds_dir"):
        ways_to_draw(load_config(DEFAULTS, ["data.synthetic.background=mixed"]))


def test_contact_sheet_shows_a_row_per_family():
    sheet = contact_sheet(size=64, per_family=1)
    assert sheet.dtype == np.uint8 and sheet.shape[0] > 64 * len(FAMILIES)
    assert sheet.std() > 30
