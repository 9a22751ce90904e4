"""Post-processing candidates: what is planted in predictions is found, what is not is not."""
import numpy as np
import pytest

from augment import sample_xray_params, xray_alpha_dense
from conftest import scene
from core.config import DEFAULTS, load_config
from imaging.pairs import Pair
from inference.prediction import Prediction
from tuning.candidates import THE_ORIGINAL, PostProcessing
from tuning.nested import Division, decide, divide
from tuning.tables import changes_of

XRAY = load_config(DEFAULTS).augment.xray
DIVISION = Division(np.arange(12) % 4, np.arange(12))


@pytest.fixture(scope="module")
def samples():
    """(rgb, alpha, target) of 12 small scenes."""
    return [(rgb, alpha, xray_alpha_dense(rgb, alpha, sample_xray_params(XRAY, rng), rng))
            for rgb, alpha, rng in ((*scene(64, seed), np.random.default_rng(seed)) for seed in range(12))]


def predicted(samples, distort=lambda target: target, noise=0.02):
    """The dense targets as a network might predict them: distorted, with an offset and noise."""
    rng = np.random.default_rng(5)
    preds = (np.clip(distort(target) + noise * rng.standard_normal() + noise * rng.standard_normal(target.shape), 0, 1)
             .astype(np.float16) for _, _, target in samples)
    return [Prediction(alpha, pred) for pred, (_, alpha, _) in zip(preds, samples, strict=True)]


def searched(samples, preds, metric="val_mse_dense"):
    """The search, and the change by each candidate."""
    search = PostProcessing(samples, preds, metric, DIVISION)
    return search, changes_of(search, 42)


def test_a_known_gamma_distortion_is_found_and_accepted(samples):
    search, changes = searched(samples, predicted(samples, lambda target: target**1.7, 0.01))
    assert changes["gamma"].verdict == "helps"
    assert search.setting("gamma").parameters["exponent"] == pytest.approx(1 / 1.7, rel=0.05)
    assert search.after("gamma")[0] < 0.3 * search.before()[0]
    decision = decide(search, dict.fromkeys(DIVISION.names, search), 42)
    assert decision.accepted and decision.chosen in ("gamma", "affine", "correction")
    assert set(decision.by_part) == {0, 1, 2, 3} and decision.change.high < 0


def test_what_the_alpha_tells_about_the_error_is_learned(samples):
    """The predictions are too dark where the object is, by a fifth of its alpha."""
    preds = [Prediction(alpha, (target - 0.2 * alpha).clip(0).astype(np.float16)) for _, alpha, target in samples]
    search, changes = searched(samples, preds)
    assert changes["correction"].verdict == "helps" and search.after("correction")[0] < 0.1 * search.before()[0]


def test_what_is_off_at_random_is_not_recalibrated(samples):
    _, changes = searched(samples, predicted(samples, noise=0.03))
    assert changes["gamma"].verdict != "helps" and changes["affine"].verdict != "helps"


def test_removing_the_background_hurts_dense_targets_and_helps_near_binary_ones(samples):
    preds = predicted(samples, noise=0.005)
    (dense, by_dense), (binary, by_binary) = searched(samples, preds), searched(samples, preds, "val_mse")
    whole = "whole background to 0"
    assert (by_dense[whole].verdict, by_binary[whole].verdict) == ("hurts", "helps")
    # Each search also reports the other truth.
    assert dense.before().tolist() == binary.before()[::-1].tolist()
    assert dense.after(whole).tolist() == binary.after(whole)[::-1].tolist()
    # A support of .05 is below a dense background, so the whole image is one component.
    assert by_dense[THE_ORIGINAL].verdict == "no effect"


def test_a_fit_is_never_measured_on_what_it_was_fitted_on(samples):
    """The images of part 0 are distorted in another way: only fits that did without it are wrong there."""
    preds = [pred if part else Prediction(pred.alpha, (1 - pred.dense.astype(np.float32)).astype(np.float16))
             for part, pred in zip(DIVISION.parts, predicted(samples, noise=0.005), strict=True)]
    search, _ = searched(samples, preds)
    without = frozenset({0})
    scale = search.settings[search.rows["affine", without][0]].parameters["scale"]
    assert scale == pytest.approx(1, abs=0.05) and search.setting("affine").parameters["scale"] < 0.8
    rows = [rows[0] for (name, parts), rows in search.rows.items() if name == "affine" and 0 not in parts]
    assert np.isnan(search.errors[:, rows][..., DIVISION.parts == 0]).all()


def test_the_parts_depend_on_names_and_seed_alone():
    pairs = [Pair(path.with_suffix(".png"), path, "") for path in map(DEFAULTS.with_name, "abcdefghijkl")]
    parts = divide(pairs, None, 1).parts
    assert divide(pairs[::-1], None, 1).parts.tolist() == parts[::-1].tolist() != divide(pairs, None, 2).parts.tolist()
