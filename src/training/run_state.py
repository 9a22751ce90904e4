"""A training run's state: what moves with each step, how it is saved, resumed and recorded in the run folder."""
import copy
import csv
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from core import checkpoint
from core.config import Config, dump_config, flat, official_weights, select_metric
from core.distributed import World
from core.errors import UserError, brief
from core.files import alone_in, move, remove, written_whole
from core.outputs import may_write, no_input
from imaging.pictures import save_curves
from training.validation import Validation

NO_EFFECT = {"model.weights": " (no effect: a resumed run keeps its own weights; train.resume=never starts from these)"}
LAST, BEFORE_LAST, DAMAGED = "last.pth", "last.prev.pth", "last.damaged.pth"
WRITTEN = ("config.yaml", "levels.json", "validation.json", "curves.png")  # beside what a new run removes
COLUMNS = ["epoch", "train_loss", "train_mse", "val_mse", "val_mse_dense", "val_sad", "val_grad", "val_conn", "lr",
           "images_per_s", "seconds"]


def resumable(out_dir: Path) -> bool:
    """Whether an earlier run's state is there; killed while it saved, it may have left the previous one alone."""
    return (out_dir / LAST).exists() or (out_dir / BEFORE_LAST).exists()


@dataclass
class Progress:
    """How far the run is; plain values, saved as they are."""
    epoch: int = 0        # epochs trained and validated
    batch: int = 0        # batches done of the epoch under way
    step: int = 0         # optimiser steps in all
    images: int = 0       # of the epoch under way, and the sums over them:
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # of training, without validation
    history: list[dict[str, float]] = field(default_factory=list)  # metrics.csv's rows
    order: str = ""    # what the order of the epoch's images follows from
    measure: str = ""  # what validation measures, see validation.measure()
    anew: list[int] = field(default_factory=list)  # how many rows there were each time that this changed
    best: dict[str, float] | None = None  # best.pth's row, as validation measures it now; None: there is no best.pth

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
    """Everything that a resumed run needs to equal an uninterrupted one."""
    cfg: Config
    model: nn.Module
    trained: nn.Module  # runs model forward in training: itself, or what shares its gradients with other processes
    average: nn.Module  # the EMA of model, or model itself: what is validated and saved as the result
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    world: World
    content: dict[str, str] = field(default_factory=dict)  # setting -> what tells the files that it names from others
    progress: Progress = field(default_factory=Progress)

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
        """last.pth; the one before it stays as last.prev.pth, for the case that last.pth gets damaged."""
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
        """Takes up what save() left -> what has changed since, one line each."""
        alone_in(self.cfg.train.out_dir)
        try:
            state = self.read(self.last)
        except checkpoint.Damaged as error:
            if not self.before_last.exists():
                raise UserError(f"{error}; or set train.resume=never to start anew") from None
            print(f"warning {error}\nwarning going on from {self.before_last}, the state before it")
            state = self.read(self.before_last)
            if self.last.exists():  # or the next save would make it the previous one
                move(self.last, self.last.with_name(DAMAGED))
        try:
            self.take(state)
            changes = self.changes(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(f"{self.last}: holds no state to resume from ({brief(error)}); "
                            "set train.resume=never to start anew") from None
        if self.progress.history and not self.best.exists():
            print(f"warning {self.best}: is gone; the next epoch becomes the best")
            self.progress.best = None
        return changes

    def read(self, path: Path) -> dict:
        """What save() left. UserError where it is another network's."""
        state = checkpoint.load(path)
        now = self.cfg.model.variant
        then = (state.get("config") or {}).get("model", {}).get("variant", now)
        if then != now:
            raise UserError(f"{path}: holds a run of model.variant={then}, not {now}; set model.variant={then} to "
                            "resume it, or train.resume=never or another train.out_dir to start anew")
        return state

    def changes(self, state: dict) -> list[str]:
        """What is set otherwise now, and which settings name files that are not the same as then."""
        then, now = flat(state["config"]), flat(self.cfg.model_dump(mode="json"))
        settings = {key: f"{then.get(key)} -> {value}" for key, value in now.items() if then.get(key) != value}
        before = state.get("content", {})
        files = {key: "the files that it names" for key, value in self.content.items()
                 if key not in settings and before.get(key, value) != value}
        return [f"{key}: {what}{NO_EFFECT.get(key, '')}" for key, what in {**settings, **files}.items()]

    def take(self, state: dict) -> None:
        """Goes on where another process's or an earlier run's state() stands."""
        self.model.load_state_dict(state["model_state"])
        if self.average is not self.model:
            self.average.load_state_dict(state["average_state"] or state["model_state"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # they come with the state; the learning rate is set at each step
            group["weight_decay"] = self.cfg.train.weight_decay
        if state["scaler"]:  # empty after training in another format than fp16: the scale starts anew
            self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])

    def start_anew(self) -> None:
        """Removes what an earlier run left in the folder, so that nothing of it can be taken for this one's.

        UserError, with nothing removed, where that is an input of this run or not this program's.
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
        """config.yaml, which report, tune and precision go by."""
        with written_whole(self.cfg.train.out_dir / "config.yaml") as part:
            part.write_text(dump_config(self.cfg), encoding="utf-8")

    def spare(self, paths: list[Path]) -> None:
        """UserError where a file that this run removes or overwrites is one of its inputs or not this program's."""
        data, weights = self.cfg.data, official_weights(self.cfg.model.variant)
        no_input("train.out_dir", self.cfg.train.out_dir, [weights.parent])
        for path in paths:
            no_input("train.out_dir", path, [self.cfg.model.weights, data.train_csv, data.val_csv])
            may_write(path)

    def is_best(self) -> bool:
        """Whether the last epoch is at least as good as best.pth."""
        metric, best = select_metric(self.cfg), self.progress.best
        return best is None or self.progress.history[-1][metric] <= best[metric]

    def best_row(self) -> dict[str, float]:
        """Of the epoch that best.pth is; an older version's state does not name it: the last of the best ones."""
        return self.progress.best or min(reversed(self.progress.history), key=lambda row: row[select_metric(self.cfg)])

    def best_state(self) -> dict | None:
        """Weights and metrics of best.pth; None where it is gone or is not this run's."""
        if not self.best.exists():
            return None
        try:
            state = checkpoint.load_weights(copy.deepcopy(self.average), self.best)
            return {name: state[name] for name in ("model_state", "metrics")}
        except (UserError, KeyError) as error:
            print(f"warning {self.best}: cannot be validated again ({brief(error)}); the next epoch becomes the best")
            return None

    def save_best(self, weights: dict[str, torch.Tensor], result: Validation) -> None:
        """best.pth and validation.json: the weights of progress.best, and how they were measured."""
        row = self.progress.best
        checkpoint.save(self.best, {"model_state": weights, "config": self.cfg.model_dump(mode="json"),
                                    "epoch": row["epoch"], "metrics": row})
        result.save(self.best.with_name("validation.json"), row["epoch"], checkpoint.fingerprint(weights))

    def record(self) -> None:
        """metrics.csv and curves.png, from the history."""
        history = self.progress.history
        terms = [name for name in history[-1] if name not in COLUMNS]
        with written_whole(self.cfg.train.out_dir / "metrics.csv") as part, part.open("w", newline="") as file:
            rows = csv.DictWriter(file, COLUMNS + terms, lineterminator="\n")
            rows.writeheader()
            rows.writerows(history)
        save_curves(self.cfg.train.out_dir / "curves.png", history)
