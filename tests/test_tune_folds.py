"""Tuning on out-of-fold predictions: no picture is ever shown to a network that was trained on it."""
import shutil

import numpy as np
import pytest
import torch

import tune
from conftest import call, one_error_line, tiny, write_csv, write_pairs
from core import checkpoint
from core.config import DEFAULTS, as_overrides, dump_config, load_config
from imaging.images import read_rgb
from imaging.pairs import configured_pairs, fold_of
from infer import infer
from inference.tuned import load_tuned
from training.run_state import order_identity
from tuning.nested import divide
from tuning.pictures import pictures, run_config
from tuning.recordings import Recordings, View
from u2net import U2Net

LEVELS = 0.2, 0.5, 0.8  # the alpha that each fold's network predicts everywhere


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """10 pairs in 8 groups, half of them in train.csv, which tests copy."""
    folder = tmp_path_factory.mktemp("tuned_folds")
    write_pairs(folder, 10, 64)
    rows = [(f"rgb_{i}.png", f"alpha_{i}.png", f"object {group}")
            for i, group in enumerate((0, 7, 14, 1, 10, 11, 2, 3, 3, 3))]
    for name, part in (("train.csv", rows[:5]), ("val.csv", rows[5:])):
        write_csv(folder / name, part, ("image_path", "alpha_path", "group"))
    return folder


def write_folds(pairs, folder, *more):
    """Finished folds that look as if trained; each network predicts its own constant."""
    for fold, level in enumerate(LEVELS):
        cfg = load_config(DEFAULTS, [
            *tiny(pairs / "train.csv", folder / f"fold_{fold}", "train.epochs=1", "data.folds=3", *more),
            *as_overrides({"data.val_csv": pairs / "val.csv", "data.root": pairs, "data.fold": fold})])
        model = U2Net("u2netp")
        torch.nn.init.zeros_(model.outconv.weight)
        torch.nn.init.constant_(model.outconv.bias, float(np.log(level / (1 - level))))
        state = {"model_state": model.state_dict(), "config": cfg.model_dump(mode="json"), "epoch": 1, "metrics": {}}
        order = order_identity(cfg.seed, configured_pairs(cfg, "train"))
        checkpoint.save(cfg.train.out_dir / "best.pth", state)
        checkpoint.save(cfg.train.out_dir / "last.pth", {**state, "progress": {"epoch": 1, "order": order}})
        (cfg.train.out_dir / "config.yaml").write_text(dump_config(cfg))
    return folder


@pytest.fixture(scope="module")
def folds(pairs, tmp_path_factory):
    return write_folds(pairs, tmp_path_factory.mktemp("cv"))


def test_each_picture_is_predicted_by_the_network_of_its_own_fold(pairs, folds, tmp_path):
    other = write_folds(pairs, tmp_path / "other", "seed=7")
    cfg = run_config(DEFAULTS, [f"infer.weights=[{folds},{other}]", "infer.backend=torch"])
    found = pictures(cfg)
    assert sorted(pair.image_path.name for pair in found.pairs) == sorted(f"rgb_{i}.png" for i in range(10))
    expected = [LEVELS[fold_of(pair, 3)] for pair in found.pairs]
    for outputs in Recordings(cfg, found, [], []).outputs(View(None, None)):
        assert [float(output.raw.alpha.mean()) for output in outputs] == pytest.approx(expected, abs=2e-3)
    assert divide(found.pairs, found.folds, 0).parts.tolist() == [fold_of(pair, 3) for pair in found.pairs]
    for pair, (rgb, _, _) in zip(found.pairs, found.samples, strict=True):
        np.testing.assert_array_equal(rgb, read_rgb(pair.image_path))


def test_the_folder_gets_what_was_chosen_and_infer_applies_it(pairs, folds, tmp_path, capsys):
    folder = shutil.copytree(folds, tmp_path / "cv")
    result = call(tune.main, f"infer.weights={folder}", "infer.backend=torch")
    assert result.returncode == 0, result.stderr
    assert "10 images of 3 folds (each by the network that has not seen it)" in result.stdout
    assert "in 3 parts" in result.stdout and f"{folder}/tune.png" in result.stdout
    cfg = load_config(DEFAULTS, [f"infer.weights={folder}", f"infer.images={pairs}", f"train.out_dir={tmp_path}/out",
                                 "infer.postprocess=tuned", "infer.backend=torch"])
    tuned = load_tuned(cfg)
    shutil.rmtree(pairs / "cache", ignore_errors=True)
    infer(cfg)
    assert f"post-processing {tuned.setting}" in capsys.readouterr().out


def test_folds_that_may_have_seen_what_they_predict_are_refused(pairs, folds, tmp_path):
    """A picture has moved to another group, and so perhaps to another fold."""
    rows = [(pairs / f"rgb_{i}.png", pairs / f"alpha_{i}.png", f"another {i}") for i in range(10)]
    write_csv(tmp_path / "regrouped.csv", rows, ("image_path", "alpha_path", "group"))
    table = f"{tmp_path}/regrouped.csv"
    result = call(tune.main, f"infer.weights={folds}", f"data.train_csv={table}", f"data.val_csv={table}")
    assert "fold_0: was trained on other pairs than" in one_error_line(result, 2)


def test_an_unfinished_fold_and_a_network_without_folds_are_refused(folds, run_dir, tmp_path):
    folder = shutil.copytree(folds, tmp_path / "cv")
    shutil.rmtree(folder / "fold_2")
    assert "fold_2: is missing; finish it with: python scripts/folds.py" in one_error_line(
        call(tune.main, f"infer.weights={folder}"), 2)
    assert f"{folds} is a folder of folds, {run_dir}/best.pth is not" in one_error_line(
        call(tune.main, f"infer.weights=[{folds},{run_dir}/best.pth]"), 2)
