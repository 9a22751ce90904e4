"""Trains a U²-Net on pairs CSVs into a run folder; resumes an interrupted run.

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
from tqdm import tqdm

from core import checkpoint, cli, distributed
from core.config import Config, load_config, predict_sizes, select_metric, with_predict_size
from core.device import autocast, check_compiler, describe, pick_device, pick_precision
from core.distributed import ALONE, World
from core.errors import OperationError, UserError
from core.outputs import check_folder
from dataset import TrainSet, ValidationSet
from imaging.pairs import Pair, configured_pairs, pairs_source, shared
from imaging.pictures import panel_sheet, save_picture
from inference.ensemble import ensemble
from inference.predictor import Predictor, density_params
from inference.torch_backend import live_network
from losses import matting_loss
from training import baselines
from training.batches import check_batches, epoch_batches, synchronised, values_per_channel
from training.interruption import StopRequest, end_early, outlive_the_log
from training.remeasure import remeasure_best
from training.run_state import Progress, Run, content_of_files, resumable
from training.schedule import learning_rate
from training.validation import Validation, Validator, reference_levels, validation_identity
from training.workers import loaded, loader_options
from u2net import U2Net, normalise


def train(cfg: Config, world: World = ALONE) -> None:
    """Fills cfg.train.out_dir; one line per epoch on stdout."""
    check_folder(cfg.train.out_dir, "choose another train.out_dir")
    if cfg.data.root.is_file():
        raise UserError(f"data.root={cfg.data.root}: is a file, not a folder; choose another")
    cv2.setNumThreads(1)  # OpenCV's thread pool does not survive the fork into DataLoader workers
    torch.manual_seed(cfg.seed)
    device = pick_device()
    precision = pick_precision(training_format(cfg, device), device)
    print(f"device  {describe(device, precision)}, channels_last")
    train_set, val_set = read_sets(cfg, world)
    check_batches(cfg, world, min(cfg.train.batch_size, len(train_set)), device)
    run = prepare(cfg, device, precision, world, content_of_files(cfg, train_set, val_set) if world.main else {})
    if run.finished:
        print_best(run)
        return
    run.check_order(train_set.pairs)
    validator = prepare_validator(run, val_set)

    stop = StopRequest(cfg.train.max_hours, world)  # from here on there is something to save
    remeasure_best(run, validator, stop)
    while not (run.finished or stop.reason):
        train_epoch(run, train_set, stop)
        run.save()  # validation can be interrupted as well
        if not stop.reason:
            validate_epoch(run, validator, stop)
    if stop.reason:
        end_early(run, stop)
    else:
        print_best(run)


def training_format(cfg: Config, device: torch.device) -> str:
    """train.amp. auto, from trained weights: not bf16, which is not true to the official ones (docs/benchmarks.md)."""
    if cfg.train.amp == "auto" and cfg.model.weights:
        return "fp16" if device.type == "cuda" else "fp32"
    return cfg.train.amp


def read_sets(cfg: Config, world: World) -> tuple[TrainSet, ValidationSet]:
    train_pairs, val_pairs = (configured_pairs(cfg, split, world) for split in ("train", "val"))
    train_set, val_set = TrainSet(train_pairs, cfg), ValidationSet(val_pairs, cfg)
    for line in shared(train_pairs, val_pairs):
        print(f"note    {line}")
    print(f"data    {len(train_set)} training pairs of {pairs_source(cfg, 'train')}, {len(val_set)} for validation of "
          f"{pairs_source(cfg, 'val')}; {learned(cfg)}")
    return train_set, val_set


def learned(cfg: Config) -> str:
    """What the network learns, in words."""
    if cfg.model.predicts == "dense":
        return f"the network learns dense alphas, with p {cfg.augment.xray_p:g}"
    composed = ", dense alphas are composed from its predictions" if density_params(cfg, "alpha") else ""
    return f"the network learns the files' alphas{composed}"


def prepare(cfg: Config, device: torch.device, precision: str, world: World,
            content: dict[str, str] | None = None) -> Run:
    """A run ready for its next step, new or resumed; all processes start from process 0's state.

    content: of content_of_files().
    """
    model = build_network(cfg, device, world)
    average = copy.deepcopy(model) if cfg.train.ema else model
    model.checkpointing = cfg.train.checkpointing
    if cfg.train.compile:
        check_compiler(device)
        print("compile the network with torch.compile; the first steps take minutes")
        model.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), cfg.train.lr, weight_decay=cfg.train.weight_decay, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    run = Run(cfg, model, world.wrap(model), average, optimizer, scaler, world, device, precision,
              loader_options(cfg, device), content or {})
    if world.main:
        begin(run)
    if world.size > 1:
        run.take(world.from_main(run.state()))
    return run


def build_network(cfg: Config, device: torch.device, world: World) -> U2Net:
    """On the device, with random weights. UserError if settings exclude each other."""
    if cfg.train.compile and cfg.train.checkpointing:
        raise UserError("train.compile and train.checkpointing exclude each other; set one to false")
    if cfg.train.compile and synchronised(cfg, world, device):
        raise UserError("train.compile and train.sync_bn exclude each other on several GPUs: each BatchNorm layer "
                        "would interrupt the compiled network; set one to false")
    model = U2Net(cfg.model.variant)
    if synchronised(cfg, world, device):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(device, memory_format=torch.channels_last)


def begin(run: Run) -> None:
    """Resumes from last.pth or starts over, and prints which."""
    cfg = run.cfg
    if cfg.train.resume == "never" and distributed.restarts()[1]:
        raise UserError("train.resume=never would start over at each restart; set it to auto, or RESTARTS to 0")
    if cfg.train.resume == "auto" and resumable(cfg.train.out_dir):
        for change in run.resume():
            print(f"changed {change}")
        if run.finished:
            print(f"model   {cfg.model.variant} of {run.last}: all {run.progress.epoch} epochs are done, nothing to "
                  "train; raise train.epochs to train longer with the current settings, or start over with "
                  "train.resume=never or another train.out_dir")
            return
        run.save_config()
        print(f"model   {cfg.model.variant}, resumed from {run.last} in epoch {run.progress.epoch + 1}, "
              f"after {run.progress.batch} batches")
    else:
        if cfg.model.weights:
            checkpoint.load_weights(run.model, cfg.model.weights)
            run.average.load_state_dict(run.model.state_dict())
        run.start_over()
        print(f"model   {cfg.model.variant} from {cfg.model.weights or 'nothing (model.weights: null)'}: "
              f"lr {cfg.train.lr:.1e}, warm-up {cfg.train.warmup:.0%} of the steps, {cfg.train.schedule} schedule")


def prepare_validator(run: Run, val_set: ValidationSet) -> Validator:
    """Validates run.average; prints the levels to read its val_mse_dense against."""
    cfg = run.cfg
    network = live_network(run.average, cfg.infer.flips, run.device, run.precision)
    predict = ensemble([Predictor(network, size, cfg.infer.tile_over, density_params(cfg, cfg.model.predicts))
                        for size in predict_sizes(cfg)])
    levels = reference_levels(val_set, cfg, cfg.train.out_dir / "levels.json", run.world)
    official = baselines.official_levels(val_set, cfg, cfg.train.out_dir / "levels_official.json", run.world)
    print(f"levels  val_mse_dense: floor {levels['floor']:.4f}, best constant {levels['constant']:.4f}, "
          f"all zero {levels['zero']:.4f}{baselines.in_words(official)}")
    return Validator(predict, val_set, run.loader_options, run.world, levels | official,
                     validation_identity(val_set, cfg, run.world))


def train_epoch(run: Run, train_set: TrainSet, stop: StopRequest) -> None:
    """The rest of the current epoch; a stop request ends it after the next step."""
    cfg, progress = run.cfg, run.progress
    batches = remaining_batches(run, len(train_set))
    shares = [run.world.passes(batch, cfg.train.micro_batch) for batch in batches]
    samples = loaded(train_set, run.loader_options, batch_sampler=list(itertools.chain(*shares)))
    training_mode(run.model, cfg.train.batchnorm)
    saved = clock = time.monotonic()
    for batch, share in tqdm(zip(batches, shares, strict=True), f"epoch {progress.epoch + 1}",
                             progress.batch + len(batches), initial=progress.batch, unit="batch", disable=None,
                             leave=False):
        set_learning_rate(run, len(train_set))
        pairs = [train_set.pairs[index] for _, index in batch]
        sums = train_step(run, itertools.islice(samples, len(share)), len(share), pairs)
        now = time.monotonic()
        progress.add(sums, len(batch), now - clock)
        clock = now
        if stop.agreed():
            return
        if now - saved > cfg.train.save_minutes * 60:
            run.save()
            saved = now


def training_mode(model: nn.Module, batchnorm: str) -> None:
    """batchnorm: frozen keeps the statistics that the weights came with."""
    model.train()
    for module in model.modules() if batchnorm == "frozen" else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def remaining_batches(run: Run, images: int) -> list[list[tuple[int, int]]]:
    """Of the current epoch; without a last one too small for BatchNorm, which a change of batch size can leave."""
    batches = epoch_batches(run.cfg, run.progress.epoch, images, run.progress.images)
    if batches and values_per_channel(run.phase, run.world, len(batches[-1]), run.device) < 2:
        batches.pop()
    return batches


def set_learning_rate(run: Run, images: int) -> None:
    """For the next step. The schedule counts in steps of the current batch size; `images`: per epoch."""
    cfg, progress = run.cfg, run.progress
    size = min(cfg.train.batch_size, images)
    steps = images // size  # per epoch
    step = progress.epoch * steps + progress.images / size
    values = [row[select_metric(cfg)] for row in progress.history]
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(cfg.train, step, steps * cfg.train.epochs, values, progress.anew)


def train_step(run: Run, samples: Iterator[tuple], passes: int, pairs: Sequence[Pair]) -> dict[str, float]:
    """One optimiser step on a batch of pairs, whose share of this process comes in `passes` samples.

    -> the loss terms' sums over the batch. OperationError if the loss is not finite.
    """
    run.optimizer.zero_grad()
    sums = accumulate(run, samples, passes, len(pairs))
    if not math.isfinite(sums["total"]):
        raise OperationError(not_finite(sums, run.progress, pairs))
    if run.cfg.train.grad_clip:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), run.cfg.train.grad_clip)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.average is not run.model:
        update_average(run.average, run.model, run.cfg.train.ema, run.progress.step)
    return sums


def accumulate(run: Run, samples: Iterator[tuple], passes: int, images: int) -> dict[str, float]:
    """The gradient of the mean loss over a batch of `images`; this process's share comes in `passes` samples.

    -> the loss terms' sums over the batch. All terms are means per image, so shares of any sizes add up exactly.
    """
    sums, weights = 0, run.phase.loss
    for left, (rgb, target, indices) in zip(reversed(range(passes)), samples, strict=True):
        rgb, target = rgb.to(run.device, non_blocking=True), target.to(run.device, non_blocking=True)
        with run.trained.no_sync() if left and run.world.size > 1 else contextlib.nullcontext():
            with autocast(run.device, run.precision):
                logits = run.trained(normalise(rgb))
            terms = matting_loss(logits, target, weights)
            # DistributedDataParallel divides by the number of processes
            run.scaler.scale(terms["total"] * (len(indices) * run.world.size / images)).backward()
        sums += torch.stack([*terms.values()]).detach().double() * len(indices)
    if run.cfg.train.batchnorm == "trained":
        run.world.average_statistics(run.model, len(run.world.deal(range(images))) / images)
    return dict(zip(terms, run.world.sum(sums.tolist()), strict=True))  # one wait for the device, not one per term


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average; early on its decay is smaller, so that the random start is soon forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def not_finite(sums: dict[str, float], progress: Progress, pairs: Sequence[Pair]) -> str:
    values = ", ".join(f"{name} {value / len(pairs):.3g}" for name, value in sums.items())
    names = ", ".join(str(pair.image_path) for pair in pairs)
    return (f"the loss is not finite at epoch {progress.epoch + 1}, batch {progress.batch + 1} ({values}) with "
            f"{names}; lower train.lr, set train.grad_clip or train.amp=fp32")


def validate_epoch(run: Run, validator: Validator, stop: StopRequest) -> None:
    """Closes the epoch just trained and prints its line, unless a stop request comes first."""
    cfg, started, count = run.cfg, time.monotonic(), len(validator.val_set)
    shown = np.linspace(0, count - 1, min(cfg.train.samples, count), dtype=int).tolist()
    result, pictures = validator.validate(shown, stop.agreed)
    if stop.reason:
        return
    row = run.progress.close_epoch(validator.columns(result), run.optimizer.param_groups[0]["lr"],
                                   time.monotonic() - started)
    best = run.is_best()
    if best:
        run.progress.best = row
    if run.world.main:
        keep(run, result, pictures, best)
    print(f"epoch {row['epoch']}/{cfg.train.epochs}  train_mse {row['train_mse']:.4f}  val_mse {row['val_mse']:.4f}  "
          f"val_mse_dense {row['val_mse_dense']:.4f}  lr {row['lr']:.1e}  {row['images_per_s']:.1f} img/s"
          f"{'  best' if best else ''}", flush=True)


def keep(run: Run, result: Validation, pictures: list[tuple], best: bool) -> None:
    """Writes the epoch just closed into the run folder."""
    if best:
        run.save_best(run.average.state_dict(), result)
    run.record()
    if pictures:
        draw_samples(run.cfg, run.progress.epoch, pictures)
    run.save()  # last: if killed before it, the run validates and records the epoch again


def draw_samples(cfg: Config, epoch: int, pictures: list[tuple]) -> None:
    """Writes samples/epoch_NNN.png: rgb, truth, prediction and error of some validation images."""
    dense = select_metric(cfg) == "val_mse_dense"
    rows = [(f"{row['image']}   mse_dense {row['val_mse_dense']:.4f}   mse {row['val_mse']:.4f}",
             rgb, *((target, pred.dense) if dense else (alpha, pred.alpha)))
            for row, rgb, alpha, target, pred in pictures]
    title = f"{cfg.train.out_dir} · epoch {epoch} · true: {'dense target' if dense else 'alpha of the file'}"
    save_picture(cfg.train.out_dir / f"samples/epoch_{epoch:03d}.png", panel_sheet(rows, title))


def print_best(run: Run) -> None:
    if not run.best.exists():  # the user has removed it
        print(f"warning {run.best}: is missing; raise train.epochs to make another one")
        return
    row = run.best_row()
    print(f"done    {run.best} is epoch {row['epoch']}: val_mse_dense {row['val_mse_dense']:.4f} "
          f"(floor {row['val_floor']:.4f}, constant {row['val_constant']:.4f})")
    levels = {name: row[f"val_{name}"] for name in baselines.NAMES if f"val_{name}" in row}
    if select_metric(run.cfg) == "val_mse_dense" and (said := baselines.verdict(row["val_mse_dense"], levels)):
        print(f"note    {said}")


def main() -> None:
    args = cli.parse(__doc__)
    try:
        with distributed.world() as world:
            train(with_predict_size(load_config(args.config, args.overrides)), world)
    except torch.OutOfMemoryError:
        raise OperationError("the GPU's memory is full; lower train.micro_batch or augment.crop") from None


if __name__ == "__main__":
    outlive_the_log()
    cli.run(main)
