import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import scene, tiny, write_pairs
from core import checkpoint
from core.config import DEFAULTS, load_config
from dataset import ValidationSet
from imaging.pairs import read_pairs
from inference.predictor import Predictor, load_predictor
from inference.tiling import starts, tiled_alpha, window
from train import train
from training.validation import Validator

SIZE = 64


class Local:
    """A network whose alpha is each pixel's luma plus offset(square)."""
    description, tta, batch_size = "luma", "none", 3

    def __init__(self, offset=lambda square: 0):
        self.offset, self.seen = offset, []

    def __call__(self, squares):
        self.seen.append(len(squares))
        return np.stack([luma(square) + np.float32(self.offset(square)) for square in squares])


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.float32).mean(2) / 510 + np.float32(0.25)  # [.25,.75], away from the clip


def photo(height: int, width: int) -> np.ndarray:
    return cv2.resize(scene(256)[0], (width, height), interpolation=cv2.INTER_NEAREST)


@given(st.integers(32, 3000), st.sampled_from([32, 64, 100]))
def test_tiles_cover_everything_overlap_by_a_quarter_and_are_no_more_than_needed(length, size):
    begins = starts(max(length, size), size)
    assert begins[0] == 0 and begins[-1] + size == max(length, size)
    assert all(0 < step <= size - size // 4 + 1 for step in np.diff(begins))
    assert len(begins) == 1 or (len(begins) - 1) * (size - size // 4) < length - size + (size - size // 4)
    assert window(size).min() > 0


@pytest.mark.parametrize("shape", [(200, 330), (40, 300), (64, 65)])
def test_what_a_network_sees_of_each_pixel_alone_comes_out_exact(shape):
    rgb = photo(*shape)
    np.testing.assert_allclose(tiled_alpha(rgb, SIZE, 3, Local()), luma(rgb), atol=1e-6)
    alpha, = Predictor(Local(), SIZE, tile_over=64)([rgb])
    # The whole image is rounded to levels after it is shrunk; the tiles are not.
    np.testing.assert_allclose(alpha, luma(rgb), atol=1 / 510 + 1e-6)
    enlarged, = Predictor(Local(), SIZE)([rgb])
    assert np.abs(enlarged - luma(rgb)).max() > 0.02


def test_tiles_that_disagree_leave_no_seams_and_do_not_move_the_mean():
    rgb = np.full((300, 300, 3), 128, np.uint8)
    rgb[:, 150:] += 40
    jumpy = Local(lambda square: 0.2 * (square[..., 0].mean() > 140))
    assert np.abs(np.diff(tiled_alpha(rgb, SIZE, 3, jumpy), axis=0)).max() < 1e-6
    alpha, = Predictor(jumpy, SIZE, tile_over=64)([rgb])
    enlarged, = Predictor(jumpy, SIZE)([rgb])
    assert abs(alpha.mean() - enlarged.mean()) < 2e-3
    flat = np.r_[0:140, 160:299]  # away from the picture's own edge
    assert np.abs(np.diff(alpha, axis=1)[:, flat]).max() < 0.02


def test_only_large_images_are_tiled_and_never_in_larger_batches():
    network = Local()
    predict = Predictor(network, SIZE, tile_over=128)
    small, large = photo(100, 128), photo(100, 129)
    predict([small, small])
    assert network.seen == [2]
    network.seen.clear()
    alpha, = predict([large])
    assert alpha.shape == (100, 129) and network.seen == [1, 3, 3]  # 2 × 3 tiles
    network.seen.clear()
    Predictor(network, 160, tile_over=128)([large])  # already seen at full resolution
    assert network.seen == [1]


def test_training_validates_with_tiles_as_inference_predicts(tmp_path):
    pairs_csv = write_pairs(tmp_path / "pairs", 2, 150)
    cfg = load_config(DEFAULTS, tiny(pairs_csv, tmp_path / "run", "train.epochs=1", "train.amp=fp32",
                                     "infer.precision=fp32", "infer.backend=torch", "infer.tile_over=100",
                                     "model.weights=embedded", "train.lr=1e-6"))
    train(cfg)
    kept = checkpoint.load(tmp_path / "run/best.pth")["metrics"]["val_mse_dense"]
    whole = cfg.model_copy(update={"infer": cfg.infer.model_copy(update={"tile_over": None})})
    tiled, untiled = (Validator(load_predictor(each), ValidationSet(read_pairs(pairs_csv), each)).validate()[0].means()
                      for each in (cfg, whole))
    assert kept == pytest.approx(tiled["val_mse_dense"], rel=1e-4)
    assert kept != pytest.approx(untiled["val_mse_dense"], rel=3e-4)
