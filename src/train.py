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
from tqdm import tqdm

from core import checkpoint, cli, distributed
from core.config import Config, in_epoch, load_config, predict_size, select_metric, with_predict_size
from core.device import autocast, check_compiler, describe, pick_device, pick_precision
from core.distributed import ALONE, World
from core.errors import OperationError, UserError
from core.files import stamp
from core.outputs import check_folder
from core.schema import Loss
from dataset import TrainSet, ValidationSet
from imaging.pairs import Pair, configured_pairs, shared
from imaging.pictures import panel_sheet, save_picture
from inference.predictor import Predictor
from inference.torch_backend import live_network
from losses import matting_loss
from training.batches import epoch_batches, loaded, loading
from training.interruption import StopRequest, end_early, outlive_the_log
from training.run_state import Run, resumable
from training.schedule import learning_rate
from training.validation import Validation, Yardstick, content, measure, reference_levels, sha256
from u2net import SHRUNK, U2Net, normalise


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

    train_pairs, val_pairs = (configured_pairs(cfg, split, world) for split in ("train", "val"))
    train_set, val_set = TrainSet(train_pairs, cfg), ValidationSet(val_pairs, cfg)
    for line in shared(train_pairs, val_pairs):
        print(f"note    {line}")
    print(f"data    {len(train_set)} training pairs of {cfg.data.train_csv}, {len(val_set)} for validation of "
          f"{cfg.data.val_csv}; dense targets with p {cfg.augment.xray_p:g}")
    check_batches(cfg, world, min(cfg.train.batch_size, len(train_set)), device)
    run = prepare(cfg, device, precision, world, named_files(cfg, train_set, val_set) if world.main else {})
    if run.finished:
        print_best(run)
        return
    keep_order(run, train_set)

    predict = Predictor(live_network(run.average, cfg.infer.tta, device, precision), predict_size(cfg),
                        cfg.infer.tile_over)
    how = loading(cfg, device)
    levels = reference_levels(val_set, cfg, cfg.train.out_dir / "levels.json", world)
    print(f"levels  val_mse_dense: floor {levels['floor']:.4f}, best constant {levels['constant']:.4f}, "
          f"all zero {levels['zero']:.4f}")
    yardstick = Yardstick(predict, val_set, how, levels, measure(val_set, cfg, world))

    stop = StopRequest(cfg.train.max_hours, world)  # from here on there is something to save
    compare_anew(run, yardstick, stop)
    while not (run.finished or stop.reason):
        train_epoch(run, train_set, device, precision, how, stop)
        run.save()  # validation can be interrupted as well
        if not stop.reason:
            validate_epoch(run, yardstick, stop)
    if stop.reason:
        end_early(run, stop)
    else:
        print_best(run)


def validate_epoch(run: Run, yardstick: Yardstick, stop: StopRequest) -> None:
    """Closes the epoch just trained and prints its line, unless a stop request comes first."""
    cfg, started, count = run.cfg, time.monotonic(), len(yardstick.val_set)
    shown = np.linspace(0, count - 1, min(cfg.train.samples, count), dtype=int).tolist()
    result, pictures = yardstick.validate(stop.agreed, shown, run.world)
    if stop.reason:
        return
    row = run.progress.close_epoch(yardstick.values(result), run.optimizer.param_groups[0]["lr"],
                                   time.monotonic() - started)
    best = run.is_best()
    if best:
        run.progress.best = row
    if run.world.main:
        keep(run, result, pictures, best)
    print(f"epoch {row['epoch']}/{cfg.train.epochs}  train_mse {row['train_mse']:.4f}  val_mse {row['val_mse']:.4f}  "
          f"val_mse_dense {row['val_mse_dense']:.4f}  lr {row['lr']:.1e}  {row['images_per_s']:.1f} img/s"
          f"{'  best' if best else ''}", flush=True)


def print_best(run: Run) -> None:
    if not run.best.exists():  # the user has removed it
        print(f"warning {run.best}: is gone; a larger train.epochs makes another one")
        return
    row = run.best_row()
    print(f"done    {run.best} is epoch {row['epoch']}: val_mse_dense {row['val_mse_dense']:.4f} "
          f"(floor {row['val_floor']:.4f}, constant {row['val_constant']:.4f})")


def check_batches(cfg: Config, world: World, images: int, device: torch.device) -> None:
    """UserError for what would end training at the first step of one of its phases; `images`: per step."""
    world.passes(range(images), cfg.train.micro_batch)  # has each process its share?
    for phase in in_epoch(cfg, 0), in_epoch(cfg, cfg.train.epochs - 1):
        crop = phase.augment.crop
        if values_per_channel(phase, world, images, device) < 2:
            key = "augment.crop" if crop == cfg.augment.crop else "augment.final_crop"
            raise UserError(f"{key}={crop} with one image per forward pass: BatchNorm needs two values per channel, "
                            f"but the deepest layer has one pixel; raise it above {SHRUNK}, or see to two images per "
                            "pass with train.batch_size, train.micro_batch, fewer processes or more training pairs")


def values_per_channel(phase: Config, world: World, images: int, device: torch.device) -> int:
    """The fewest that BatchNorm gets in the network's deepest layer, for steps of so many images."""
    together = world.size if synchronised(phase, world, device) else 1
    return world.fewest(images, phase.train.micro_batch) * together * math.ceil(phase.augment.crop / SHRUNK) ** 2


def synchronised(cfg: Config, world: World, device: torch.device) -> bool:
    return world.size > 1 and cfg.train.sync_bn and device.type == "cuda"


def named_files(cfg: Config, train_set: TrainSet, val_set: ValidationSet) -> dict[str, str]:
    """Setting -> what tells the files that it names from others, or from what they were before."""
    named = {"data.train_csv": content(train_set.pairs), "data.val_csv": content(val_set.pairs)}
    if cfg.data.backgrounds_dir:
        named["data.backgrounds_dir"] = sha256([*map(stamp, train_set.backgrounds)])
    if cfg.model.weights:
        with contextlib.suppress(UserError):  # a resumed run does without them
            named["model.weights"] = checkpoint.identity(cfg.model.weights)["sha256"]
    return named


def keep_order(run: Run, train_set: TrainSet) -> None:
    """An epoch under way goes through the rest of its images; where their order is another one now, through all."""
    names = [(pair.image_path.name, pair.alpha_path.name) for pair in train_set.pairs]
    order = sha256((run.cfg.seed, names))
    if run.progress.images and run.progress.order not in ("", order):
        print(f"epoch   {run.progress.epoch + 1} starts again: the training pairs or the seed have changed since")
        run.progress.begin_epoch()
    run.progress.order = order


def compare_anew(run: Run, yardstick: Yardstick, stop: StopRequest) -> None:
    """Where validation measures something else than before, best.pth is measured by it, too, before the next epoch is.

    Else it would be compared with what was easier or harder.
    """
    progress = run.progress
    if progress.measure == yardstick.identity:
        return
    if progress.history:
        state = run.world.from_main(run.best_state() if run.world.main else None)
        result = measured(run, state["model_state"], yardstick, stop) if state else None
        if stop.reason:
            return
        progress.anew.append(len(progress.history))
        progress.best = {**state["metrics"], **yardstick.values(result)} if state else None
        if state:
            keep_compared(run, state, result)
    progress.measure = yardstick.identity


def measured(run: Run, weights: dict[str, torch.Tensor], yardstick: Yardstick, stop: StopRequest) -> Validation:
    """Validates other weights than the run's own."""
    own = copy.deepcopy(run.average.state_dict())
    run.average.load_state_dict(weights)
    result, _ = yardstick.validate(stop.agreed, (), run.world)
    run.average.load_state_dict(own)
    return result


def keep_compared(run: Run, state: dict, result: Validation) -> None:
    metric, row = select_metric(run.cfg), run.progress.best
    print(f"again   {run.best}, epoch {row['epoch']}: {metric} {state['metrics'][metric]:.4f} -> {row[metric]:.4f}, "
          "since the validation set or how it is predicted has changed")
    if run.world.main:
        run.save_best(state["model_state"], result)
        run.save()


def prepare(cfg: Config, device: torch.device, precision: str, world: World, content: dict[str, str]) -> Run:
    """Network, optimiser and, where an earlier run can go on, its state: process 0's, handed on to the others."""
    if cfg.train.compile and cfg.train.checkpointing:
        raise UserError("train.compile and train.checkpointing exclude each other; set one to false")
    if cfg.train.compile and synchronised(cfg, world, device):
        raise UserError("train.compile and train.sync_bn exclude each other on several GPUs: each BatchNorm layer "
                        "would interrupt the compiled network; set one to false")
    model = U2Net(cfg.model.variant)
    if synchronised(cfg, world, device):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(model) if cfg.train.ema else model
    model.checkpointing = cfg.train.checkpointing
    if cfg.train.compile:
        check_compiler(device)
        print("compile the network through torch.compile; the first steps take minutes")
        model.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), cfg.train.lr, weight_decay=cfg.train.weight_decay, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    run = Run(cfg, model, world.wrap(model), average, optimizer, scaler, world, content)
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
        for change in run.resume():
            print(f"changed {change}")
        if run.finished:
            print(f"model   {cfg.model.variant} of {run.last}: all {run.progress.epoch} epochs are done, nothing is "
                  f"trained; a larger train.epochs trains it further as set now, train.resume=never or another "
                  "train.out_dir starts anew")
            return
        run.save_config()
        print(f"model   {cfg.model.variant}, resumed from {run.last} in epoch {run.progress.epoch + 1}, "
              f"after {run.progress.batch} batches")
    else:
        if cfg.model.weights:
            checkpoint.load_weights(run.model, cfg.model.weights)
            run.average.load_state_dict(run.model.state_dict())
        run.start_anew()
        print(f"model   {cfg.model.variant} from {cfg.model.weights or 'nothing (model.weights: null)'}: "
              f"lr {cfg.train.lr:.1e}, warm-up {cfg.train.warmup:.0%} of the steps, {cfg.train.schedule} schedule")


def train_epoch(run: Run, train_set: TrainSet, device: torch.device, precision: str, how: dict,
                stop: StopRequest) -> None:
    """What is left of the epoch under way; a stop request ends it after the next step."""
    cfg, progress, world = run.cfg, run.progress, run.world
    epoch = progress.epoch
    batches = epoch_batches(cfg, epoch, len(train_set), progress.images)
    size = min(cfg.train.batch_size, len(train_set))  # of each batch, unless it has changed within the epoch
    if batches and values_per_channel(in_epoch(cfg, epoch), world, len(batches[-1]), device) < 2:
        batches.pop()  # the few images that such a change has left over
    steps = len(train_set) // size  # per epoch
    shares = [world.passes(batch, cfg.train.micro_batch) for batch in batches]
    samples = loaded(train_set, how, batch_sampler=list(itertools.chain(*shares)))
    loss_weights = in_epoch(cfg, epoch).loss
    past = [row[select_metric(cfg)] for row in progress.history]
    run.model.train()
    saved = clock = time.monotonic()
    for batch, share in tqdm(zip(batches, shares, strict=True), f"epoch {epoch + 1}", progress.batch + len(batches),
                             initial=progress.batch, unit="batch", disable=None, leave=False):
        step = epoch * steps + progress.images / size  # as the schedule counts: in batches of the present size
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(cfg.train, step, steps * cfg.train.epochs, past, progress.anew)
        run.optimizer.zero_grad()
        passes = len(share)
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
        run.save_best(run.average.state_dict(), result)
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
    outlive_the_log()
    cli.run(main)
