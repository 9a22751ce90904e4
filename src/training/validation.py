"""Validation: predicts as inference does, and compares the error with its floor and with trivial predictions."""
import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from augment import sample_xray_params, xray_alpha_dense
from core.config import Config
from core.distributed import ALONE, World
from core.errors import UserError
from core.files import stamp, written_whole
from core.seeds import Purpose, generator
from dataset import ValidationSet
from imaging.images import to_levels
from imaging.pairs import Pair, read_pair
from inference.prediction import Prediction
from inference.predictor import Predictor, density_params
from training import metrics
from training.workers import loaded

DRAWS = 4  # per image for the floor: its standard error over pixels and images is far below its value


@dataclass
class Validation:
    """The measurements of one pass over the validation set."""
    images: dict[int, dict] = field(default_factory=dict)  # index -> row of names and metrics
    # pixels per level 0…255 of the file's alpha, the dense target, and the predictions of both
    histograms: dict[str, np.ndarray] = field(
        default_factory=lambda: {name: np.zeros(256, np.int64) for name in ("alpha", "target", "pred_alpha", "pred")})
    # sum of the target over the pixels of each predicted level; divided by pred's histogram: the calibration
    target_sums: np.ndarray = field(default_factory=lambda: np.zeros(256))

    def add(self, index: int, pair: Pair, alpha: np.ndarray, target: np.ndarray, pred: Prediction) -> dict:
        """One image; alpha (of the file) and target (H,W) in [0,1] -> its row."""
        row = {"image": pair.image_path.name, "family": pair.family,
               "val_mse": metrics.mse(pred.alpha, alpha), "val_mse_dense": metrics.mse(pred.dense, target),
               "val_sad": metrics.sad(pred.alpha, alpha), "val_grad": metrics.grad(pred.alpha, alpha),
               "val_conn": metrics.conn(pred.alpha, alpha)}
        self.images[index] = row
        levels = {"alpha": to_levels(alpha), "target": to_levels(target), "pred_alpha": to_levels(pred.alpha),
                  "pred": to_levels(pred.dense)}
        for name, image in levels.items():
            self.histograms[name] += np.bincount(image.ravel(), minlength=256)
        self.target_sums += np.bincount(levels["pred"].ravel(), weights=target.ravel(), minlength=256)
        return row

    def means(self) -> dict[str, float]:
        """metrics.csv's val_* columns."""
        rows = list(self.images.values())
        return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0] if name.startswith("val_")}

    def merged(self, world: World) -> "Validation":
        """All processes' measurements; rows in the images' order, so that means do not depend on the sharing."""
        parts = world.gather((self.histograms, self.target_sums))
        histograms = {name: sum(part[name] for part, _ in parts) for name in self.histograms}
        return Validation(world.merge(self.images), histograms, sum(sums for _, sums in parts))

    def save(self, path: Path, epoch: int, weights: str) -> None:
        """Writes a run folder's validation.json, for the report. weights: checkpoint.fingerprint() of the network."""
        with written_whole(path) as part:
            part.write_text(json.dumps({
                "epoch": epoch, "weights": weights, "images": list(self.images.values()),
                "target_sums": self.target_sums.tolist(),
                "histograms": {name: counts.tolist() for name, counts in self.histograms.items()}}), encoding="utf-8")


@dataclass(frozen=True)
class Validator:
    """Measures `predict` on a validation set, as often as asked: a run does so after each epoch."""
    predict: Predictor
    val_set: ValidationSet
    loader_options: dict = field(default_factory=dict)
    world: World = ALONE
    levels: dict[str, float] = field(default_factory=dict)  # of reference_levels()
    identity: str = ""                                      # of validation_identity()

    def validate(self, shown: Collection[int] = (),
                 stopped: Callable[[], bool] = lambda: False) -> tuple[Validation, list[tuple]]:
        """The whole set, or the part done when stopped() says so; the processes take its batches in turn.

        -> measurements, and (row, rgb, alpha, target, prediction) of the images whose indices are `shown`.
        """
        result, pictures = Validation(), {}
        count, size = len(self.val_set), self.predict.batch_size
        batches = [range(count)[start:start + size] for start in range(0, count, size)]
        mine = self.world.deal(batches)
        loader = loaded(self.val_set, self.loader_options, batch_sampler=mine, collate_fn=list)
        for turn in tqdm(range(math.ceil(len(batches) / self.world.size)), "validation", unit="batch", disable=None,
                         leave=False):
            if turn < len(mine):
                batch = next(loader)
                preds = self.predict.predictions([rgb for rgb, _, _ in batch])
                for index, (rgb, alpha, target), pred in zip(mine[turn], batch, preds, strict=True):
                    row = result.add(index, self.val_set.pairs[index], alpha, target, pred)
                    if index in shown:
                        pictures[index] = row, rgb, alpha, target, pred
            if stopped():  # asks all processes, so each calls it in each turn
                break
        return result.merged(self.world), list(self.world.merge(pictures).values())

    def columns(self, result: Validation) -> dict[str, float]:
        """metrics.csv's val_* columns: means, and the levels to read them against."""
        return result.means() | {f"val_{name}": value for name, value in self.levels.items() if name != "zero"}


def pairs_identity(pairs: Sequence[Pair]) -> str:
    """Changes when another pair is listed or a file is edited."""
    return sha256([(stamp(pair.image_path), stamp(pair.alpha_path)) for pair in pairs])


def sha256(values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def validation_identity(val_set: ValidationSet, cfg: Config, world: World = ALONE) -> str:
    """Changes when earlier results are no longer comparable: other truths, or another way to predict."""
    infer = cfg.infer
    own = sha256((pairs_identity(val_set.pairs), cfg.seed, cfg.data.size, cfg.augment.xray, infer.size, infer.tta,
                  infer.tile_over, density_params(cfg, cfg.model.predicts)))
    return world.from_main({"measure": own})["measure"]  # the same files can have other times on another machine


def kept_levels(cache: Path, identity: str) -> dict[str, float] | None:
    """The levels that reference_levels() has kept in the file, if for the same images and draws."""
    with contextlib.suppress(OSError, ValueError):  # missing or damaged
        known = json.loads(cache.read_text(encoding="utf-8"))
        if isinstance(known, dict) and known.pop("identity", None) == identity:
            return known
    return None


def keep_levels(cache: Path, identity: str, levels: dict[str, float], world: World) -> None:
    if world.main:
        with contextlib.suppress(UserError), written_whole(cache) as part:  # the user's own file: computed each time
            part.write_text(json.dumps({"identity": identity, **levels}), encoding="utf-8")


def reference_levels(val_set: ValidationSet, cfg: Config, cache: Path, world: World = ALONE) -> dict[str, float]:
    """val_mse_dense of the best possible model (`floor`), of all zeros (`zero`) and of the best constant (`constant`).

    The floor is the variance between draws of the dense alpha, averaged over images: the image does not show which draw
    it is, so no model beats that in expectation. Computed once per validation set and kept in the file `cache`.
    """
    identity = sha256((pairs_identity(val_set.pairs), cfg.seed, cfg.data.size, cfg.augment.xray))
    known = world.from_main(kept_levels(cache, identity) if world.main else None)
    if known:
        return known

    def moments(index: int) -> tuple[float, float, float]:
        rgb, alpha = read_pair(val_set.pairs[index], cfg.data.size)
        draws = []
        for draw in range(DRAWS):
            rng = generator(cfg.seed, Purpose.FLOOR, index, draw)
            draws.append(xray_alpha_dense(rgb, alpha, sample_xray_params(cfg.augment.xray, rng), rng))
        draws = np.stack(draws)
        return float(draws.var(0, ddof=1).mean()), float(draws.mean()), float((draws**2).mean())

    with ThreadPoolExecutor() as pool:
        mine = world.deal(range(len(val_set)))
        rows = tqdm(pool.map(moments, mine), "floor of the validation set", len(mine), disable=None, leave=False)
        rows = world.merge(dict(zip(mine, rows, strict=True)))
    floor, mean, square = np.mean(list(rows.values()), axis=0)
    levels = {"floor": float(floor), "constant": float(square - mean**2), "zero": float(square)}
    keep_levels(cache, identity, levels, world)
    return levels
