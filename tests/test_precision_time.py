"""`make precision` counts seconds per image in full batches, the same number of images for each format."""
import numpy as np
import pytest
import torch

import precision
from conftest import tiny, write_pairs
from core.config import DEFAULTS, load_config
from dataset import ValidationSet
from imaging.pairs import read_pairs
from inference.predictor import Predictor
from inference.torch_backend import folded_network, live_network
from u2net import U2Net

CPU = torch.device("cpu")


class Noted(Predictor):
    """Records how many images each call of the network gets."""

    def __init__(self, network, size):
        super().__init__(network, size)
        self.batches = []

    def _alphas(self, squares):
        self.batches.append(len(squares))
        return super()._alphas(squares)


@pytest.mark.parametrize("images", [1, 5])
def test_every_format_computes_the_same_images_in_full_batches(tmp_path, images):
    pairs_csv = write_pairs(tmp_path, images, 64)
    val_set = ValidationSet(read_pairs(pairs_csv), load_config(DEFAULTS, tiny(pairs_csv, tmp_path)))
    torch.manual_seed(0)
    model = U2Net().eval()
    predictors = {precision.EXACT: Predictor(live_network(model, "none", CPU, "fp32"), 64)}
    for batch in (2, 4):
        cfg = load_config(DEFAULTS, ["infer.tta=none", "infer.precision=fp32", f"infer.batch_size={batch}"])
        predictors[f"of {batch}"] = Noted(folded_network(model, 64, cfg.infer, CPU), 64)
    rows = precision.measure(predictors, val_set, "val_mse")
    rounds = -(-images // 4)
    assert predictors["of 4"].batches == [4] * (1 + rounds)  # the first is the warm-up
    assert predictors["of 2"].batches == [2] * (1 + 2 * rounds)
    for name, predict in predictors.items():
        assert rows[name]["seconds"] == pytest.approx(predict.seconds / (4 * rounds))
        assert rows[name]["max_error"] < 1e-4
    mine = [np.mean((predictors[precision.EXACT]([rgb])[0] - alpha) ** 2) for rgb, alpha, _ in val_set]
    assert rows["of 4"]["mse"] == pytest.approx(np.mean(mine), rel=1e-3)
