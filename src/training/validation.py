"""Validation: predicts as inference does, and says how good that is between the floor and the trivial predictions."""
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
from inference.predictor import Predictor
from training import metrics
from training.batches import loaded

DRAWS = 4  # per image for the floor: its standard error over pixels and images is far below its value


@dataclass(frozen=True)
class Yardstick:
    """What each epoch of a run is measured by."""
    predict: Predictor
    val_set: ValidationSet
    loading: dict             # how its DataLoader runs
    levels: dict[str, float]  # of reference_levels()
    identity: str             # of measure()

    def validate(self, stopped: Callable[[], bool], shown: Collection[int],
                 world: World) -> tuple["Validation", list[tuple]]:
        return validate(self.predict, self.val_set, self.predict.batch_size, self.loading, stopped, shown, world)

    def values(self, result: "Validation") -> dict[str, float]:
        """metrics.csv's val_* columns, and the levels between which they lie."""
        return result.means() | {"val_floor": self.levels["floor"], "val_constant": self.levels["constant"]}


@dataclass
class Validation:
    """What one pass over the validation set measured."""
    images: dict[int, dict] = field(default_factory=dict)  # one row per image, by index: names and metrics
    # pixels per level 0…255 of the file's alpha, the dense target and the prediction
    histograms: dict[str, np.ndarray] = field(
        default_factory=lambda: {name: np.zeros(256, np.int64) for name in ("alpha", "target", "pred")})
    # sum of the target over the pixels that each predicted level has: divided by pred's histogram, the calibration
    target_sums: np.ndarray = field(default_factory=lambda: np.zeros(256))

    def add(self, index: int, pair: Pair, alpha: np.ndarray, target: np.ndarray, pred: np.ndarray) -> dict:
        """One image; alpha, target, pred (H,W) in [0,1] -> its row."""
        row = {"image": pair.image_path.name, "family": pair.family,
               "val_mse": metrics.mse(pred, alpha), "val_mse_dense": metrics.mse(pred, target),
               "val_sad": metrics.sad(pred, alpha), "val_grad": metrics.grad(pred, alpha),
               "val_conn": metrics.conn(pred, alpha)}
        self.images[index] = row
        levels = {"alpha": to_levels(alpha), "target": to_levels(target), "pred": to_levels(pred)}
        for name, image in levels.items():
            self.histograms[name] += np.bincount(image.ravel(), minlength=256)
        self.target_sums += np.bincount(levels["pred"].ravel(), weights=target.ravel(), minlength=256)
        return row

    def means(self) -> dict[str, float]:
        """metrics.csv's val_* columns."""
        rows = list(self.images.values())
        return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0] if name.startswith("val_")}

    def merged(self, world: World) -> "Validation":
        """What all processes have measured; rows in the images' order, so that means do not depend on who did what."""
        parts = world.gather((self.histograms, self.target_sums))
        histograms = {name: sum(part[name] for part, _ in parts) for name in self.histograms}
        return Validation(world.merge(self.images), histograms, sum(sums for _, sums in parts))

    def save(self, path: Path, epoch: int, weights: str) -> None:
        """As validation.json of a run folder, for the report. weights: the fingerprint of what was validated."""
        with written_whole(path) as part:
            part.write_text(json.dumps({
                "epoch": epoch, "weights": weights, "images": list(self.images.values()),
                "target_sums": self.target_sums.tolist(),
                "histograms": {name: counts.tolist() for name, counts in self.histograms.items()}}), encoding="utf-8")


def validate(predict: Predictor, val_set: ValidationSet, batch_size: int, loading: dict,
             stopped: Callable[[], bool] = lambda: False, shown: Collection[int] = (),
             world: World = ALONE) -> tuple[Validation, list[tuple]]:
    """The whole set, or what is done of it once stopped(); the processes take its batches in turn.

    loading: how its DataLoader runs. -> measurements, and (row, rgb, alpha, target, pred) of the images `shown`.
    """
    result, pictures = Validation(), {}
    batches = [range(len(val_set))[start:start + batch_size] for start in range(0, len(val_set), batch_size)]
    mine = world.deal(batches)
    loader = loaded(val_set, loading, batch_sampler=mine, collate_fn=list)
    for turn in tqdm(range(math.ceil(len(batches) / world.size)), "validation", unit="batch", disable=None,
                     leave=False):
        if turn < len(mine):
            batch = next(loader)
            preds = predict([rgb for rgb, _, _ in batch])
            for index, (rgb, alpha, target), pred in zip(mine[turn], batch, preds, strict=True):
                row = result.add(index, val_set.pairs[index], alpha, target, pred)
                if index in shown:
                    pictures[index] = row, rgb, alpha, target, pred
        if stopped():  # asks all processes: each has to be here in each turn
            break
    return result.merged(world), list(world.merge(pictures).values())


def content(pairs: Sequence[Pair]) -> str:
    """What tells a set of pairs from another one, or from itself before its CSV or one of its files was edited."""
    return sha256([(stamp(pair.image_path), stamp(pair.alpha_path)) for pair in pairs])


def sha256(values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def measure(val_set: ValidationSet, cfg: Config, world: World = ALONE) -> str:
    """What tells a validation from one whose numbers cannot be compared with its own: other truths or predictions."""
    infer = cfg.infer
    own = sha256((content(val_set.pairs), cfg.seed, cfg.data.size, cfg.augment.xray, infer.size, infer.tta,
                  infer.tile_over))
    return world.from_main({"measure": own})["measure"]  # on another machine the same files can have other times


def kept_levels(cache: Path, identity: str) -> dict[str, float] | None:
    """What reference_levels() left in the file, if it is about the same images and draws."""
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged
        known = json.loads(cache.read_text(encoding="utf-8"))
        if isinstance(known, dict) and known.pop("identity", None) == identity:
            return known
    return None


def reference_levels(val_set: ValidationSet, cfg: Config, cache: Path, world: World = ALONE) -> dict[str, float]:
    """What val_mse_dense is to be read against: the `floor`, and the predictions `zero` and best `constant`.

    The floor is the mean over images of the variance between draws of the dense alpha: the draws cannot be seen in the
    image, so no model beats it in expectation. Computed once per validation set and kept in the file `cache`.
    """
    identity = sha256((content(val_set.pairs), cfg.seed, cfg.data.size, cfg.augment.xray))
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
    if world.main:
        with contextlib.suppress(UserError), written_whole(cache) as part:  # a file of the user's: computed each time
            part.write_text(json.dumps({"identity": identity, **levels}), encoding="utf-8")
    return levels
