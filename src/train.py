"""Trains a U²-Net on pairs CSVs into a run folder; goes on where an interrupted run stopped.

    python src/train.py data.train_csv=data/splits/train.csv train.epochs=12 train.out_dir=outputs/u2netp
"""
import contextlib
import copy
import itertools
import math
import time
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import checkpoint
import cli
import distributed
from cli import OperationError, UserError
from config import Config, in_epoch, load_config, predict_size, select_metric, with_predict_size
from dataset import Pair, TrainSet, ValidationSet, read_pairs
from device import autocast, describe, pick_device, pick_precision
from distributed import ALONE, World
from loading import epoch_batches, loading
from losses import matting_loss
from outputs import check_folder
from pictures import panel_sheet, save_picture
from predictor import TorchPredictor
from run_state import Run, resumable
from schedule import learning_rate
from schema import Loss
from stopping import StopRequest, end_early
from u2net import U2Net, normalise
from validation import Validation, reference_levels, validate


def train(cfg: Config, world: World = ALONE) -> None:
    """Fills cfg.train.out_dir; one line per epoch on stdout."""
    check_folder(cfg.train.out_dir, "choose another train.out_dir")
    if cfg.data.root.is_file():
        raise UserError(f"data.root={cfg.data.root}: is a file, not a folder; choose another")
    cv2.setNumThreads(1)  # OpenCV's thread pool does not survive the fork into DataLoader workers
    torch.manual_seed(cfg.seed)
    device = pick_device()
    precision = pick_precision(cfg.train.amp, device)
    print(f"device  {describe(device, precision)}, channels_last")

    train_set = TrainSet(read_pairs(cfg.data.train_csv, cfg.data.limit, cfg.data.on_error, world), cfg)
    val_set = ValidationSet(read_pairs(cfg.data.val_csv, cfg.data.limit, cfg.data.on_error, world), cfg)
    print(f"data    {len(train_set)} training pairs of {cfg.data.train_csv}, {len(val_set)} for validation of "
          f"{cfg.data.val_csv}; dense targets with p {cfg.augment.xray_p:g}")
    world.passes(epoch_batches(cfg, 0, len(train_set))[0], cfg.train.micro_batch)  # has each process its share?
    run = prepare(cfg, device, precision, world)
    predict = TorchPredictor(run.average, predict_size(cfg), cfg.infer.tta, device, precision)

    how = loading(cfg, device)
    shown = np.linspace(0, len(val_set) - 1, min(cfg.train.samples, len(val_set)), dtype=int).tolist()
    levels = reference_levels(val_set, cfg, cfg.train.out_dir / "levels.json", world)
    print(f"levels  val_mse_dense: floor {levels['floor']:.4f}, best constant {levels['constant']:.4f}, "
          f"all zero {levels['zero']:.4f}")

    stop = StopRequest(cfg.train.max_hours, world)  # from here on there is something to save
    for epoch in range(run.progress.epoch + 1, cfg.train.epochs + 1):
        train_epoch(run, train_set, epoch - 1, device, precision, how, stop)
        run.save()  # validation can be interrupted as well
        started = time.monotonic()
        result, pictures = validate(predict, val_set, predict.batch_size, how, stop.agreed, shown, world)
        if stop.reason:
            end_early(run, stop)
            return

        values = result.means() | {"val_floor": levels["floor"], "val_constant": levels["constant"]}
        row = run.progress.close_epoch(values, run.optimizer.param_groups[0]["lr"], time.monotonic() - started)
        best = run.is_best()
        if world.main:
            keep(run, result, pictures, best)
        print(f"epoch {epoch}/{cfg.train.epochs}  train_mse {row['train_mse']:.4f}  val_mse {row['val_mse']:.4f}  "
              f"val_mse_dense {row['val_mse_dense']:.4f}  lr {row['lr']:.1e}  {row['images_per_s']:.1f} img/s"
              f"{'  best' if best else ''}", flush=True)
    best_row = min(run.progress.history, key=lambda row: row[select_metric(cfg)])
    print(f"done    {cfg.train.out_dir}/best.pth is epoch {best_row['epoch']}: val_mse_dense "
          f"{best_row['val_mse_dense']:.4f} (floor {levels['floor']:.4f}, constant {levels['constant']:.4f})")


def prepare(cfg: Config, device: torch.device, precision: str, world: World) -> Run:
    """Network, optimiser and, where an earlier run can go on, its state: process 0's, handed on to the others."""
    if cfg.train.compile and cfg.train.checkpointing:
        raise UserError("train.compile and train.checkpointing exclude each other; set one to false")
    model = U2Net(cfg.model.variant)
    if world.size > 1 and cfg.train.sync_bn and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(model) if cfg.train.ema else model
    model.checkpointing = cfg.train.checkpointing
    if cfg.train.compile:
        print("compile the network through torch.compile; the first steps take minutes")
        model.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), cfg.train.lr, weight_decay=cfg.train.weight_decay, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    run = Run(cfg, model, world.wrap(model), average, optimizer, scaler, world)
    if world.main:
        begin(run)
    if world.size > 1:
        run.take(world.from_main(run.state()))
    return run


def begin(run: Run) -> None:
    """Takes up last.pth or the weights to start from, and says which."""
    cfg = run.cfg
    if cfg.train.resume == "never" and distributed.restarts()[1]:
        raise UserError("train.resume=never would begin anew at each restart; set it to auto, or RESTARTS to 0")
    if cfg.train.resume == "auto" and resumable(cfg.train.out_dir):
        for key, (then, now) in run.resume().items():
            print(f"changed {key}: {then} -> {now}")
        print(f"model   {cfg.model.variant}, resumed from {run.last} in epoch {run.progress.epoch + 1}, "
              f"after {run.progress.batch} batches")
    else:
        if cfg.model.weights:
            checkpoint.load_weights(run.model, cfg.model.weights)
            run.average.load_state_dict(run.model.state_dict())
        run.start_anew()
        print(f"model   {cfg.model.variant} from {cfg.model.weights or 'nothing (model.weights: null)'}: "
              f"lr {cfg.train.lr:.1e}, warm-up {cfg.train.warmup:.0%} of the steps, {cfg.train.schedule} schedule")


def train_epoch(run: Run, train_set: TrainSet, epoch: int, device: torch.device, precision: str,
                how: dict, stop: StopRequest) -> None:
    """What is left of one epoch; a stop request ends it after the step under way."""
    cfg, progress, world = run.cfg, run.progress, run.world
    batches = epoch_batches(cfg, epoch, len(train_set))
    shares = [world.passes(batch, cfg.train.micro_batch) for batch in batches]
    samples = iter(DataLoader(train_set, batch_sampler=list(itertools.chain(*shares[progress.batch:])),
                              **how))
    loss_weights = in_epoch(cfg, epoch).loss
    past = [row[select_metric(cfg)] for row in progress.history]
    run.model.train()
    saved = clock = time.monotonic()
    for batch in tqdm(batches[progress.batch:], f"epoch {epoch + 1}", len(batches), initial=progress.batch,
                      unit="batch", disable=None, leave=False):
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(cfg.train, progress.step, len(batches) * cfg.train.epochs, past)
        run.optimizer.zero_grad()
        passes = len(shares[progress.batch])
        sums = accumulate(run, itertools.islice(samples, passes), passes, len(batch), loss_weights, device, precision)
        if not math.isfinite(sums["total"]):
            raise OperationError(not_finite(sums, epoch, progress.batch, [train_set.pairs[i] for _, i in batch]))
        if cfg.train.grad_clip:
            run.scaler.unscale_(run.optimizer)
            nn.utils.clip_grad_norm_(run.model.parameters(), cfg.train.grad_clip)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        if run.average is not run.model:
            update_average(run.average, run.model, cfg.train.ema, progress.step)

        now = time.monotonic()
        progress.add(sums, len(batch), now - clock)
        clock = now
        if stop.agreed():
            return
        if now - saved > cfg.train.save_minutes * 60:
            run.save()
            saved = now


def accumulate(run: Run, samples: Iterator[tuple], passes: int, images: int, loss_weights: Loss,
               device: torch.device, precision: str) -> dict[str, float]:
    """The gradient of the mean loss over a batch of `images`, of which this process has its share in `passes` parts.

    -> the loss terms' sums over the batch. All terms are means per image, so shares of any sizes add up exactly.
    """
    sums = 0
    for left, (rgb, target, indices) in zip(reversed(range(passes)), samples, strict=True):
        rgb, target = rgb.to(device, non_blocking=True), target.to(device, non_blocking=True)
        with run.trained.no_sync() if left and run.world.size > 1 else contextlib.nullcontext():
            with autocast(device, precision):
                logits = run.trained(normalise(rgb))
            terms = matting_loss(logits, target, loss_weights)
            # DistributedDataParallel divides by the number of processes
            run.scaler.scale(terms["total"] * (len(indices) * run.world.size / images)).backward()
        sums += torch.stack([*terms.values()]).detach().double() * len(indices)
    run.world.average_statistics(run.model, len(run.world.deal(range(images))) / images)
    return dict(zip(terms, run.world.sum(sums.tolist()), strict=True))  # one wait for the device, not one per term


def keep(run: Run, result: Validation, pictures: list[tuple], best: bool) -> None:
    """What the run folder gets of the epoch just closed."""
    if best:
        run.save_best()
        result.save(run.cfg.train.out_dir / "validation.json", run.progress.epoch)
    run.record()
    if pictures:
        draw_samples(run.cfg, run.progress.epoch, pictures)
    run.save()  # last: killed before it, the epoch is validated and recorded again


def draw_samples(cfg: Config, epoch: int, pictures: list[tuple]) -> None:
    """samples/epoch_NNN.png: rgb, truth, prediction and error of the pictured validation images."""
    dense = select_metric(cfg) == "val_mse_dense"
    rows = [(f"{row['image']}   mse_dense {row['val_mse_dense']:.4f}   mse {row['val_mse']:.4f}",
             rgb, target if dense else alpha, pred) for row, rgb, alpha, target, pred in pictures]
    title = f"{cfg.train.out_dir} · epoch {epoch} · true: {'dense target' if dense else 'alpha of the file'}"
    save_picture(cfg.train.out_dir / f"samples/epoch_{epoch:03d}.png", panel_sheet(rows, title))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average; a young one leans on the present, so that the random start is soon forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def not_finite(sums: dict[str, float], epoch: int, batch: int, pairs: Sequence[Pair]) -> str:
    values = ", ".join(f"{name} {value / len(pairs):.3g}" for name, value in sums.items())
    names = ", ".join(str(pair.image_path) for pair in pairs)
    return (f"the loss is not finite at epoch {epoch + 1}, batch {batch + 1} ({values}) with {names}; "
            "lower train.lr, set train.grad_clip or train.amp=fp32")


def main() -> None:
    args = cli.parse(__doc__)
    try:
        with distributed.world() as world:
            train(with_predict_size(load_config(args.config, args.overrides)), world)
    except torch.OutOfMemoryError:
        raise OperationError("the GPU's memory is full; lower train.micro_batch or augment.crop") from None


if __name__ == "__main__":
    cli.run(main)
