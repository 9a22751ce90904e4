"""The greedy soup: only what lowers the error stays in, and the result is an ordinary checkpoint."""
import shutil

import numpy as np
import pytest
import torch

import soup
from conftest import call, one_error_line, scene, tiny
from core import checkpoint
from core.config import DEFAULTS, as_overrides, load_config
from inference.predictor import load_predictor
from train import main as train_main
from u2net import U2Net


def varied(source, target, seed, bias=0.0):
    """A copy of a checkpoint with a little noise on its weights; with a bias the object is everywhere."""
    state = checkpoint.load(source)
    rng = torch.Generator().manual_seed(seed)
    for value in state["model_state"].values():
        if value.is_floating_point() and value.dim() > 1:
            value += 0.05 * value.std() * torch.randn(value.shape, generator=rng)
    state["model_state"]["outconv.bias"] += bias
    checkpoint.save(target, state)
    return target


@pytest.fixture(scope="module")
def trained(run_dir, tmp_path_factory):
    """Three checkpoints near one another and one far from them."""
    folder = tmp_path_factory.mktemp("soup")
    return [varied(run_dir / "best.pth", folder / f"{name}.pth", seed, bias) for seed, (name, bias) in
            enumerate([("a", 0), ("b", 0), ("c", 0), ("far", 100)])]


def options(pairs_csv, weights, *more):
    return [*as_overrides({"infer.weights": weights}), f"data.val_csv={pairs_csv}", f"data.root={pairs_csv.parent}",
            "train.workers=0", "infer.backend=torch", *more]


def test_a_soup_is_no_worse_than_the_best_and_is_used_like_any_checkpoint(pairs_csv, trained, tmp_path):
    out = tmp_path / "soup.pth"
    result = call(soup.main, *options(pairs_csv, trained), f"--out={out}")
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if not line.startswith("data ")]
    assert "4 images" in lines[0] and "val_mse_dense decides" in lines[0]
    assert "the best alone" in lines[1] and f"{trained[3]}: left out" in lines[4]
    assert float(lines[5].split()[0]) <= float(lines[1].split()[0]) and str(out) in lines[5]
    kept = [path for path in trained if f"{path}: kept" in result.stdout or f"{path}, the best" in result.stdout]
    states = [checkpoint.load(path)["model_state"] for path in kept]
    made = checkpoint.load(out)
    for name, value in made["model_state"].items():  # running_mean and running_var of BatchNorm among them
        np.testing.assert_allclose(value, torch.stack([state[name].double() for state in states]).mean(0), rtol=1e-5,
                                   atol=1e-7)
    assert made["config"]["model"]["predicts"] == "alpha" and made["metrics"]["val_mse_dense"] > 0
    predict = load_predictor(load_config(DEFAULTS, options(pairs_csv, [out])))
    assert predict.size == 64 and predict([scene(64)[0]])[0].shape == (64, 64)
    before = out.read_bytes()
    out.unlink()
    assert call(soup.main, *options(pairs_csv, trained), f"--out={out}").returncode == 0
    assert out.read_bytes() == before
    assert call(soup.main, *options(pairs_csv, trained[:1] + trained[3:]), f"--out={out}", "--all").returncode == 0
    assert out.read_bytes() != before  # replaced: it is ours


def test_where_no_mean_is_better_the_best_alone_is_the_soup(pairs_csv, trained, run_dir, tmp_path):
    far = [varied(run_dir / "best.pth", tmp_path / f"{seed}.pth", seed, bias=100) for seed in (7, 8)]
    result = call(soup.main, *options(pairs_csv, [run_dir / "best.pth", *far], f"train.out_dir={tmp_path}"))
    assert result.returncode == 0, result.stderr
    assert f"no mean is better than {run_dir / 'best.pth'} alone" in result.stdout
    assert checkpoint.identity(tmp_path / "soup.pth") == checkpoint.identity(run_dir / "best.pth")
    paths = [run_dir / "best.pth", *far]
    assert call(soup.main, *options(pairs_csv, paths, f"train.out_dir={tmp_path}"), "--all").returncode == 0
    made = checkpoint.load(tmp_path / "soup.pth")
    assert made["parts"] == 3 and checkpoint.identity(tmp_path / "soup.pth") != checkpoint.identity(paths[0])


def test_what_has_no_useful_mean_is_refused(pairs_csv, trained, tmp_path):
    large, dense, other = (tmp_path / f"{name}.pth" for name in ("large", "dense", "size"))
    for path, variant, predicts, size in ((large, "u2net", "alpha", 64), (dense, "u2netp", "dense", 64),
                                          (other, "u2netp", "alpha", 96)):
        checkpoint.save(path, {"model_state": U2Net(variant).state_dict(), "config": {
            "model": {"variant": variant, "predicts": predicts}, "infer": {"size": size}}})
        line = one_error_line(call(soup.main, *options(pairs_csv, [trained[0], path]), f"--out={tmp_path}/s.pth"), 2)
        assert f"{path}: differs from {trained[0]}" in line
    for weights, words, *more in (([trained[0]], "needs two checkpoints"), (trained, "all checkpoints in a soup count",
                                                                            "infer.shares=[1,1,1,1]")):
        assert words in one_error_line(call(soup.main, *options(pairs_csv, weights, *more)), 2)
    line = one_error_line(call(soup.main, *options(pairs_csv, trained), f"--out={trained[0]}"), 2)
    assert "is an input of this command" in line
    mine = shutil.copy(pairs_csv, tmp_path / "mine.txt")
    assert "not written by this program" in one_error_line(
        call(soup.main, *options(pairs_csv, trained), f"--out={mine}"), 2)


def test_networks_of_a_cross_validation_are_refused(pairs_csv, trained, tmp_path):
    fold = tmp_path / "fold_0"
    assert call(train_main, *tiny(pairs_csv, fold), "train.epochs=1", "data.folds=2", "data.fold=0").returncode == 0
    for path in (fold / "best.pth", tmp_path):
        line = one_error_line(call(soup.main, *options(pairs_csv, [trained[0], path])), 2)
        assert f"{path}: each network of a cross-validation has seen" in line
