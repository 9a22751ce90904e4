import shutil

import numpy as np
import pytest
import yaml

import tune
from augment import sample_xray_params, xray_alpha_dense
from conftest import call, one_error_line, scene
from core.config import DEFAULTS, load_config, load_run
from core.errors import UserError
from dataset import ValidationSet
from imaging.images import read_rgb
from imaging.pairs import configured_pairs
from infer import infer
from inference.postprocess import NONE, Setting
from inference.prediction import Prediction
from inference.tuned import NOT_TUNED, load_tuned
from submission.submission_csv import decode_alpha, read_rows

XRAY = load_config(DEFAULTS).augment.xray


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


def by_candidate(samples, preds, metric="val_mse_dense", seed=42):
    return {result.candidate: result for result in tune.search(samples, preds, metric, seed)}


def test_a_known_gamma_distortion_is_found_and_accepted(samples):
    results = by_candidate(samples, predicted(samples, lambda target: target**1.7, 0.01))
    gamma = results["gamma"]
    assert gamma.verdict == "helps" and gamma.high < 0
    assert gamma.setting.parameters["exponent"] == pytest.approx(1 / 1.7, rel=0.05)
    assert gamma.after[0] < 0.3 * gamma.before[0] and gamma.swapped < 0
    setting, evidence = tune.choose(list(results.values()))
    assert setting.name in ("gamma", "affine", "correction") and evidence["interval"][1] < 0


def test_what_the_alpha_tells_about_the_error_is_learned(samples):
    """The predictions are too dark where the object is, by a fifth of its alpha."""
    preds = [Prediction(alpha, (target - 0.2 * alpha).clip(0).astype(np.float16)) for _, alpha, target in samples]
    result = by_candidate(samples, preds)["correction"]
    assert result.verdict == "helps" and result.after[0] < 0.1 * result.before[0]


def test_what_is_off_at_random_is_not_recalibrated(samples):
    results = by_candidate(samples, predicted(samples, noise=0.03))
    assert results["gamma"].verdict != "helps" and results["affine"].verdict != "helps"


def test_removing_the_background_hurts_dense_targets_and_helps_near_binary_ones(samples):
    preds = predicted(samples, noise=0.005)
    dense, binary = by_candidate(samples, preds), by_candidate(samples, preds, "val_mse")
    whole = "whole background to 0"
    assert (dense[whole].verdict, binary[whole].verdict) == ("hurts", "helps")
    # Each search also reports the other truth.
    assert dense[whole].before == binary[whole].before[::-1] and dense[whole].after == binary[whole].after[::-1]
    # A support of .05 is below a dense background, so the whole image is one component.
    assert dense[tune.THE_ORIGINAL].verdict == "no effect"


def test_the_halves_depend_on_the_seed_alone(samples):
    preds = predicted(samples)
    assert tune.search(samples, preds, "val_mse", 1) == tune.search(samples, preds, "val_mse", 1)
    assert by_candidate(samples, preds)["gamma"].before != by_candidate(samples, preds, seed=1)["gamma"].before


@pytest.mark.parametrize("count", [4, 10, 40])
def test_an_interval_misses_the_true_mean_about_as_often_as_it_says(count):
    changes = np.random.default_rng(0).standard_normal((1000, count))
    low, high = tune.intervals(changes, 0)
    # It should be 5 %; the plain percentile bootstrap misses 20 % with 4 images.
    assert 0.02 < ((low > 0) | (high < 0)).mean() < 0.085


def test_of_the_accepted_the_one_that_was_best_where_it_was_fitted_is_chosen():
    def result(name, high, fit_change):
        return tune.Result(name, Setting(name), (0.02, 0.1), (0.01, 0.1), -0.01, -0.02, high, fit_change, -0.01)

    results = [result("gamma", -0.001, -0.01), result("affine", -0.001, -0.02), result("guided", 0.001, -0.03)]
    assert tune.choose(results)[0] == Setting("affine")
    assert tune.choose(results[2:])[0] == NONE


def way(size, errors, tile_over=None):
    return tune.Measured(tune.Way(size, tile_over), np.array(errors), 0.1)


def test_a_size_is_chosen_on_one_half_and_must_help_on_the_other():
    present = way(320, np.full(20, 0.02))
    fit, _ = tune.halves(20, 7)
    better, lucky = np.full(20, 0.01), np.full(20, 0.02)
    lucky[fit] = 0.001
    assert tune.choose_way([present, way(512, better)], 7) == tune.Way(512, None)
    assert tune.choose_way([present, way(512, lucky)], 7) == present.way
    assert tune.choose_way([present, way(512, better + 0.02)], 7) == present.way
    shown = tune.table_of_ways([present, way(512, better, 512)], 7)
    assert "512 px, tiles over 512 px" in shown and "-0.01000" in shown


def test_only_sizes_that_change_something_are_tried(run_dir):
    cfg = of_run(run_dir)
    val_set = ValidationSet(configured_pairs(cfg, "val"), cfg)
    ways = tune.ways_to_try(cfg, 64, val_set)
    assert ways == [tune.Way(64, cfg.infer.tile_over)]  # the images have 64 px


@pytest.fixture
def run_copy(run_dir, tmp_path):
    """A copy of the run folder, since tune and infer write into it."""
    return shutil.copytree(run_dir, tmp_path / "run")


def test_the_command_measures_a_run_and_infer_applies_the_result(run_copy, pairs_csv, capsys):
    cfg = load_config(DEFAULTS, [f"train.out_dir={run_copy}", f"infer.images={pairs_csv.parent}",
                                 "infer.postprocess=tuned"])
    with pytest.raises(UserError, match=r"postprocess\.yaml: .*make tune"):
        infer(cfg)
    result = call(tune.main, f"train.out_dir={run_copy}")
    assert result.returncode == 0, result.stderr
    assert "the original's components: " in result.stdout and "chosen: " in result.stdout
    assert all(candidate in result.stdout for candidate in tune.GRIDS)
    assert read_rgb(run_copy / "tune.png").shape[1] > 800

    # infer must follow the file, whatever was chosen.
    tuned = yaml.safe_load((run_copy / "postprocess.yaml").read_text())
    assert tuned["size"] is None and read_rgb(run_copy / "sizes.png").shape[1] > 800
    tuned |= {"name": "affine", "parameters": {"scale": 0.0, "offset": 0.4}, "size": 96, "tile_over": 96}
    (run_copy / "postprocess.yaml").write_text(yaml.safe_dump(tuned, sort_keys=False))
    infer(cfg)
    said = capsys.readouterr().out
    assert "post-processing affine scale=0.0 offset=0.4" in said
    assert "96 px, tta flip, tiles over 96 px" in said
    infer(cfg.model_copy(update={"infer": cfg.infer.model_copy(update={"size": 64})}))
    assert " 64 px, tta flip" in capsys.readouterr().out  # infer.size counts
    assert all((decode_alpha(text) == 102).all() for _, _, text in read_rows(run_copy / "submission.csv"))


def test_three_images_are_too_little_evidence(run_copy, capsys):
    tune.tune(of_run(run_copy, "data.limit=3"))
    assert "too little evidence" in capsys.readouterr().out
    assert load_tuned(load_config(DEFAULTS, [f"infer.weights={run_copy / 'best.pth'}"])) == NOT_TUNED


def test_a_folder_without_a_run_is_named(run_copy):
    result = call(tune.main, "train.out_dir=nowhere", "data.val_csv=nowhere.csv")
    assert "nowhere: no trained model there yet; using the bundled weights" in result.stdout
    assert "nowhere.csv: no such pairs CSV" in one_error_line(result, 2)
    (run_copy / "best.pth").unlink()
    with pytest.raises(UserError, match=r"best\.pth"):
        tune.tune(of_run(run_copy))


def of_run(folder, *overrides):
    return load_run(DEFAULTS, [f"train.out_dir={folder}", *overrides])
