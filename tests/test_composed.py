"""The network predicts the object's alpha, and the dense alpha is composed from it (model.predicts: alpha)."""
import numpy as np
import pytest
import torch

from augment import middle_xray_params, xray_alpha_dense
from conftest import scene
from core import checkpoint
from core.config import DEFAULTS, load_config
from core.schema import Xray
from dataset import TrainSet, ValidationSet
from imaging.alphas import read_alpha
from imaging.images import to_levels
from imaging.pairs import read_pair, read_pairs
from infer import infer
from inference.predictor import Predictor, load_model
from training import baselines
from training.validation import Validator, reference_levels
from u2net import U2Net

CFG = load_config(DEFAULTS)
MIDDLE = middle_xray_params(CFG.augment.xray)


class Known:
    """A network that answers with the alphas it was given."""
    description, tta, batch_size = "known", "none", 1

    def __init__(self, *alphas):
        self.alphas = iter(alphas)

    def __call__(self, squares):
        return next(self.alphas)[None]


def test_the_middle_of_each_range_composes():
    xray = CFG.augment.xray
    assert MIDDLE.floor == pytest.approx(sum(xray.floor) / 2) and MIDDLE.low_sigma == xray.low_sigma
    assert set(vars(MIDDLE)) == set(Xray.model_fields)


def test_the_answer_is_the_formula_at_the_images_own_size():
    rgb, alpha = scene(64)
    both = Predictor(Known(alpha), 64, density=MIDDLE).predictions([rgb])[0]
    assert np.array_equal(both.alpha, alpha)
    assert np.array_equal(both.dense, xray_alpha_dense(rgb, alpha, MIDDLE))
    direct, = Predictor(Known(alpha), 64).predictions([rgb])
    assert direct.dense is direct.alpha
    large = np.repeat(np.repeat(rgb, 2, 0), 2, 1)
    dense, = Predictor(Known(alpha), 64, density=MIDDLE)([large])
    enlarged, = Predictor(Known(alpha), 64)([large])
    assert np.array_equal(dense, xray_alpha_dense(large, enlarged, MIDDLE))


def test_a_perfect_alpha_is_near_the_floor(pairs_csv, tmp_path):
    val_set = ValidationSet(read_pairs(pairs_csv), CFG)
    side = max(val_set[0][0].shape)
    alphas = [alpha for _, alpha, _ in val_set]
    assert all(alpha.shape == (side, side) for alpha in alphas)
    means = Validator(Predictor(Known(*alphas), side, density=MIDDLE), val_set).validate()[0].means()
    levels = reference_levels(val_set, CFG, tmp_path / "levels.json")
    assert means["val_mse"] == 0
    assert means["val_mse_dense"] < 0.5 * levels["constant"]


def test_it_learns_the_files_alpha(pairs_csv):
    plain = ["augment.crop=64", "augment.scale=[1,1]", "augment.flip_p=0", "augment.rotate_p=0", "augment.color_p=0"]
    pairs = read_pairs(pairs_csv)
    targets = {name: TrainSet(pairs, load_config(DEFAULTS, [*plain, f"model.predicts={name}"]))[0, 0][1].numpy()[0]
               for name in ("alpha", "dense")}
    true = read_pair(pairs[0])[1]
    assert np.array_equal(targets["alpha"], true)
    assert np.abs(targets["dense"] - true).mean() > 0.05


@pytest.mark.parametrize(("state", "asked", "composes"), [
    ({}, "alpha", True), ({}, "dense", False),                       # the official file says nothing: the setting does
    ({"config": {"model": {}, "infer": {}}}, "alpha", False),  # before there was a choice: dense
    ({"config": {"model": {"predicts": "alpha"}, "infer": {}}}, "dense", True)])
def test_a_checkpoint_says_what_it_predicts(tmp_path, state, asked, composes):
    path = tmp_path / "w.pth"
    checkpoint.save(path, {"model_state": U2Net().state_dict(), **state})
    loaded = load_model(load_config(DEFAULTS, [f"infer.weights={path}", f"model.predicts={asked}"]))
    assert (loaded.density is not None) == composes and loaded.size == 320
    plain = load_model(load_config(DEFAULTS, [f"infer.weights={path}", "model.predicts=alpha", "augment.xray_p=0"]))
    assert plain.density is None  # no dense alphas are wanted


def test_pngs_hold_either(pairs_csv, tmp_path):
    weights = tmp_path / "w.pth"
    torch.save(U2Net().state_dict(), weights)
    images = pairs_csv.parent
    for kind in ("alpha", "dense"):
        infer(load_config(DEFAULTS, [f"infer.weights={weights}", f"infer.images={images}", "infer.size=64",
                                     f"infer.png={kind}", f"infer.png_dir={tmp_path / kind}", "infer.backend=torch",
                                     "infer.precision=fp32", f"infer.submission={tmp_path / 's.csv'}"]))
    pair = read_pairs(pairs_csv)[0]
    alpha, dense = (read_alpha(tmp_path / kind / f"{pair.image_path.stem}.png") for kind in ("alpha", "dense"))
    composed = xray_alpha_dense(read_pair(pair)[0], alpha, MIDDLE)
    assert np.abs(to_levels(composed).astype(int) - to_levels(dense)).mean() < 1


def test_the_fitted_line_is_the_least_squares_one():
    rng = np.random.default_rng(0)
    p, t = rng.random(500), rng.random(500)
    found = baselines.error_of_line(*(float(np.mean(x)) for x in (p, p * p, p * t, t, t * t)))
    assert found == pytest.approx(np.mean((np.polyval(np.polyfit(p, t, 1), p) - t) ** 2))
    assert baselines.error_of_line(0.5, 0.25, 0.15, 0.3, 0.2) == pytest.approx(0.2 - 0.09)  # a constant prediction


def test_a_run_that_training_did_not_help_is_told():
    levels = {"official_line": 0.02, "official_composed": 0.01}
    assert baselines.verdict(0.009, levels) == "" and baselines.verdict(0.5, {}) == ""
    assert "does not beat the official weights without any training (0.0100)" in baselines.verdict(0.011, levels)
