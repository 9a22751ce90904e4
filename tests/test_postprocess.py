import cv2
import numpy as np
import pytest
import torch
import yaml

from conftest import scene
from core import checkpoint
from core.config import DEFAULTS, load_config
from core.errors import UserError
from inference.postprocess import (
    METHODS,
    NONE,
    ORIGINAL,
    Setting,
    apply,
    background_level,
    calibration_table,
    fit_affine,
    fit_gamma,
)
from inference.tuned import load_tuned, tuned_path

RGB = np.zeros((128, 128, 3), np.uint8)
SETTINGS = [NONE, ORIGINAL, Setting("guided", {"radius": 8, "eps": 1e-3}), Setting("gamma", {"exponent": 0.5}),
            Setting("affine", {"scale": 2, "offset": -1}), Setting("snap", {"to": "background", "tolerance": 0.03}),
            Setting("correction", {"constant": 0.1, "dense_near": -0.5, "product": 0.3})]


def discs(*each, background=0.0):
    """(128,128) with a disc per (x, y, radius, level)."""
    pred = np.full((128, 128), background, np.float32)
    for x, y, radius, level in each:
        cv2.circle(pred, (x, y), radius, level, -1)
    return pred


def components(pred, **changes):
    # Lengths are for a longer side of 1024: 7 px here are 56 there.
    return apply(Setting("components", {**ORIGINAL.parameters, "dilate": 56, **changes}), RGB, pred)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("shape", [(1, 1), (3, 90), (64, 64)])
def test_every_method_returns_a_new_alpha_of_the_same_size(setting, shape):
    rng = np.random.default_rng(0)
    pred, rgb = rng.random(shape, np.float32), rng.integers(0, 256, (*shape, 3), np.uint8)
    before = pred.copy()
    result = apply(setting, rgb, pred)
    assert result.shape == shape and result.dtype == np.float32 and 0 <= result.min() <= result.max() <= 1
    np.testing.assert_array_equal(pred, before)
    assert {s.name for s in SETTINGS} == METHODS.keys()


def test_the_three_most_confident_parts_stay_with_what_surrounds_them():
    pred = discs((20, 20, 8, 0.9), (60, 20, 8, 0.8), (100, 20, 8, 0.7), (20, 90, 8, 0.6), background=0.03)
    kept = components(pred)
    assert kept[20, 20] == pred[20, 20] and kept[20, 100] == pred[20, 100] and kept[90, 20] == 0
    # The disc ends at x = 28: 7 px more are kept, and nothing beyond.
    assert kept[20, 35] == np.float32(0.03) and kept[20, 37] == 0
    assert components(pred, top=4)[90, 20] == pred[90, 20]
    # "background": the image's own background level instead of 0
    assert components(pred, rest="background")[90, 20] == np.float32(0.03)


def test_faint_specks_go_and_faint_large_parts_stay():
    pred = discs((30, 30, 3, 0.15), (90, 90, 20, 0.15))
    kept = components(pred)
    assert kept[30, 30] == 0 and kept[90, 90] == np.float32(0.15)
    assert not components(discs((30, 30, 3, 0.15))).any()
    assert not components(np.zeros((128, 128), np.float32)).any()


def test_components_equal_a_naive_loop():
    rng = np.random.default_rng(1)
    pred = np.clip(cv2.GaussianBlur(rng.standard_normal((128, 128)).astype(np.float32), (0, 0), 2) * 3, 0, 1)
    labels = cv2.connectedComponents((pred > 0.3).astype(np.uint8))[1]
    means = {label: pred[labels == label].mean() for label in range(1, labels.max() + 1)
             if pred[labels == label].mean() >= 0.6 or (labels == label).mean() >= 0.01}
    best = sorted(means, key=means.get)[-3:]
    assert len(means) > 3
    distance = cv2.distanceTransform((~np.isin(labels, best)).astype(np.uint8), cv2.DIST_L2, 5)
    kept = components(pred, support=0.3, confidence=0.6)
    np.testing.assert_array_equal(kept[distance <= 6], pred[distance <= 6])
    assert not kept[distance > 8].any()


def test_the_guided_filter_equals_its_naive_form():
    rng = np.random.default_rng(2)
    rgb, pred = rng.integers(0, 256, (24, 20, 3), np.uint8), rng.random((24, 20), np.float32)
    radius, eps = 2, 1e-2

    def box(image):
        padded = np.pad(image, radius, mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1))
        return windows.mean((2, 3))

    guide = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float64) / 255
    slope = (box(guide * pred) - box(guide) * box(pred)) / (box(guide**2) - box(guide) ** 2 + eps)
    naive = box(slope) * guide + box(box(pred) - slope * box(guide))
    result = apply(Setting("guided", {"radius": radius * 1024 / 24, "eps": eps}), rgb, pred)
    np.testing.assert_allclose(result, np.clip(naive, 0, 1), atol=1e-5)


def test_the_guided_filter_sharpens_a_blurred_edge_where_rgb_has_one():
    true = discs((64, 64, 40, 1.0))
    rgb = np.repeat((true * 200).astype(np.uint8)[..., None], 3, axis=2)
    blurred = cv2.GaussianBlur(true, (0, 0), 3)
    result = apply(Setting("guided", {"radius": 64, "eps": 1e-4}), rgb, blurred)
    assert np.mean((result - true) ** 2) < 0.5 * np.mean((blurred - true) ** 2)


def test_the_fits_recover_known_distortions():
    true = np.random.default_rng(3).uniform(0.2, 0.8, (256, 256)).astype(np.float32)
    setting = fit_affine(calibration_table((true - 0.1) / 0.8, true))
    assert setting.parameters == pytest.approx({"scale": 0.8, "offset": 0.1}, abs=1e-3)
    setting = fit_gamma(calibration_table(true**1.6, true))
    assert setting.parameters["exponent"] == pytest.approx(1 / 1.6, rel=5e-3)
    np.testing.assert_allclose(apply(setting, RGB, true**np.float32(1.6)), true, atol=5e-3)


def test_the_affine_fit_of_a_constant_or_inverted_pred_is_the_mean():
    true = np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64)
    for pred in (np.full_like(true, 0.3), 1 - true):
        parameters = fit_affine(calibration_table(pred, true)).parameters
        assert parameters == pytest.approx({"scale": 0, "offset": 0.5}, abs=1e-3)


def test_snap_flattens_the_background_and_leaves_the_object():
    true = discs((64, 64, 30, 0.7), background=0.12)
    pred = true + np.random.default_rng(4).uniform(-0.02, 0.02, true.shape).astype(np.float32)
    assert background_level(pred) == pytest.approx(0.12, abs=1e-3)
    result = apply(Setting("snap", {"to": "background", "tolerance": 0.03}), RGB, pred)
    object_ = true == np.float32(0.7)
    np.testing.assert_array_equal(result[object_], pred[object_])
    assert np.ptp(result[~object_]) == 0 and result[0, 0] == pytest.approx(0.12, abs=1e-3)
    zero = apply(Setting("snap", {"to": "zero", "tolerance": 0.2}), RGB, pred)
    assert not zero[~object_].any() and (zero[object_] == pred[object_]).all()


def test_the_background_level_of_an_object_that_fills_the_image_is_zero():
    assert background_level(np.full((8, 8), 0.9, np.float32)) == 0


def test_a_length_means_the_same_at_every_size():
    def doubled(image):
        return np.repeat(np.repeat(image, 2, 0), 2, 1)

    pred, (rgb, _) = discs((64, 64, 30, 0.7)), scene(128)
    setting = Setting("guided", {"radius": 32, "eps": 1e-2})
    small, large = apply(setting, rgb, pred), apply(setting, doubled(rgb), doubled(pred))
    assert np.abs(doubled(small) - large).mean() < 3e-3


@pytest.fixture
def weights(tmp_path):
    torch.save({"model_state": {}, "epoch": 3, "metrics": {"val_mse_dense": 1e-5}}, tmp_path / "best.pth")
    return tmp_path / "best.pth"


def configured(weights):
    return load_config(DEFAULTS, [f"infer.weights={weights}"])


def write(weights, **changes):
    values = {"name": "gamma", "parameters": {"exponent": 0.9}, "weights": checkpoint.identity(weights), **changes}
    tuned_path(configured(weights)).write_text(yaml.safe_dump(values))


def test_a_setting_survives_its_file(weights):
    table = calibration_table(np.full((8, 8), 0.3, np.float32), np.full((8, 8), 0.7, np.float32))
    for setting in [*SETTINGS, fit_affine(table), fit_gamma(table)]:
        write(weights, name=setting.name, parameters=setting.parameters)
        assert load_tuned(configured(weights)).setting == setting


@pytest.mark.parametrize("changes", [
    {"name": "sharpen"}, {"name": None}, {"parameters": None}, {"parameters": {"gamma": 1}},
    {"parameters": {"exponent": "x"}}, {"parameters": {"exponent": float("nan")}}, {"name": ["gamma"]},
    {"size": 7}, {"size": "large"}, {"tile_over": 1e9},
])
def test_a_damaged_file_is_refused_in_one_line(weights, changes):
    write(weights, **changes)
    with pytest.raises(UserError, match="make tune") as error:
        load_tuned(configured(weights))
    assert "\n" not in str(error.value) and "postprocess.yaml" in str(error.value)


def test_a_missing_file_and_one_for_other_weights_are_refused(weights):
    with pytest.raises(UserError, match="make tune"):
        load_tuned(configured(weights))
    for text in ("", "- a", "{"):
        tuned_path(configured(weights)).write_text(text)
        with pytest.raises(UserError, match="make tune"):
            load_tuned(configured(weights))
    write(weights)
    torch.save({"model_state": {"layer": torch.ones(1)}, "epoch": 3, "metrics": {"val_mse_dense": 1e-5}}, weights)
    with pytest.raises(UserError, match="another checkpoint"):
        load_tuned(configured(weights))
