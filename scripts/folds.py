"""Trains every fold of a cross-validation, then predicts each picture with the network that has not seen it.

    python scripts/folds.py data.folds=5 train.out_dir=outputs/u2netp

Each fold is a run of its own in train.out_dir: fold_0, fold_1, … After an interruption the same command resumes;
finished folds are not trained again. Several GPUs each train one fold at a time. The out-of-fold predictions are what
inference gives for these pictures, without post-processing, in oof.csv (as a submission), and their MSE in folds.csv.
"""
import contextlib
import csv
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from core import cli
from core.config import Config, as_overrides, load_config, load_run, with_infer
from core.errors import OperationError, Stopped, UserError
from core.files import alone_in, written_whole
from core.folds import fold_folder, fold_weights, saved_progress, what_lacks
from core.outputs import check_folder, may_write, no_input
from dataset import ValidationSet
from imaging.images import resize_longer_side
from imaging.pairs import all_pairs, configured_pairs, fold_of
from infer import background_threads, explained_failures, in_order, predicted_rows
from inference.postprocess import NONE
from inference.predictor import load_predictor
from submission.submission_csv import SubmissionWriter, decode_alpha
from training import metrics
from training.interruption import SIGNALS
from training.run_state import order_identity
from training.workers import end_with

TRAIN = Path(__file__).resolve().parent.parent / "src/train.py"
RESULTS = "oof.csv", "folds.csv"
POLL = 0.2  # seconds between two looks at the trainings


@dataclass(frozen=True)
class Fold:
    """One fold's run: its folder, and the arguments that train it."""
    number: int
    folder: Path
    config: str
    overrides: tuple[str, ...]


class Scored(NamedTuple):
    """An out-of-fold prediction: its row of the submission, and its MSE on [0,1] against both truths."""
    name: str
    text: str
    mse: float        # against the file's alpha
    mse_dense: float  # against the dense target that validation draws


def run_folds(cfg: Config, folds: Sequence[Fold]) -> None:
    """Trains what is not finished; writes oof.csv and folds.csv into cfg.train.out_dir."""
    check_outputs(cfg)
    check_pairs(cfg)
    alone_in(cfg.train.out_dir)
    unfinished = [fold for fold in folds if to_train(fold)]
    train_folds(unfinished, devices(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")))
    fold_weights(cfg.train.out_dir)  # fails if train.max_hours has stopped one
    predictions, scores = (cfg.train.out_dir / name for name in RESULTS)
    table = summary(predict_folds(folds, predictions))
    write_table(scores, table)
    print(f"{'fold':<6}{'images':>8}{'mse':>12}{'mse_dense':>12}")
    for name, images, *errors in table:
        print(f"{name:<6}{images:>8}{''.join(f'{error:12.6f}' for error in errors)}")
    print(f"{predictions}\n{scores}")


def check_outputs(cfg: Config) -> None:
    """UserError if the results could not be written."""
    check_folder(cfg.train.out_dir, "choose another train.out_dir")
    for name in RESULTS:
        no_input("train.out_dir", cfg.train.out_dir / name, [cfg.data.train_csv, cfg.data.val_csv])
        may_write(cfg.train.out_dir / name)


def check_pairs(cfg: Config) -> None:
    """Prints the folds' sizes. UserError if one is empty, or if two pictures would have the same row in oof.csv."""
    if not cfg.data.folds:
        raise UserError("data.folds is not set; give the number of folds, for example data.folds=5")
    pairs, known = all_pairs(cfg), {}
    for pair in pairs:
        other = known.setdefault(pair.image_path.stem, pair)
        if other is not pair:
            raise UserError(f"{pair.row}: another picture is also named {pair.image_path.stem} ({other.row}); rename "
                            "one, since oof.csv holds each name once")
    counts = Counter(fold_of(pair, cfg.data.folds) for pair in pairs)
    empty = next((fold for fold in range(cfg.data.folds) if not counts[fold]), None)
    if empty is not None:
        groups = len({pair.fold_key for pair in pairs})
        raise UserError(f"data.folds={cfg.data.folds}: fold {empty} would be empty, with {groups} groups in all; lower "
                        "data.folds")
    tables = " and ".join(map(str, dict.fromkeys((cfg.data.train_csv, cfg.data.val_csv))))
    print(f"folds   {len(pairs)} pairs of {tables} in {cfg.data.folds} folds: "
          f"{', '.join(str(counts[fold]) for fold in range(cfg.data.folds))}")


def to_train(fold: Fold) -> bool:
    """Whether a run is not finished yet. UserError if it was trained on other pairs: it may have seen its own fold."""
    cfg = load_config(fold.config, fold.overrides)
    order = saved_progress(fold.folder).get("order")
    if cfg.train.resume == "never" or not order:
        return True
    if order != order_identity(cfg.seed, configured_pairs(cfg, "train")):
        raise UserError(f"{fold.folder}: was trained on other pairs, or with another seed; choose another "
                        "train.out_dir, or train all folds again with train.resume=never")
    if what_lacks(fold.folder, cfg.train.epochs):
        return True
    print(f"fold {fold.number}  {fold.folder} is finished")
    return False


def train_folds(folds: Sequence[Fold], gpus: Sequence[str | None]) -> None:
    """Trains each fold in a process of its own, as many at a time as there are `gpus`, see devices().

    A fold that fails, or a signal to this process, ends all trainings; they save first.
    """
    waiting, running, failed = deque(folds), {}, []
    with noted_signals() as received:
        while running or (waiting and not received and not failed):
            for gpu in gpus:
                if waiting and gpu not in running and not received and not failed:
                    fold = waiting.popleft()
                    running[gpu] = fold, start(fold, gpu, len(gpus))
            time.sleep(POLL)
            ended = {gpu: found for gpu, found in running.items() if found[1].poll() is not None}
            failed += [found for found in ended.values() if found[1].returncode]
            running = {gpu: found for gpu, found in running.items() if gpu not in ended}
            if received or failed:
                stop(running)
    if received:
        raise Stopped(f"stopped by {received[0].name}; run the same command again to resume", received[0])
    if failed:
        explain(*failed[0], logged=len(gpus) > 1)


@contextlib.contextmanager
def noted_signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGINT, SIGTERM and SIGHUP in the list that it yields."""
    received = []
    before = {number: signal.signal(number, lambda number, frame: received.append(signal.Signals(number)))
              for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}  # nohup
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start(fold: Fold, gpu: str | None, processes: int) -> subprocess.Popen:
    """Starts a training. One of several writes to train.log in its folder instead of to the terminal."""
    log = fold.folder / "train.log" if processes > 1 else None
    print(f"fold {fold.number}  into {fold.folder}" + (f" on GPU {gpu}, output in {log}" if log else ""), flush=True)
    environment = dict(os.environ)
    if log:  # LOCAL_WORLD_SIZE: they share the cores for reading
        environment |= {"CUDA_VISIBLE_DEVICES": gpu, "LOCAL_WORLD_SIZE": str(processes), "PYTHONUNBUFFERED": "1"}
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") if log else contextlib.nullcontext() as output:
        # In its own session, so that Ctrl-C only reaches this process; it ends when this process is killed.
        return subprocess.Popen([sys.executable, TRAIN, "--config", fold.config, *fold.overrides], env=environment,
                                stdout=output, stderr=output and subprocess.STDOUT, start_new_session=True,
                                preexec_fn=partial(end_with, os.getpid(), signal.SIGKILL))


def stop(running: dict[str | None, tuple[Fold, subprocess.Popen]]) -> None:
    """Asks trainings to save and end, and waits until they have."""
    for _, process in running.values():
        process.terminate()
    for _, process in running.values():
        process.wait()


def explain(fold: Fold, process: subprocess.Popen, logged: bool) -> None:
    """Exits as a failed training did, which has said why: in its log, or on the terminal."""
    code = process.returncode
    if code < 0:
        raise OperationError(f"{fold.folder}: training was killed by {signal.Signals(-code).name} (SIGKILL: often out "
                             "of memory); run the same command again to resume")
    if logged:
        print((fold.folder / "train.log").read_text(errors="replace").splitlines()[-1], file=sys.stderr)
    sys.exit(code)


def devices(gpus: int, visible: str | None = None) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each process that trains at the same time; None: as it is.

    gpus: visible to this process; visible: its own CUDA_VISIBLE_DEVICES.
    """
    if gpus < 2:
        return [None]
    return visible.split(",")[:gpus] if visible else [str(gpu) for gpu in range(gpus)]


def predict_folds(folds: Sequence[Fold], target: Path) -> dict[int, list[tuple[float, float]]]:
    """Writes all out-of-fold predictions to `target`, fold by fold -> each fold's (mse, mse_dense) per image."""
    errors = {fold.number: [] for fold in folds}
    with SubmissionWriter(target) as writer:
        for fold in folds:
            for image in predicted(fold, target):
                writer.write_encoded(image.name, image.text)
                errors[fold.number].append((image.mse, image.mse_dense))
    return errors


def predicted(fold: Fold, target: Path) -> Iterator[Scored]:
    """The fold's out-of-fold predictions, in the order of its pairs; `target`: the file that they are written to.

    Pictures are predicted at their own size, and errors measured at data.size, as in validation.
    """
    cfg = of_inference(load_run(fold.config, fold.overrides), fold, target)
    val_set = ValidationSet(configured_pairs(cfg, "val"), cfg)

    def score(item: tuple[int, tuple[str, str]]) -> Scored:
        index, (name, text) = item
        _, alpha, dense = val_set[index]
        pred = resize_longer_side(decode_alpha(text).astype(np.float32) / 255, cfg.data.size)
        return Scored(name, text, metrics.mse(pred, alpha), metrics.mse(pred, dense))

    with explained_failures(cfg):
        predict = load_predictor(cfg)
        print(f"fold {fold.number}  {len(val_set)} images with {cfg.infer.named_weights}: {predict.description}")
        rows = predicted_rows(cfg, [pair.image_path for pair in val_set.pairs], predict, NONE)
        yield from in_order(score, enumerate(rows), background_threads(), predict.batch_size)


def of_inference(cfg: Config, fold: Fold, target: Path) -> Config:
    """The settings that predict a fold with its own weights, and write no other files."""
    return with_infer(cfg, weights=fold.folder / "best.pth", shares=None, submission=target, png_dir=None,
                      cutout_dir=None)


def summary(errors: dict[int, list[tuple[float, float]]]) -> list[tuple[str, int, float, float]]:
    """(fold, images, mse, mse_dense) of each fold and of `all` images; errors: as predict_folds() returns them."""
    groups = {str(fold): rows for fold, rows in errors.items()} | {"all": list(itertools.chain(*errors.values()))}
    return [(name, len(rows), *(math.fsum(values) / len(rows) for values in zip(*rows, strict=True)))
            for name, rows in groups.items()]


def write_table(path: Path, table: Sequence[tuple]) -> None:
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["fold", "images", "mse", "mse_dense"])
        rows.writerows(table)


def main() -> None:
    args = cli.parse(__doc__)
    cfg = load_config(args.config, args.overrides)
    runs = [(fold, fold_folder(cfg.train.out_dir, fold)) for fold in range(cfg.data.folds or 0)]
    run_folds(cfg, [Fold(fold, folder, args.config, (*args.overrides, *as_overrides(
        {"data.fold": fold, "train.out_dir": folder}))) for fold, folder in runs])


if __name__ == "__main__":
    cli.run(main)
