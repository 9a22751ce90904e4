"""The reference side of `make bench`: scripts/benchmark/baseline.py on the inputs of each row, in a plain process."""
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from augment import sample_xray_params
from benchmark import baseline
from benchmark.inputs import (
    COMPONENTS,
    Forward,
    drawn_images,
    embedded_network,
    noisy_matte,
    on_cores,
    squares,
    training_batch,
)
from core.config import Config
from scenes.scene import draw_pair
from submission.check import score
from u2net import U2Net


def network(device: str = "cpu") -> U2Net:
    return embedded_network().eval().to(device)


@contextlib.contextmanager
def forward(cfg: Config, case: Forward) -> Iterator[Callable]:
    model, given = network(), squares(cfg, case.size, case.images)
    with on_cores(case.threads):
        yield lambda: np.stack([baseline.forward(model, square) for square in given])


@contextlib.contextmanager
def gpu_forward(cfg: Config, size: int, images: int) -> Iterator[Callable]:
    model, given = network("cuda"), squares(cfg, size, images)

    @torch.inference_mode()
    def side():
        return np.concatenate([torch.sigmoid(model(baseline.to_input(square).cuda())[0])[:, 0].cpu().numpy()
                               for square in given])

    yield side


@contextlib.contextmanager
def training(cfg: Config, size: int, images: int) -> Iterator[Callable]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rgb, target = training_batch(cfg, size, images, device)
    model = network(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), cfg.train.lr)
    yield lambda: baseline.training_step(model, optimizer, rgb, target, cfg.loss)


@contextlib.contextmanager
def xray(cfg: Config, size: int) -> Iterator[Callable]:
    rgb, alpha, _ = draw_pair(cfg.seed, 0, size)
    params = sample_xray_params(cfg.augment.xray, np.random.default_rng(cfg.seed))
    yield lambda: baseline.xray_alpha_dense(rgb, alpha, params, np.random.default_rng(1))


@contextlib.contextmanager
def components() -> Iterator[Callable]:
    pred = noisy_matte()
    yield lambda: baseline.components(pred, COMPONENTS)


@contextlib.contextmanager
def submission(cfg: Config, images: int) -> Iterator[Callable]:
    """Returns the bytes of the CSV."""
    model = network()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv"
        paths = drawn_images(cfg, Path(folder) / "images", images)

        def side():
            baseline.submission(model, paths, path)
            return path.read_bytes()

        yield side


def squared_error(theirs: bytes, ours: bytes) -> str:
    """Between the bytes of two submissions."""
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "reference.csv", Path(folder) / "ours.csv"
        one.write_bytes(theirs)
        two.write_bytes(ours)
        return f"MSE between the two {score(two, one):.1e}"
