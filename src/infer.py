"""Folder of images -> submission.csv, and PNG mattes or RGBA cut-outs on request.

    python src/infer.py infer.images=photos infer.weights=outputs/u2netp/best.pth infer.cutout_dir=cutouts
"""
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from tqdm import tqdm

from core import cli, distributed
from core.config import EMBEDDED, Config, load_config, load_run, nothing_trained, sample_submission
from core.device import usable_cores
from core.distributed import ALONE, World
from core.errors import OperationError, UserError
from core.outputs import check_file, check_folder, may_write, no_input, same_place
from imaging.foreground import estimate_foreground
from imaging.images import is_text, list_images, read_rgb, read_shape, to_levels, write_image
from inference.postprocess import NONE, Setting, apply, load_tuned
from inference.predictor import Predictor, Raw, load_predictor
from submission.check import in_sample_order
from submission.submission_csv import SubmissionWriter, encode_alpha, is_submission, shared_out


class Prepared(NamedTuple):
    """An image on its way to the network."""
    path: Path
    rgb: np.ndarray     # (H,W,3) uint8
    square: np.ndarray  # (S,S,3) uint8, as the network sees it


def infer(cfg: Config, world: World = ALONE) -> None:
    """Writes cfg.infer.submission (and png_dir, cutout_dir), whole or not at all.

    With data.on_error=skip images that cannot be read have no matte and no cut-out, and there is no submission.
    """
    check_outputs(cfg)
    paths = ordered_images(cfg)
    spare(cfg, paths)
    paths, left_out = readable(cfg, paths, world)
    setting = load_tuned(cfg.infer.weights) if cfg.infer.postprocess == "tuned" else NONE
    try:
        predict = load_predictor(cfg)
        print(f"{len(paths)} images of {cfg.infer.images} with {cfg.infer.weights}: {predict.description}, "
              f"post-processing {setting}")
        started = time.perf_counter()
        block = agreed_block(world, paths, predict.batch_size)
        rows = predicted_rows(cfg, world.deal(paths, block), predict, setting)
        if left_out:
            deque(rows, maxlen=0)  # for the mattes and cut-outs alone
        else:
            with shared_out(cfg.infer.submission, world, block) as csv_path, SubmissionWriter(csv_path) as writer:
                for name, text in rows:
                    writer.write_encoded(name, text)
    except torch.OutOfMemoryError:
        raise OperationError("the GPU's memory is full; lower infer.batch_size or infer.size") from None
    except OSError as error:
        if error.filename or isinstance(error, BrokenPipeError):
            raise
        raise OperationError(f"{cfg.infer.submission}: cannot be written, {error.strerror}; make room and run the same "
                             "command again") from None
    seconds = time.perf_counter() - started
    done = f"{len(paths)} mattes" if left_out else f"{cfg.infer.submission}: {len(paths)} rows"
    print(f"{done} in {seconds:.1f} s, {len(paths) / seconds:.2f} images/s, "
          f"{predict.seconds / seconds:.0%} of the time in the network")
    if left_out:
        there = "; the file there is an earlier one" if cfg.infer.submission.exists() else ""
        print(f"{cfg.infer.submission}: not written, since {left_out} images would be missing in it{there}")


def check_outputs(cfg: Config) -> None:
    """UserError, before anything is computed, where the results could not be written."""
    check_file(cfg.infer.submission, "infer.submission")
    for key in ("png_dir", "cutout_dir"):
        if folder := getattr(cfg.infer, key):
            check_folder(folder, f"choose another infer.{key}")


def readable(cfg: Config, paths: list[Path], world: World) -> tuple[list[Path], int]:
    """(images that can be read, how many cannot). UserError about the bad ones, unless mattes or cut-outs are wanted
    of the others, with data.on_error=skip.

    Their headers tell in seconds; what is to be skipped has to be found before anything is written, so that each image
    is then decoded once more.
    """
    skip = cfg.data.on_error == "skip" and bool(cfg.infer.png_dir or cfg.infer.cutout_dir)
    look = read_rgb if skip else read_shape
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        mine = world.deal(range(len(paths)))
        found = pool.map(lambda i: fault(look, paths[i]), mine)
        faults = list(world.merge(dict(zip(mine, found, strict=True))).values())
    bad = [text for text in faults if text]
    if not bad:
        return paths, 0
    some = f"{len(bad)} of {len(paths)} images are bad: {'; '.join(bad[:3])}{'; …' if len(bad) > 3 else ''}"
    if not skip or len(bad) == len(paths):
        raise UserError(f"{some}. A submission needs all of them; data.on_error=skip leaves them out of infer.png_dir "
                        "and infer.cutout_dir, and writes no submission")
    print(f"{some}. They are left out (data.on_error=skip), so no submission is written")
    return [path for path, text in zip(paths, faults, strict=True) if not text], len(bad)


def fault(look: Callable, path: Path) -> str | None:
    """What is wrong with an image, or None."""
    try:
        look(path)
    except UserError as error:
        return str(error)


def agreed_block(world: World, paths: list[Path], batch_size: int) -> int:
    """How many images in a row a process gets: the same for all, though each chooses its batch by its free memory."""
    names, sizes = zip(*world.gather(([path.name for path in paths], batch_size)), strict=True)
    if any(other != names[0] for other in names):
        raise UserError(f"{paths[0].parent}: the processes find different images in it; give every machine the same "
                        "infer.images")
    return min(sizes)


def spare(cfg: Config, paths: list[Path]) -> None:
    """UserError where the results of these images would replace an input, one another or a file of the user's."""
    infer, folders = cfg.infer, {"infer.png_dir": cfg.infer.png_dir, "infer.cutout_dir": cfg.infer.cutout_dir}
    no_input("infer.submission", infer.submission, [
        *paths, infer.weights, sample_submission(cfg), cfg.data.solution_csv, cfg.data.train_csv, cfg.data.val_csv])
    may_write(infer.submission)
    if infer.submission.exists() and not is_submission(infer.submission):
        raise UserError(f"infer.submission={infer.submission}: already exists and is no submission; move it, or choose "
                        "another name")
    if infer.png_dir and infer.cutout_dir and same_place(infer.png_dir, infer.cutout_dir):
        raise UserError(f"infer.cutout_dir={infer.cutout_dir}: is infer.png_dir too, and their files have the same "
                        "names; choose another folder for one of them")
    read = {os.path.realpath(path): path for path in paths}
    for key, folder in folders.items():
        if folder:
            no_input(key, folder, [infer.images])
            for path in paths:
                target = may_write(folder / f"{path.stem}.png")
                no_input(key, target, [read.get(str(target))])


def with_weights(cfg: Config) -> Config:
    """Where nothing was trained yet, the bundled weights take the place of best.pth, and it is said.

    UserError where a training has not finished its first epoch.
    """
    run = cfg.train.out_dir
    if nothing_trained(cfg):
        print(f"{run}: no trained model there yet; using the bundled weights (infer.weights=embedded)", flush=True)
        return cfg.model_copy(update={"infer": cfg.infer.model_copy(update={"weights": EMBEDDED})})
    if cfg.infer.weights == run / "best.pth" and not (cfg.infer.weights.exists() or (run / "metrics.csv").exists()):
        raise UserError(f"{cfg.infer.weights}: not there yet, the training in {run} has not finished its first epoch; "
                        "wait for it, or set infer.weights to other weights (embedded: the bundled ones)")
    return cfg


def run_with_weights(path: str | Path, overrides: Sequence[str]) -> Config:
    """The config of the run in train.out_dir; where nothing was trained yet, the given one with the bundled weights."""
    cfg = load_config(path, overrides)
    return with_weights(load_run(path, overrides) if (cfg.train.out_dir / "config.yaml").exists() else cfg)


def predicted_rows(cfg: Config, paths: list[Path], predict: Predictor, setting: Setting) -> Iterator[tuple[str, str]]:
    """(filename, image_utf) of each image, in order.

    Reading and encoding run in threads beside the network; each holds a few images, however many there are.
    """
    def read(path: Path) -> Prepared:
        rgb = read_rgb(path)
        return Prepared(path, rgb, predict.prepare(rgb))

    def encode(image: tuple[Prepared, Raw]) -> tuple[str, str]:
        (path, rgb, _), raw = image
        alpha = apply(setting, rgb, predict.finish(rgb, raw))
        if cfg.infer.png_dir:
            write_image(cfg.infer.png_dir / f"{path.stem}.png", to_levels(alpha))
        if cfg.infer.cutout_dir:
            write_image(cfg.infer.cutout_dir / f"{path.stem}.png", cutout(rgb, alpha))
        return path.stem, encode_alpha(alpha)

    def run(images: Iterable[Prepared]) -> Iterator[tuple[Prepared, Raw]]:
        for batch in batched(images, predict.batch_size, len(paths)):
            yield from zip(batch, predict.run([i.rgb for i in batch], [i.square for i in batch]), strict=True)

    cv2.setNumThreads(1)  # these threads are enough
    threads = background_threads()
    images = in_order(read, paths, threads, predict.batch_size)
    return in_order(encode, run(images), threads, predict.batch_size)


def in_order(function: Callable, items: Iterable, threads: int, ahead: int) -> Iterator:
    """function(item) of each, in their order, computed in threads; `threads` + `ahead` of them exist at most."""
    pool = ThreadPoolExecutor(threads)
    waiting = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads + ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def background_threads() -> int:
    """For reading and for encoding each: two keep up with any CPU's network; beside a GPU the cores are free."""
    return max(2, min(8, usable_cores() // 2)) if torch.cuda.is_available() else 2


def ordered_images(cfg: Config) -> list[Path]:
    """The images in the submission's order: the sample submission's where there is one, else natural."""
    paths, ignored = list_images(cfg.infer.images)
    if ignored:
        print(f"{cfg.infer.images}: {ignored} files that are no images are ignored")
    for path in paths:
        if not is_text(path.name):
            raise UserError(f"{path}: its name is not valid UTF-8, which a submission must be; rename it")
    by_name = {path.stem: path for path in paths}
    if len(by_name) < len(paths):
        twice = next(path for path in paths if by_name[path.stem] is not path)
        raise UserError(f"{twice}: another image is named {twice.stem} too; a submission holds each name once")
    sample = sample_submission(cfg)
    return in_sample_order(paths, sample) if sample else paths


def batched(items: Iterable, size: int, total: int) -> Iterator[list]:
    with tqdm(total=total, unit="image", disable=None, leave=False) as bar:
        items = iter(items)
        while batch := list(itertools.islice(items, size)):
            yield batch
            bar.update(len(batch))


def cutout(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H,W,4) uint8, the object in its own colour, ready to lie on any background."""
    return np.dstack([estimate_foreground(rgb, alpha), to_levels(alpha)])


def main() -> None:
    args = cli.parse(__doc__)
    with distributed.world() as world:
        infer(with_weights(load_config(args.config, args.overrides)), world)


if __name__ == "__main__":
    cli.run(main)
