"""A training run's state: what moves with each step, how it is saved, resumed and recorded in the run folder."""
import csv
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

import checkpoint
from cli import UserError, brief
from config import Config, dump_config, flat, official_weights, select_metric
from distributed import World
from files import alone_in, may_write, move, no_input, remove, written_whole
from pictures import save_curves

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
        self.batch, self.images, self.sums, self.seconds = 0, 0, {}, 0.0
        return row


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
    progress: Progress = field(default_factory=Progress)

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
        }

    def resume(self) -> dict[str, tuple]:
        """Takes up what save() left -> the settings that have changed since: {key: (then, now)}."""
        alone_in(self.cfg.train.out_dir)
        try:
            state = checkpoint.load_weights(self.model, self.last)
        except checkpoint.Damaged as error:
            if not self.before_last.exists():
                raise UserError(f"{error}; or set train.resume=never to start anew") from None
            print(f"warning {error}\nwarning going on from {self.before_last}, the state before it")
            state = checkpoint.load_weights(self.model, self.before_last)
            if self.last.exists():  # or the next save would make it the previous one
                move(self.last, self.last.with_name(DAMAGED))
        try:
            self.take(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(f"{self.last}: holds no state to resume from ({brief(error)}); "
                            "set train.resume=never to start anew") from None
        then, now = flat(state["config"]), flat(self.cfg.model_dump(mode="json"))
        return {key: (then.get(key), value) for key, value in now.items() if then.get(key) != value}

    def take(self, state: dict) -> None:
        """Goes on where another process's or an earlier run's state() stands."""
        self.model.load_state_dict(state["model_state"])
        if self.average is not self.model:
            self.average.load_state_dict(state["average_state"] or state["model_state"])
        self.optimizer.load_state_dict(state["optimizer"])
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
        with written_whole(out_dir / "config.yaml") as part:
            part.write_text(dump_config(self.cfg), encoding="utf-8")

    def spare(self, paths: list[Path]) -> None:
        """UserError where a file that this run removes or overwrites is one of its inputs or not this program's."""
        data, weights = self.cfg.data, official_weights(self.cfg.model.variant)
        no_input("train.out_dir", self.cfg.train.out_dir, [weights.parent])
        for path in paths:
            no_input("train.out_dir", path, [self.cfg.model.weights, data.train_csv, data.val_csv])
            may_write(path)

    def is_best(self) -> bool:
        """Whether the last epoch is the best so far."""
        values = [row[select_metric(self.cfg)] for row in self.progress.history]
        return values[-1] <= min(values)

    def save_best(self) -> None:
        row = self.progress.history[-1]
        checkpoint.save(self.cfg.train.out_dir / "best.pth", {
            "model_state": self.average.state_dict(), "config": self.cfg.model_dump(mode="json"),
            "epoch": row["epoch"], "metrics": row})

    def record(self) -> None:
        """metrics.csv and curves.png, from the history."""
        history = self.progress.history
        terms = [name for name in history[-1] if name not in COLUMNS]
        with written_whole(self.cfg.train.out_dir / "metrics.csv") as part, part.open("w", newline="") as file:
            rows = csv.DictWriter(file, COLUMNS + terms, lineterminator="\n")
            rows.writeheader()
            rows.writerows(history)
        save_curves(self.cfg.train.out_dir / "curves.png", history)
