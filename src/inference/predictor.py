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
from core.config import Config, predict_size, with_infer
from core.device import machine_memory, pick_device, pick_precision
from core.errors import OperationError
from core.folds import fold_weights
from inference import openvino_backend
from inference.ensemble import Ensemble, ensemble
from inference.formats import measured_format
from inference.prediction import Prediction, Raw
from inference.squares import from_square, inner_shape, to_square
from inference.tiling import add_detail, batches, tiled_alpha
from inference.torch_backend import folded_network
from u2net import U2Net


class Network(Protocol):
    """A U2Net as a backend runs it."""
    description: str  # what runs where, in one line
    tta: str
    batch_size: int   # images per call that keep it busy
    kept_bytes: int   # memory that it holds between calls, about; 0 if only its weights

    def __call__(self, squares: np.ndarray) -> np.ndarray:
        """(N,S,S,3) uint8 -> (N,S,S) float32 in [0,1], N <= batch_size."""


class Predictor:
    """Runs a network on whole images at `size`; images over `tile_over` get their detail from tiles of that size.

    density: the parameters that the dense alpha is composed with; None: the network's output is the answer.

    A call does three steps: prepare() and finish() for each image, which can run beside the network, and run() in
    between.
    """

    def __init__(self, network: Network, size: int, tile_over: int | None = None, density: XrayParams | None = None):
        self.network, self.size, self.tile_over, self.density = network, size, tile_over, density
        self.batch_size = network.batch_size
        self.way = size, tile_over, density  # outputs of the same way can be averaged as they are
        self.seconds = 0.0  # spent in the network
        self.manner = f"tta {network.tta}" + (f", tiles over {tile_over} px" if tile_over else "") + (
            ", dense alpha composed from alpha and picture" if density else "")
        self.description = f"{network.description}, {size} px, {self.manner}"

    @property
    def members(self) -> tuple:
        """As an Ensemble's."""
        return ((self, 1.0),)

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
        alpha = self.matte(rgb, raw)
        return Prediction(alpha, xray_alpha_dense(rgb, alpha, self.density) if self.density else alpha)

    def matte(self, rgb: np.ndarray, raw: Raw) -> np.ndarray:
        """(H,W): the network's own output at the image's size, with detail from tiles."""
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


def load_predictor(cfg: Config) -> Predictor | Ensemble:
    """What cfg.infer asks for, with the best backend for this machine: one network, or the weighted mean of several.

    All networks stay in memory. OperationError if they do not fit there.
    """
    shares = cfg.infer.shares or (1.0,) * len(cfg.infer.checkpoints)
    used = [(path, share) for path, share in zip(cfg.infer.checkpoints, shares, strict=True) if share > 0]
    members = load_members(with_infer(cfg, weights=tuple(path for path, _ in used)))
    sizes = len(members) // len(used)
    return ensemble(members, [share for _, share in used for _ in range(sizes)])


def load_members(cfg: Config) -> list[Predictor | Ensemble]:
    """What load_predictor() takes the mean of: each entry of infer.weights, at each size of infer.tta.

    Entry by entry, not weighted. A folder of folds is one entry, the mean of its networks.
    """
    members, kept = [], []
    for entry in cfg.infer.checkpoints:
        ones = [with_infer(cfg, weights=path, shares=None) for path in
                (fold_weights(entry) if entry.is_dir() else [entry])]
        networks = [(one, load_model(one)) for one in ones]
        for size in cfg.infer.tta_sizes or (None,):
            predictors = []
            for one, loaded in networks:
                predictors.append(single_predictor(one, loaded._replace(size=size or loaded.size)))
                kept.append(predictors[-1].network.kept_bytes)
                check_memory(kept)
            members.append(ensemble(predictors))
    return members


def check_memory(kept: Sequence[int]) -> None:
    """OperationError if networks, which hold so many bytes each, are clearly too much together."""
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else machine_memory()
    if sum(kept) > memory:
        raise OperationError(f"{len(kept)} networks or more need over {sum(kept) / 1e9:.0f} GB at the same time, of "
                             f"{memory / 1e9:.0f}; infer with each alone (infer.weights, infer.submission) and average "
                             "their submissions with `python src/submit.py blend`")


class Loaded(NamedTuple):
    """A network with the weights of a checkpoint, and how these are to be used."""
    model: U2Net
    size: int                   # longer side at which it sees images
    density: XrayParams | None  # as in Predictor


def load_model(cfg: Config) -> Loaded:
    """The network of cfg.infer.weights, one file; its variant, what it predicts and, unless infer.size is set, its size
    are the checkpoint's own.
    """
    trained = checkpoint.load(cfg.infer.weights).get("config")
    own = (trained or {}).get("model", {})
    model = U2Net(own.get("variant", cfg.model.variant))
    checkpoint.load_weights(model, cfg.infer.weights)
    # checkpoints of versions before model.predicts predict dense alphas
    predicts = own.get("predicts", "dense") if trained else cfg.model.predicts
    size = predict_size(cfg, trained_size((trained or {}).get("infer", {})))
    return Loaded(model, size, density_params(cfg, predicts))


def trained_size(infer: dict) -> int | None:
    """The size that a checkpoint was validated at; of several the first. infer: that section of its config."""
    tta = infer.get("tta")
    sizes = [each for each in tta if each != "flip"] if isinstance(tta, list) else []
    return infer.get("size") or next(iter(sizes), None)


def single_predictor(cfg: Config, loaded: Loaded) -> Predictor:
    """One network at one size. cfg.infer.weights: the file that it comes from, beside which findings are kept."""
    return Predictor(load_network(cfg, loaded.model, loaded.size), loaded.size, cfg.infer.tile_over, loaded.density)


def density_params(cfg: Config, predicts: str) -> XrayParams | None:
    """What the dense alpha is composed with; None if the network's output is the answer. predicts: model.predicts."""
    return middle_xray_params(cfg.augment.xray) if predicts == "alpha" and cfg.augment.xray_p > 0 else None


def load_network(cfg: Config, model: U2Net, size: int) -> Network:
    """infer.backend auto: torch on a GPU; on a CPU openvino if it is installed, else torch."""
    device, backend = pick_device(), cfg.infer.backend
    prefers_openvino = backend == "auto" and device.type == "cpu"
    in_openvino = backend == "openvino" or (prefers_openvino and openvino_backend.available())
    precision, note = measured_format(cfg, model, size, fast_formats(device, in_openvino),
                                      torch.device("cpu") if in_openvino else device)
    infer = cfg.infer.model_copy(update={"precision": precision, "tta": cfg.infer.flips})
    network = (openvino_backend.OpenvinoNetwork(model, size, infer) if in_openvino
               else folded_network(model, size, infer, device))
    network.description += note
    if prefers_openvino and not in_openvino:
        network.description += " (openvino, which is faster, is not installed)"
    return network


def fast_formats(device: torch.device, in_openvino: bool) -> list[str]:
    """Those that are faster than fp32 here, the fastest first. On a GPU fp16 is as fast as bf16, and far more exact."""
    fastest = (openvino_backend.pick_cpu_precision("auto", openvino_backend.capabilities()) if in_openvino
               else pick_precision("auto", device))
    if fastest == "fp32":
        return []
    return list(dict.fromkeys(["fp16", fastest])) if device.type == "cuda" else [fastest]
