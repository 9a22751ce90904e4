"""The embedded weights: how they are made, and that those in the repository are worth starting from."""
import cv2
import numpy as np
import pytest
import torch

import embed
from augment import sample_xray_params, xray_alpha_dense
from conftest import call
from core import checkpoint
from core.config import DEFAULTS, EMBEDDED, load_config
from dataset import ValidationSet
from imaging.pairs import read_pairs
from inference.predictor import load_predictor
from scenes.scene import draw_pair
from submission.submission_csv import SubmissionWriter
from u2net import U2Net


@pytest.fixture
def test_set(tmp_path):
    """data.root of a procedural test set of two 64 px images."""
    folder = tmp_path / "test_dataset/orig_1024"
    folder.mkdir(parents=True)
    with SubmissionWriter(folder.parent / "solution.csv") as writer:
        for index in range(2):
            rgb, alpha, _ = draw_pair(5, index, 64)
            cv2.imwrite(str(folder / f"{index}.png"), rgb[..., ::-1])
            writer.write(str(index), alpha)
    return tmp_path


def test_a_run_becomes_half_precision_weights_and_a_card(run_dir, pairs_csv, test_set, tmp_path):
    out = tmp_path / "weights.pth"
    code, shown, err = call(embed.main, f"train.out_dir={run_dir}", f"data.root={test_set}", "--out", str(out),
                            "--photographs", str(pairs_csv))
    assert code == 0, err
    half, full = checkpoint.load(out)["model_state"], checkpoint.load(run_dir / "best.pth")["model_state"]
    assert {value.dtype for value in half.values() if value.dim() == 4} == {torch.float16}
    assert {value.dtype for value in half.values() if value.dim() == 1} == {torch.float32}
    assert all(torch.allclose(half[name].float(), full[name].float(), rtol=5e-3, atol=5e-3) for name in full)
    card = out.with_suffix(".md").read_text()
    for line in shown.splitlines()[-3:-1]:  # the two scores, as printed
        images, rest = line.rsplit(": ", 1)
        assert f"| {images} | {rest.split(',')[0]} |" in card
    assert f"{out.stat().st_size:,} bytes" in card and "| 4 pairs of " in card


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path):
    state = U2Net().state_dict()
    state["stage1.rebnconvin.conv_s1.weight"].fill_(1e6)
    checkpoint.save(tmp_path / "best.pth", {"model_state": state, "config": {}, "epoch": 1, "metrics": {}})
    with pytest.raises(embed.UserError, match=r"conv_s1\.weight does not fit"):
        embed.save_half(load_config(DEFAULTS, [f"infer.weights={tmp_path}/best.pth"]), tmp_path / "half.pth")
    assert not (tmp_path / "half.pth").exists()


@pytest.fixture(scope="module")
def embedded():
    return load_predictor(load_config(DEFAULTS, ["infer.weights=embedded", "infer.precision=fp32", "infer.size=192",
                                                "infer.tta=none"]))


def test_the_embedded_weights_have_a_third_of_the_best_constants_error_on_scenes_they_have_not_seen(embedded):
    cfg, size = load_config(DEFAULTS), 192
    preds, targets = [], []
    for index in range(24):  # two of each family
        rgb, alpha, _ = draw_pair(987, index, size)
        rng = np.random.default_rng([987, index])
        targets.append(xray_alpha_dense(rgb, alpha, sample_xray_params(cfg.augment.xray, rng), rng))
        preds.append(embedded([rgb])[0])
    preds, targets = np.array(preds), np.array(targets)
    assert np.mean((preds - targets) ** 2) < targets.var() / 3


def test_on_photographs_they_beat_the_best_constant(embedded, shared):
    cfg, errors, targets = load_config(DEFAULTS, [f"data.val_csv={shared}/real/val.csv"]), [], []
    for rgb, _, target in map(ValidationSet(read_pairs(cfg.data.val_csv), cfg).__getitem__, range(8)):
        errors.append(np.mean((embedded([rgb])[0] - target) ** 2))
        targets.append((target.mean(), (target**2).mean()))
    mean, square = np.mean(targets, axis=0)
    assert np.mean(errors) < square - mean**2


def test_they_are_small_enough_to_come_with_the_code():
    assert EMBEDDED.stat().st_size <= embed.LIMIT
    assert EMBEDDED.with_suffix(".md").exists()
