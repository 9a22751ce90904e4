"""One predict() for all backends: images in, alphas of the images' own sizes out.

    predict = load_predictor(cfg)
    alphas = predict([rgb, …])
"""
import time
from typing import NamedTuple, Protocol

import numpy as np
import torch

from core import checkpoint
from core.config import Config, predict_size
from core.device import pick_device, pick_precision
from core.errors import OperationError
from inference import openvino_backend
from inference.formats import measured_format
from inference.squares import from_square, inner_shape, to_square
from inference.tiling import add_detail, batches, tiled_alpha
from inference.torch_backend import folded_network
from u2net import U2Net


class Network(Protocol):
    """A U2Net as a backend runs it."""
    description: str  # what runs where, in one line
    tta: str
    batch_size: int   # images per call that keep it busy

    def __call__(self, squares: np.ndarray) -> np.ndarray:
        """(N,S,S,3) uint8 -> (N,S,S) float32 in [0,1], N <= batch_size."""


class Raw(NamedTuple):
    """The network's output for one image."""
    alpha: np.ndarray         # (S,S), of its square
    tiles: np.ndarray | None  # (H,W), if the image is large


class Predictor:
    """Runs a network on whole images at `size`; images over `tile_over` get their detail from tiles of that size.

    A call does three steps: prepare() and finish() for each image, which can run beside the network, and run() in
    between.
    """

    def __init__(self, network: Network, size: int, tile_over: int | None = None):
        self.network, self.size, self.tile_over = network, size, tile_over
        self.batch_size = network.batch_size
        self.seconds = 0.0  # spent in the network
        self.description = f"{network.description}, {size} px, tta {network.tta}" + (
            f", tiles over {tile_over} px" if tile_over else "")

    def __call__(self, rgb_batch: list[np.ndarray]) -> list[np.ndarray]:
        """(H,W,3) uint8 each, sizes may differ -> (H,W) float32 in [0,1] each."""
        raws = self.run(rgb_batch, [self.prepare(rgb) for rgb in rgb_batch])
        return [self.finish(rgb, raw) for rgb, raw in zip(rgb_batch, raws, strict=True)]

    def prepare(self, rgb: np.ndarray) -> np.ndarray:
        return to_square(rgb, self.size)

    def run(self, rgbs: list[np.ndarray], squares: list[np.ndarray]) -> list[Raw]:
        """The images and what prepare() made of them -> what finish() needs."""
        alphas = [alpha for batch in batches(squares, self.batch_size) for alpha in self._alphas(np.stack(batch))]
        return [Raw(alpha, self._tiles(rgb)) for rgb, alpha in zip(rgbs, alphas, strict=True)]

    def finish(self, rgb: np.ndarray, raw: Raw) -> np.ndarray:
        shape = rgb.shape[:2]
        alpha = from_square(raw.alpha, shape)
        return alpha if raw.tiles is None else add_detail(alpha, raw.tiles, inner_shape(shape, self.size))

    def _tiles(self, rgb: np.ndarray) -> np.ndarray | None:
        if self.tile_over is None or max(rgb.shape) <= max(self.tile_over, self.size):
            return None
        return tiled_alpha(rgb, self.size, self.batch_size, self._alphas)

    def _alphas(self, squares: np.ndarray) -> np.ndarray:
        started = time.perf_counter()
        alphas = self.network(squares)
        self.seconds += time.perf_counter() - started
        if not np.isfinite(alphas).all():
            raise OperationError(f"the network's output is not finite ({self.description}); set infer.precision=fp32")
        return alphas


def load_predictor(cfg: Config) -> Predictor:
    """The predictor that cfg.infer asks for, with the best backend for this machine."""
    model, size = load_model(cfg)
    return Predictor(load_network(cfg, model, size), size, cfg.infer.tile_over)


def load_model(cfg: Config) -> tuple[U2Net, int]:
    """(network with cfg.infer.weights, size at which it sees images); the checkpoint's own variant and, unless
    infer.size is set, its own size.
    """
    trained = checkpoint.load(cfg.infer.weights).get("config") or {}
    model = U2Net(trained.get("model", {}).get("variant", cfg.model.variant))
    checkpoint.load_weights(model, cfg.infer.weights)
    return model, predict_size(cfg, trained.get("infer", {}).get("size"))


def load_network(cfg: Config, model: U2Net, size: int) -> Network:
    """infer.backend auto: torch on a GPU; on a CPU openvino if it is installed, else torch."""
    device, backend = pick_device(), cfg.infer.backend
    prefers_openvino = backend == "auto" and device.type == "cpu"
    in_openvino = backend == "openvino" or (prefers_openvino and openvino_backend.available())
    fast = (openvino_backend.pick_cpu_precision("auto", openvino_backend.capabilities()) if in_openvino
            else pick_precision("auto", device))
    precision, note = measured_format(cfg, model, size, fast, torch.device("cpu") if in_openvino else device)
    infer = cfg.infer.model_copy(update={"precision": precision})
    network = (openvino_backend.OpenvinoNetwork(model, size, infer) if in_openvino
               else folded_network(model, size, infer, device))
    network.description += note
    if prefers_openvino and not in_openvino:
        network.description += " (openvino, which is faster, is not installed)"
    return network
