"""The state of a training run: saved, resumed and recorded in the run folder."""
import contextlib
import copy
import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from core import checkpoint
from core.config import Config, dump_config, flat, in_epoch, official_weights, select_metric
from core.distributed import World
from core.errors import UserError, brief
from core.files import alone_in, move, remove, stamp, written_whole
from core.outputs import may_write, no_input
from dataset import TrainSet, ValidationSet
from imaging.pairs import Pair
from imaging.pictures import save_curves
from training.validation import Validation, pairs_identity, sha256

NO_EFFECT = {"model.weights": " (no effect: a resumed run keeps its own weights; train.resume=never starts from these)"}
LAST, BEFORE_LAST, DAMAGED = "last.pth", "last.prev.pth", "last.damaged.pth"
WRITTEN = ("config.yaml", "levels.json", "levels_official.json", "validation.json",
           "curves.png")  # overwritten, not removed, by a new run
COLUMNS = ["epoch", "train_loss", "train_mse", "val_mse", "val_mse_dense", "val_sad", "val_grad", "val_conn", "lr",
           "images_per_s", "seconds"]


def resumable(out_dir: Path) -> bool:
    """Whether an earlier run left a state; killed while saving, it may have left only last.prev.pth."""
    return (out_dir / LAST).exists() or (out_dir / BEFORE_LAST).exists()


def content_of_files(cfg: Config, train_set: TrainSet, val_set: ValidationSet) -> dict[str, str]:
    """Setting -> fingerprint of the files it names, which tells whether they have changed."""
    content = {"data.train_csv": pairs_identity(train_set.pairs), "data.val_csv": pairs_identity(val_set.pairs)}
    if cfg.data.backgrounds_dir:
        content["data.backgrounds_dir"] = sha256([*map(stamp, train_set.backgrounds)])
    if cfg.model.weights:
        with contextlib.suppress(UserError):  # a resumed run does not need them
            content["model.weights"] = checkpoint.identity(cfg.model.weights)["sha256"]
    return content


def order_identity(seed: int, pairs: Sequence[Pair]) -> str:
    """Changes when the training pairs have other names, or come in another order."""
    return sha256((seed, [(pair.image_path.name, pair.alpha_path.name) for pair in pairs]))


@dataclass
class Progress:
    """How far the run is; plain values, saved as they are in last.pth."""
    epoch: int = 0        # epochs trained and validated
    batch: int = 0        # batches done in the current epoch
    step: int = 0         # optimiser steps in all
    images: int = 0       # images done in the current epoch
    sums: dict[str, float] = field(default_factory=dict)  # of each loss term over these images
    seconds: float = 0.0  # spent on them; without validation
    history: list[dict[str, float]] = field(default_factory=list)  # metrics.csv's rows
    order: str = ""    # fingerprint of what decides the order of the epoch's images
    measure: str = ""  # validation_identity() of the last validation
    anew: list[int] = field(default_factory=list)  # len(history) each time that `measure` changed
    best: dict[str, float] | None = None  # best.pth's row, measured by the current validation; None: no best.pth

    def add(self, sums: dict[str, float], images: int, seconds: float) -> None:
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.images += images
        self.seconds += seconds
        self.batch += 1
        self.step += 1

    def close_epoch(self, metrics: dict[str, float], lr: float, validation_seconds: float) -> dict[str, float]:
        """Appends the epoch's row to the history and starts the next one -> the row."""
        means = {name: value / self.images for name, value in self.sums.items()}
        self.epoch += 1
        row = {"epoch": self.epoch, "train_loss": means.pop("total"), "train_mse": means.pop("mse"), **metrics,
               "lr": lr, "images_per_s": self.images / self.seconds, "seconds": self.seconds + validation_seconds,
               **{f"loss_{name}": value for name, value in means.items()}}
        self.history.append(row)
        self.begin_epoch()
        return row

    def begin_epoch(self) -> None:
        self.batch, self.images, self.sums, self.seconds = 0, 0, {}, 0.0


@dataclass
class Run:
    """What a run trains, on what, and how far it is: all that a resumed run needs to equal an uninterrupted one."""
    cfg: Config
    model: nn.Module
    trained: nn.Module  # runs the model forward in training: itself, or its wrapper that shares gradients
    average: nn.Module  # the model's EMA, or itself: this is validated and saved as the result
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    world: World
    device: torch.device
    precision: str        # fp32, bf16 or fp16
    loader_options: dict  # of its DataLoaders
    content: dict[str, str] = field(default_factory=dict)  # of content_of_files()
    progress: Progress = field(default_factory=Progress)

    @property
    def phase(self) -> Config:
        """The settings of the current epoch."""
        return in_epoch(self.cfg, self.progress.epoch)

    @property
    def finished(self) -> bool:
        return self.progress.epoch >= self.cfg.train.epochs

    @property
    def best(self) -> Path:
        return self.cfg.train.out_dir / "best.pth"

    @property
    def last(self) -> Path:
        return self.cfg.train.out_dir / LAST

    @property
    def before_last(self) -> Path:
        return self.cfg.train.out_dir / BEFORE_LAST

    def save(self) -> None:
        """Writes last.pth; the one before stays as last.prev.pth, in case last.pth gets damaged."""
        if self.world.main:
            checkpoint.save(self.last, self.state(), self.before_last)

    def state(self) -> dict:
        return {
            "model_state": self.model.state_dict(),
            "average_state": self.average.state_dict() if self.average is not self.model else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
            "config": self.cfg.model_dump(mode="json"),
            "content": self.content,
        }

    def resume(self) -> list[str]:
        """Loads what save() wrote -> what has changed since, one line each."""
        alone_in(self.cfg.train.out_dir)
        try:
            state = self.read(self.last)
        except checkpoint.Damaged as error:
            if not self.before_last.exists():
                raise UserError(f"{error}; or set train.resume=never to start over") from None
            print(f"warning {error}\nwarning resuming from {self.before_last}, the state before it")
            state = self.read(self.before_last)
            if self.last.exists():  # or the next save would make it last.prev.pth
                move(self.last, self.last.with_name(DAMAGED))
        try:
            self.take(state)
            changes = self.changes(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(f"{self.last}: is not a state to resume from ({brief(error)}); "
                            "set train.resume=never to start over") from None
        if self.progress.history and not self.best.exists():
            print(f"warning {self.best}: is missing; the next epoch becomes the best")
            self.progress.best = None
        return changes

    def read(self, path: Path) -> dict:
        """What save() wrote. UserError if it is another network's, or another fold's: it would be validated on pairs
        that it was trained on."""
        state = checkpoint.load(path)
        saved = state.get("config") or {}
        for section, key, default in (("model", "variant", self.cfg.model.variant), ("data", "folds", None),
                                      ("data", "fold", None)):
            now, then = getattr(getattr(self.cfg, section), key), saved.get(section, {}).get(key, default)
            if then != now:
                then, now = ("null" if value is None else value for value in (then, now))
                raise UserError(f"{path}: was trained with {section}.{key}={then}, not {now}; set {section}.{key}="
                                f"{then} to resume it, or train.resume=never or another train.out_dir to start over")
        return state

    def changes(self, state: dict) -> list[str]:
        """Settings with another value than in the saved state, and settings whose files have changed."""
        then, now = flat(state["config"]), flat(self.cfg.model_dump(mode="json"))
        settings = {key: f"{then.get(key)} -> {value}" for key, value in now.items() if then.get(key) != value}
        before = state.get("content", {})
        files = {key: "the files it names are different" for key, value in self.content.items()
                 if key not in settings and before.get(key, value) != value}
        return [f"{key}: {what}{NO_EFFECT.get(key, '')}" for key, what in {**settings, **files}.items()]

    def take(self, state: dict) -> None:
        """Continues from the state() of another process or an earlier run."""
        self.model.load_state_dict(state["model_state"])
        if self.average is not self.model:
            self.average.load_state_dict(state["average_state"] or state["model_state"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # they come with the state, but the setting counts
            group["weight_decay"] = self.cfg.train.weight_decay
        if state["scaler"]:  # empty unless fp16 was trained: then the scale starts at its default
            self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])

    def start_over(self) -> None:
        """Removes an earlier run's files from the folder, so that none can be taken for this run's.

        UserError, with nothing removed, if one of them is an input of this run or the user's own.
        """
        out_dir = self.cfg.train.out_dir
        old = [*(out_dir / name for name in (LAST, BEFORE_LAST, DAMAGED, "best.pth")),
               *out_dir.glob("samples/epoch_*.png"), out_dir / "metrics.csv"]
        self.spare([*old, *(out_dir / name for name in WRITTEN)])
        alone_in(out_dir)
        for path in old:
            remove(path)
        self.save_config()

    def save_config(self) -> None:
        """Writes config.yaml, which report, tune and precision read."""
        with written_whole(self.cfg.train.out_dir / "config.yaml") as part:
            part.write_text(dump_config(self.cfg), encoding="utf-8")

    def spare(self, paths: list[Path]) -> None:
        """UserError if a file that this run removes or overwrites is one of its inputs or the user's own."""
        data, weights = self.cfg.data, official_weights(self.cfg.model.variant)
        no_input("train.out_dir", self.cfg.train.out_dir, [weights.parent])
        for path in paths:
            no_input("train.out_dir", path, [self.cfg.model.weights, data.train_csv, data.val_csv])
            may_write(path)

    def check_order(self, pairs: Sequence[Pair]) -> None:
        """Starts the current epoch again if its images now come in another order, so that each comes once."""
        order = order_identity(self.cfg.seed, pairs)
        if self.progress.images and self.progress.order not in ("", order):
            print(f"epoch   {self.progress.epoch + 1} starts again: the training pairs or the seed have changed")
            self.progress.begin_epoch()
        self.progress.order = order

    def is_best(self) -> bool:
        """Whether the last epoch is at least as good as best.pth."""
        metric, best = select_metric(self.cfg), self.progress.best
        return best is None or self.progress.history[-1][metric] <= best[metric]

    def best_row(self) -> dict[str, float]:
        """The row of best.pth's epoch; states of older versions do not name it: then the last of the best rows."""
        return self.progress.best or min(reversed(self.progress.history), key=lambda row: row[select_metric(self.cfg)])

    def best_state(self) -> dict | None:
        """Weights and metrics of best.pth; None if it is missing or cannot be used."""
        if not self.best.exists():
            return None
        try:
            state = checkpoint.load_weights(copy.deepcopy(self.average), self.best)
            return {name: state[name] for name in ("model_state", "metrics")}
        except (UserError, KeyError) as error:
            print(f"warning {self.best}: cannot be validated again ({brief(error)}); the next epoch becomes the best")
            return None

    def save_best(self, weights: dict[str, torch.Tensor], result: Validation) -> None:
        """Writes best.pth and validation.json: the weights of progress.best, and their measurements."""
        row = self.progress.best
        checkpoint.save(self.best, {"model_state": weights, "config": self.cfg.model_dump(mode="json"),
                                    "epoch": row["epoch"], "metrics": row})
        result.save(self.best.with_name("validation.json"), row["epoch"], checkpoint.fingerprint(weights))

    def record(self) -> None:
        """Writes metrics.csv and curves.png from the history."""
        history = self.progress.history
        terms = list(dict.fromkeys(name for row in history for name in row if name not in COLUMNS))
        with written_whole(self.cfg.train.out_dir / "metrics.csv") as part, part.open("w", newline="") as file:
            rows = csv.DictWriter(file, COLUMNS + terms, restval="nan", lineterminator="\n")
            rows.writeheader()
            rows.writerows(history)
        save_curves(self.cfg.train.out_dir / "curves.png", history)
