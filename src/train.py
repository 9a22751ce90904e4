"""Trains a U²-Net on pairs CSVs into a run folder; goes on where an interrupted run stopped.

    python src/train.py data.train_csv=data/splits/train.csv train.epochs=12 train.out_dir=outputs/u2netp
"""
import copy
import os
import signal
import time
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import checkpoint
import cli
from cli import OperationError, Stopped
from config import Config, in_epoch, load_config, predict_size, select_metric, with_predict_size
from dataset import Pair, TrainSet, ValidationSet, read_pairs
from device import autocast, describe, pick_device, pick_precision
from losses import matting_loss
from pictures import panel_sheet, save_picture
from predictor import TorchPredictor
from run_state import Run
from schedule import learning_rate
from u2net import U2Net, normalise
from validation import reference_levels, validate

SHUFFLE = 2  # what a random generator is keyed by, beside dataset.py's: [seed, purpose, …]


def train(cfg: Config) -> None:
    """Fills cfg.train.out_dir; one line per epoch on stdout."""
    cv2.setNumThreads(1)  # OpenCV's thread pool does not survive the fork into DataLoader workers
    torch.manual_seed(cfg.seed)
    device = pick_device()
    precision = pick_precision(cfg.train.amp, device)
    print(f"device  {describe(device, precision)}, channels_last")

    train_set = TrainSet(read_pairs(cfg.data.train_csv, cfg.data.limit, cfg.data.on_error), cfg)
    val_set = ValidationSet(read_pairs(cfg.data.val_csv, cfg.data.limit, cfg.data.on_error), cfg)
    print(f"data    {len(train_set)} training pairs of {cfg.data.train_csv}, {len(val_set)} for validation of "
          f"{cfg.data.val_csv}; dense targets with p {cfg.augment.xray_p:g}")
    run = prepare(cfg, device, precision)
    predict = TorchPredictor(run.average, predict_size(cfg), cfg.infer.tta, device, precision)

    shown = np.linspace(0, len(val_set) - 1, min(cfg.train.samples, len(val_set)), dtype=int).tolist()
    levels = reference_levels(val_set, cfg, cfg.train.out_dir / "levels.json")
    print(f"levels  val_mse_dense: floor {levels['floor']:.4f}, best constant {levels['constant']:.4f}, "
          f"all zero {levels['zero']:.4f}")

    stop = StopRequest(cfg.train.max_hours)  # from here on there is something to save
    for epoch in range(run.progress.epoch + 1, cfg.train.epochs + 1):
        train_epoch(run, train_set, epoch - 1, device, precision, stop)
        run.save()  # validation can be interrupted as well
        started = time.monotonic()
        result, pictures = validate(predict, val_set, cfg.infer.batch_size, loading(cfg, device),
                                    lambda: stop.reason is not None, shown)
        if stop.reason:
            return end_early(run, stop)

        values = result.means() | {"val_floor": levels["floor"], "val_constant": levels["constant"]}
        row = run.progress.close_epoch(values, run.optimizer.param_groups[0]["lr"], time.monotonic() - started)
        best = run.is_best()
        if best:
            run.save_best()
            result.save(cfg.train.out_dir / "validation.json", epoch)
        run.save()
        run.record()
        if pictures:
            draw_samples(cfg, epoch, pictures)
        print(f"epoch {epoch}/{cfg.train.epochs}  train_mse {row['train_mse']:.4f}  val_mse {row['val_mse']:.4f}  "
              f"val_mse_dense {row['val_mse_dense']:.4f}  lr {row['lr']:.1e}  {row['images_per_s']:.1f} img/s"
              f"{'  best' if best else ''}", flush=True)
    best_row = min(run.progress.history, key=lambda row: row[select_metric(cfg)])
    print(f"done    {cfg.train.out_dir}/best.pth is epoch {best_row['epoch']}: val_mse_dense "
          f"{best_row['val_mse_dense']:.4f} (floor {levels['floor']:.4f}, constant {levels['constant']:.4f})")


def prepare(cfg: Config, device: torch.device, precision: str) -> Run:
    """Network, optimiser and, where an earlier run can go on, its state; says which weights it starts from."""
    model = U2Net(cfg.model.variant)
    resumes = cfg.train.resume == "auto" and (cfg.train.out_dir / "last.pth").exists()
    if cfg.model.weights and not resumes:
        checkpoint.load_weights(model, cfg.model.weights)
    model.to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(model) if cfg.train.ema else model
    optimizer = torch.optim.AdamW(model.parameters(), cfg.train.lr, weight_decay=cfg.train.weight_decay)
    run = Run(cfg, model, average, optimizer, torch.amp.GradScaler(device.type, enabled=precision == "fp16"))
    if resumes:
        for key, (then, now) in run.resume().items():
            print(f"changed {key}: {then} -> {now}")
        print(f"model   {cfg.model.variant}, resumed from {run.last} in epoch {run.progress.epoch + 1}, "
              f"after {run.progress.batch} batches")
    else:
        run.start_anew()
        print(f"model   {cfg.model.variant} from {cfg.model.weights or 'nothing (model.weights: null)'}: "
              f"lr {cfg.train.lr:.1e}, warm-up {cfg.train.warmup:.0%} of the steps, {cfg.train.schedule} schedule")
    return run


def train_epoch(run: Run, train_set: TrainSet, epoch: int, device: torch.device, precision: str,
                stop: "StopRequest") -> None:
    """What is left of one epoch; a stop request ends it after the step under way."""
    cfg, progress = run.cfg, run.progress
    batches = epoch_batches(cfg, epoch, len(train_set))
    loader = DataLoader(train_set, batch_sampler=batches[progress.batch:], **loading(cfg, device))
    loss_weights = in_epoch(cfg, epoch).loss
    past = [row[select_metric(cfg)] for row in progress.history]
    run.model.train()
    saved = clock = time.monotonic()
    for rgb, target, indices in tqdm(loader, f"epoch {epoch + 1}", len(batches), initial=progress.batch,
                                     unit="batch", disable=None, leave=False):
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(cfg.train, progress.step, len(batches) * cfg.train.epochs, past)
        rgb, target = rgb.to(device, non_blocking=True), target.to(device, non_blocking=True)
        with autocast(device, precision):
            logits = run.model(normalise(rgb))
        terms = matting_loss(logits, target, loss_weights)
        if not terms["total"].isfinite():
            raise OperationError(not_finite(terms, epoch, progress.batch, [train_set.pairs[i] for i in indices]))
        run.optimizer.zero_grad()
        run.scaler.scale(terms["total"]).backward()
        if cfg.train.grad_clip:
            run.scaler.unscale_(run.optimizer)
            nn.utils.clip_grad_norm_(run.model.parameters(), cfg.train.grad_clip)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        if run.average is not run.model:
            update_average(run.average, run.model, cfg.train.ema, progress.step)

        now = time.monotonic()
        progress.add(terms, len(indices), now - clock)
        clock = now
        if stop.reason:
            return
        if now - saved > cfg.train.save_minutes * 60:
            run.save()
            saved = now


def draw_samples(cfg: Config, epoch: int, pictures: list[tuple]) -> None:
    """samples/epoch_NNN.png: rgb, truth, prediction and error of the pictured validation images."""
    dense = select_metric(cfg) == "val_mse_dense"
    rows = [(f"{row['image']}   mse_dense {row['val_mse_dense']:.4f}   mse {row['val_mse']:.4f}",
             rgb, target if dense else alpha, pred) for row, rgb, alpha, target, pred in pictures]
    title = f"{cfg.train.out_dir} · epoch {epoch} · true: {'dense target' if dense else 'alpha of the file'}"
    save_picture(cfg.train.out_dir / f"samples/epoch_{epoch:03d}.png", panel_sheet(rows, title))


def epoch_batches(cfg: Config, epoch: int, count: int) -> list[list[tuple[int, int]]]:
    """The epoch's batches of TrainSet keys (epoch, index), shuffled by seed and epoch.

    An incomplete last batch is left out (its images come in other epochs): BatchNorm learns little from one image.
    """
    order = np.random.default_rng([cfg.seed, SHUFFLE, epoch]).permutation(count).tolist()
    size = min(cfg.train.batch_size, count)
    return [[(epoch, index) for index in order[start:start + size]] for start in range(0, count - size + 1, size)]


def loading(cfg: Config, device: torch.device) -> dict:
    """How a DataLoader runs: on a CPU one process, since the network needs the cores; beside a GPU all but one."""
    workers = cfg.train.workers
    if workers == "auto":
        workers = 1 if device.type == "cpu" else max(1, min(16, (os.cpu_count() or 1) - 1))
    return {"num_workers": workers, "pin_memory": device.type == "cuda", "worker_init_fn": leave_ctrl_c_to_main}


def leave_ctrl_c_to_main(worker: int) -> None:
    """A terminal sends Ctrl-C to all processes; the main one still needs its workers to finish the step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average; a young one leans on the present, so that the random start is soon forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def not_finite(terms: dict[str, torch.Tensor], epoch: int, batch: int, pairs: Sequence[Pair]) -> str:
    values = ", ".join(f"{name} {value.item():.3g}" for name, value in terms.items())
    names = ", ".join(str(pair.image_path) for pair in pairs)
    return (f"the loss is not finite at epoch {epoch + 1}, batch {batch + 1} ({values}) with {names}; "
            "lower train.lr, set train.grad_clip or train.amp=fp32")


class StopRequest:
    """Why training should end after the step under way: the first SIGINT or SIGTERM, or the time limit.

    A second signal ends at once.
    """

    def __init__(self, max_hours: float | None):
        self.signal = None
        self._max_hours = max_hours
        self._deadline = time.monotonic() + max_hours * 3600 if max_hours else float("inf")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    @property
    def reason(self) -> str | None:
        if self.signal:
            return self.signal.name
        return f"train.max_hours={self._max_hours:g}" if time.monotonic() > self._deadline else None


def end_early(run: Run, stop: StopRequest) -> None:
    progress = run.progress
    message = (f"stopped by {stop.reason} in epoch {progress.epoch + 1} after batch {progress.batch}; "
               f"saved to {run.last}, the same command goes on from there")
    if stop.signal:
        raise Stopped(message, stop.signal)
    print(message)


def main() -> None:
    args = cli.parse(__doc__)
    try:
        train(with_predict_size(load_config(args.config, args.overrides)))
    except torch.OutOfMemoryError:
        raise OperationError("the GPU's memory is full; lower train.batch_size or augment.crop") from None


if __name__ == "__main__":
    cli.run(main)
