import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment import (
    Geometry,
    _blur,
    augment_pair,
    composite,
    jitter_color,
    noise_field,
    sample_xray_params,
    xray_alpha_dense,
)
from benchmark import baseline as reference
from conftest import scene
from core.config import DEFAULTS, load_config

CFG = load_config(DEFAULTS).augment
PARAMS = sample_xray_params(CFG.xray, np.random.default_rng(0))


def stripes(size):
    """Hard steps across the full range and a random half: the hardest case for blurs on a coarse grid."""
    rgb = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    rgb[:, :size // 2] = 255 * (np.arange(size // 2) // 9 % 2)[None, :, None]
    return rgb, scene(size)[1]


@pytest.mark.parametrize("picture", [scene(96, 0), scene(96, 1), scene(257, 2), stripes(301)],
                         ids=["small", "other", "large", "stripes"])
def test_the_dense_alpha_follows_its_formula(picture):
    exact = reference.xray_alpha_dense(*picture, PARAMS, dtype=np.float64)
    error = np.abs(xray_alpha_dense(*picture, PARAMS) - exact) * 255
    assert error.max() < 0.5 and error.mean() < 0.02


@pytest.mark.parametrize("sigma, tolerance", [(0.8, 1e-5), (3, 2e-3), (7, 1e-3), (10, 2e-4), (30, 5e-4)])
def test_a_wide_blur_on_a_coarse_grid_is_close_to_the_plain_one(sigma, tolerance):
    for image in (stripes(163)[0][..., 0] / np.float32(255), scene(97)[1]):
        plain = cv2.GaussianBlur(image.astype(float), (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
        np.testing.assert_allclose(_blur(image, sigma), plain, atol=tolerance)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 70))
def test_range_holds_for_any_parameters_and_sizes(seed, height, width):
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    alpha = rng.choice([0, 1, 0.5], (height, width)).astype(np.float32)
    dense = xray_alpha_dense(rgb, alpha, sample_xray_params(CFG.xray, rng), rng)
    assert dense.shape == alpha.shape and dense.dtype == np.float32
    assert dense.min() >= 0 and dense.max() <= 0.97


def test_outside_the_object_is_the_background():
    rgb, alpha = scene(128)
    flat = xray_alpha_dense(rgb, alpha, PARAMS)
    np.testing.assert_allclose(flat[alpha == 0], PARAMS.background, atol=1e-6)
    uneven = xray_alpha_dense(rgb, alpha, PARAMS, np.random.default_rng(1))[alpha == 0]
    assert 0 <= uneven.min() < uneven.max() <= 0.25


@pytest.mark.parametrize("fill", [0, 255])
def test_nothing_and_flat_objects_do_not_fail(fill):
    rgb = np.full((40, 40, 3), fill, np.uint8)
    for alpha in (np.zeros((40, 40), np.float32), np.ones((40, 40), np.float32)):
        dense = xray_alpha_dense(rgb, alpha, PARAMS)
        assert np.isfinite(dense).all() and np.ptp(dense) < 1e-5


def test_a_tiny_object_is_dense():
    rgb, _ = scene(64)
    alpha = np.zeros((64, 64), np.float32)
    alpha[30:33, 30:33] = 1
    assert xray_alpha_dense(rgb, alpha, PARAMS)[30:33, 30:33].min() > PARAMS.background + 0.1


def test_thin_strands_survive():
    rgb = np.full((64, 64, 3), 200, np.uint8)
    alpha = np.zeros((64, 64), np.float32)
    alpha[:, 32] = 1
    rgb[:, 32] = 40
    dense = xray_alpha_dense(rgb, alpha, PARAMS)
    assert dense[:, 32].min() > dense[:, 30].max() + 0.15


def test_the_same_parameters_give_the_same_target():
    rgb, alpha = scene(64)
    once, twice = (xray_alpha_dense(rgb, alpha, PARAMS, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(once, twice)


def test_parameters_are_drawn_within_their_bounds():
    drawn = [dataclasses.asdict(sample_xray_params(CFG.xray, np.random.default_rng(i))) for i in range(50)]
    for name, bounds in CFG.xray:
        values = [params[name] for params in drawn]
        if isinstance(bounds, tuple):
            assert bounds[0] <= min(values) < max(values) <= bounds[1]
        else:
            assert set(values) == {bounds}


def test_the_noise_field_has_unit_variance_and_the_length_asked_for():
    fields = np.stack([noise_field((160, 200), 16, np.random.default_rng(i)) for i in range(300)])
    assert fields.var() == pytest.approx(1, abs=0.06) and abs(fields.mean()) < 0.03
    # A blur by σ leaves white noise with the autocorrelation exp(-d²/4σ²).
    at_distance = np.mean(fields[:, 80, 100] * fields[:, 80, 132]) / fields.var()
    assert at_distance == pytest.approx(np.exp(-(32**2) / (4 * 16**2)), abs=0.12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(1, 150))
def test_geometry_fills_the_crop_from_any_shape_and_keeps_rgb_and_alpha_together(seed, height, width):
    cfg = CFG.model_copy(update={"crop": 64, "rotate_p": 0.5})
    geometry = Geometry.draw((height, width), cfg, np.random.default_rng(seed))
    grey = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    alpha = geometry.apply(grey.astype(np.float32) / 255)
    rgb = geometry.apply(np.repeat(grey[..., None], 3, axis=2))
    assert rgb.shape == (64, 64, 3) and alpha.shape == (64, 64)
    assert np.abs(rgb[..., 0] / 255 - alpha).max() < 0.02
    assert alpha.min() >= 0 and alpha.max() <= 1


def test_a_small_scale_shows_the_whole_object_but_never_less_than_the_crop():
    cfg = CFG.model_copy(update={"crop": 64, "scale": (0.1, 0.1)})
    assert Geometry.draw((128, 96), cfg, np.random.default_rng(0)).shape == (64, 48)


def test_composite_is_the_equation():
    fg, bg = np.full((2, 2, 3), 200, np.uint8), np.full((2, 2, 3), 100, np.uint8)
    alpha = np.array([[0, 1], [0.5, 0.25]], np.float32)
    np.testing.assert_array_equal(composite(fg, bg, alpha)[..., 0], [[100, 200], [150, 125]])


def test_colour_factors_of_one_change_nothing_and_others_do_what_they_say():
    rgb, _ = scene(32)
    np.testing.assert_array_equal(jitter_color(rgb, 1, 1, 1), rgb)
    assert jitter_color(rgb, 0.5, 1, 1).mean() == pytest.approx(rgb.mean() / 2, abs=0.5)
    grey = jitter_color(rgb, 1, 1, 0)
    assert np.ptp(grey.astype(int), axis=2).max() <= 1
    assert jitter_color(rgb, 1, 0.5, 1).std() < rgb.std()


def test_without_xray_the_target_is_the_alpha_itself():
    rgb, alpha = scene(64)
    cfg = CFG.model_copy(update={"crop": 64, "scale": (1, 1), "flip_p": 0, "rotate_p": 0, "color_p": 0, "xray_p": 0})
    result = augment_pair(rgb, alpha, cfg, np.random.default_rng(0), None, None)
    np.testing.assert_array_equal(result[0], rgb)
    np.testing.assert_array_equal(result[1], alpha)
