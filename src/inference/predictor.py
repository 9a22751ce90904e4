"""One predict() for all backends: images in, dense alphas of the images' own sizes out.

    predict = load_predictor(cfg)
    dense_alphas = predict([rgb, …])

The dense alpha is a known function of the picture and the object's alpha (xray_alpha_dense). So a network may predict
only the alpha, and the dense alpha is composed from both; or it predicts the dense alpha directly (model.predicts).
"""
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from augment import XrayParams, middle_xray_params, xray_alpha_dense
from core import checkpoint
from core.config import Config, predict_size
from core.device import pick_device, pick_precision
from core.errors import OperationError, UserError
from core.folds import fold_weights
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


class Prediction(NamedTuple):
    """For one image, (H,W) float32 in [0,1] each; the same array twice if the network predicts the answer directly."""
    alpha: np.ndarray  # of the object
    dense: np.ndarray  # the answer, which a submission holds


class Predictor:
    """Runs a network on whole images at `size`; images over `tile_over` get their detail from tiles of that size.

    density: the parameters that the dense alpha is composed with; None: the network's output is the answer.

    A call does three steps: prepare() and finish() for each image, which can run beside the network, and run() in
    between.
    """

    def __init__(self, network: Network, size: int, tile_over: int | None = None, density: XrayParams | None = None):
        self.network, self.size, self.tile_over, self.density = network, size, tile_over, density
        self.batch_size = network.batch_size
        self.seconds = 0.0  # spent in the network
        self.description = f"{network.description}, {size} px, tta {network.tta}" + (
            f", tiles over {tile_over} px" if tile_over else "") + (
            ", dense alpha composed from alpha and picture" if density else "")

    def __call__(self, rgb_batch: list[np.ndarray]) -> list[np.ndarray]:
        """(H,W,3) uint8 each, sizes may differ -> (H,W) float32 in [0,1] each: the answers."""
        return [prediction.dense for prediction in self.predictions(rgb_batch)]

    def predictions(self, rgb_batch: list[np.ndarray]) -> list[Prediction]:
        raws = self.run(rgb_batch, [self.prepare(rgb) for rgb in rgb_batch])
        return [self.finish(rgb, raw) for rgb, raw in zip(rgb_batch, raws, strict=True)]

    def prepare(self, rgb: np.ndarray) -> np.ndarray:
        return to_square(rgb, self.size)

    def run(self, rgbs: list[np.ndarray], squares: list[np.ndarray]) -> list[Raw]:
        """The images and what prepare() made of them -> what finish() needs."""
        alphas = [alpha for batch in batches(squares, self.batch_size) for alpha in self._alphas(np.stack(batch))]
        return [Raw(alpha, self._tiles(rgb)) for rgb, alpha in zip(rgbs, alphas, strict=True)]

    def finish(self, rgb: np.ndarray, raw: Raw) -> Prediction:
        shape = rgb.shape[:2]
        alpha = from_square(raw.alpha, shape)
        if raw.tiles is not None:
            alpha = add_detail(alpha, raw.tiles, inner_shape(shape, self.size))
        return Prediction(alpha, xray_alpha_dense(rgb, alpha, self.density) if self.density else alpha)

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
    """The predictor that cfg.infer asks for, with the best backend for this machine.

    If infer.weights is a folder of folds, of the mean of their alphas.
    """
    if cfg.infer.weights.is_dir():
        return load_ensemble(cfg)
    model, size, density = load_model(cfg)
    return Predictor(load_network(cfg, model, size), size, cfg.infer.tile_over, density)


class Ensemble:
    """Several networks as one: the mean of their alphas, in float."""

    def __init__(self, networks: Sequence[Network]):
        self.networks, self.tta = networks, networks[0].tta
        self.batch_size = min(network.batch_size for network in networks)
        self.description = f"mean of {len(networks)} networks, {networks[0].description}"

    def __call__(self, squares: np.ndarray) -> np.ndarray:
        return sum(network(squares) for network in self.networks) / np.float32(len(self.networks))


def load_ensemble(cfg: Config) -> Predictor:
    """The networks of all folds in the folder infer.weights, all in memory. UserError if they do not fit together."""
    members = [cfg.model_copy(update={"infer": cfg.infer.model_copy(update={"weights": path})})
               for path in fold_weights(cfg.infer.weights)]
    networks, ways = [], {}
    for member in members:
        model, *way = load_model(member)
        ways.setdefault(tuple(way), member.infer.weights)
        if len(ways) > 1:
            one, other = ways.values()
            raise UserError(f"{other}: sees images at another size than {one}, or does not predict the same "
                            "(model.predicts), so their alphas have no common mean; train all folds alike")
        networks.append(load_network(member, model, way[0]))
    size, density = next(iter(ways))
    return Predictor(Ensemble(networks), size, cfg.infer.tile_over, density)


class Loaded(NamedTuple):
    """A network with the weights of a checkpoint, and how these are to be used."""
    model: U2Net
    size: int                   # longer side at which it sees images
    density: XrayParams | None  # as in Predictor


def load_model(cfg: Config) -> Loaded:
    """The network of cfg.infer.weights; its variant, what it predicts and, unless infer.size is set, its size are the
    checkpoint's own.
    """
    trained = checkpoint.load(cfg.infer.weights).get("config")
    own = (trained or {}).get("model", {})
    model = U2Net(own.get("variant", cfg.model.variant))
    checkpoint.load_weights(model, cfg.infer.weights)
    # checkpoints of versions before model.predicts predict dense alphas
    predicts = own.get("predicts", "dense") if trained else cfg.model.predicts
    size = predict_size(cfg, (trained or {}).get("infer", {}).get("size"))
    return Loaded(model, size, density_params(cfg, predicts))


def density_params(cfg: Config, predicts: str) -> XrayParams | None:
    """What the dense alpha is composed with; None if the network's output is the answer. predicts: model.predicts."""
    return middle_xray_params(cfg.augment.xray) if predicts == "alpha" and cfg.augment.xray_p > 0 else None


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
