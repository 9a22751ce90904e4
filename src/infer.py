"""Folder of images -> submission.csv, and PNG mattes or RGBA cut-outs on request.

    python src/infer.py infer.images=photos infer.weights=outputs/u2netp/best.pth infer.cutout_dir=cutouts
"""
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from tqdm import tqdm

from core import cli, distributed
from core.config import Config, load_config, sample_submission
from core.device import usable_cores
from core.distributed import ALONE, World
from core.errors import OperationError, UserError
from imaging.foreground import estimate_foreground
from imaging.images import is_text, list_images, read_rgb, to_levels, write_image
from inference.ensemble import Ensemble
from inference.postprocess import Setting, apply
from inference.prediction import Raw
from inference.predictor import Predictor, load_predictor
from inference.preflight import agreed_block, check_outputs, check_overwrites, readable_images
from inference.tuned import NOT_TUNED, load_tuned, with_tuned
from inference.weights import with_weights
from submission.check import in_sample_order
from submission.submission_csv import SubmissionWriter, encode_alpha, shared_out


class Prepared(NamedTuple):
    """An image on its way to the network."""
    path: Path
    rgb: np.ndarray          # (H,W,3) uint8
    seen: np.ndarray | dict  # of Predictor.prepare()


def infer(cfg: Config, world: World = ALONE) -> float:
    """Writes cfg.infer.submission (and png_dir, cutout_dir), each file whole or not at all -> seconds per image.

    With data.on_error=skip, images that cannot be read get no matte and no cut-out, and no submission is written.
    """
    check_outputs(cfg)
    paths = ordered_images(cfg)
    check_overwrites(cfg, paths)
    paths, left_out = readable_images(cfg, paths, world)
    tuned = load_tuned(cfg) if cfg.infer.postprocess == "tuned" else NOT_TUNED
    cfg = with_tuned(cfg, tuned)
    with explained_failures(cfg):
        predict = load_predictor(cfg)
        print(f"{len(paths)} images of {cfg.infer.images} with {cfg.infer.named_weights}: {predict.description}, "
              f"post-processing {tuned.setting}")
        started = time.perf_counter()
        block = agreed_block(world, paths, predict.batch_size)
        rows = predicted_rows(cfg, world.deal(paths, block), predict, tuned.setting)
        if left_out:
            deque(rows, maxlen=0)  # for the mattes and cut-outs alone
        else:
            with shared_out(cfg.infer.submission, world, block) as csv_path, SubmissionWriter(csv_path) as writer:
                for name, text in rows:
                    writer.write_encoded(name, text)
    seconds = time.perf_counter() - started
    done = f"{len(paths)} mattes" if left_out else f"{cfg.infer.submission}: {len(paths)} rows"
    print(f"{done} in {seconds:.1f} s, {len(paths) / seconds:.2f} images/s, "
          f"{predict.seconds / seconds:.0%} of the time in the network")
    if left_out:
        existing = "; the existing file is from an earlier run" if cfg.infer.submission.exists() else ""
        print(f"{cfg.infer.submission}: not written, because {left_out} images are missing{existing}")
    return seconds / len(paths)


@contextlib.contextmanager
def explained_failures(cfg: Config) -> Iterator[None]:
    """OperationError with a remedy if the GPU's memory or the disk is full."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise OperationError("the GPU's memory is full; lower infer.batch_size or infer.size") from None
    except OSError as error:
        if error.filename or isinstance(error, BrokenPipeError):
            raise
        raise OperationError(f"{cfg.infer.submission}: cannot be written, {error.strerror}; make room and run the same "
                             "command again") from None


def predicted_rows(cfg: Config, paths: list[Path], predict: Predictor | Ensemble,
                   setting: Setting) -> Iterator[tuple[str, str]]:
    """(filename, image_utf) of each image, in order.

    Reading and encoding run in threads beside the network; each holds only a few images at a time.
    """
    def read(path: Path) -> Prepared:
        rgb = read_rgb(path)
        return Prepared(path, rgb, predict.prepare(rgb))

    def encode(image: tuple[Prepared, Raw]) -> tuple[str, str]:
        (path, rgb, _), raw = image
        alpha, dense = predict.finish(rgb, raw)
        dense = apply(setting, rgb, dense, alpha)
        if not predict.density:
            alpha = dense
        if cfg.infer.png_dir:
            write_image(cfg.infer.png_dir / f"{path.stem}.png", to_levels(alpha if cfg.infer.png == "alpha" else dense))
        if cfg.infer.cutout_dir:
            write_image(cfg.infer.cutout_dir / f"{path.stem}.png", cutout(rgb, alpha))
        return path.stem, encode_alpha(dense)

    def run(images: Iterable[Prepared]) -> Iterator[tuple[Prepared, Raw]]:
        for batch in batched(images, predict.batch_size, len(paths)):
            yield from zip(batch, predict.run([i.rgb for i in batch], [i.seen for i in batch]), strict=True)

    cv2.setNumThreads(1)  # the threads below are enough
    threads = background_threads()
    images = in_order(read, paths, threads, predict.batch_size)
    return in_order(encode, run(images), threads, predict.batch_size)


def in_order(function: Callable, items: Iterable, threads: int, ahead: int) -> Iterator:
    """function(item) for each item, in order, computed in threads; at most `threads` + `ahead` results are held."""
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
    """Threads for reading, and as many for encoding: two keep up with a network on a CPU; with a GPU the cores are
    free."""
    return max(2, min(8, usable_cores() // 2)) if torch.cuda.is_available() else 2


def ordered_images(cfg: Config) -> list[Path]:
    """The images in the order of the sample submission if there is one, else in natural order."""
    paths, ignored = list_images(cfg.infer.images)
    if ignored:
        print(f"{cfg.infer.images}: ignoring {ignored} files that are not images")
    for path in paths:
        if not is_text(path.name):
            raise UserError(f"{path}: its name is not valid UTF-8, so a submission cannot hold it; rename it")
    by_name = {path.stem: path for path in paths}
    if len(by_name) < len(paths):
        twice = next(path for path in paths if by_name[path.stem] is not path)
        raise UserError(f"{twice}: another image is also named {twice.stem}; rename one, since a submission holds each "
                        "name once")
    sample = sample_submission(cfg)
    return in_sample_order(paths, sample) if sample else paths


def batched(items: Iterable, size: int, total: int) -> Iterator[list]:
    with tqdm(total=total, unit="image", disable=None, leave=False) as bar:
        items = iter(items)
        while batch := list(itertools.islice(items, size)):
            yield batch
            bar.update(len(batch))


def cutout(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H,W,4) uint8: the object in its own colour, ready to be put on any background."""
    return np.dstack([estimate_foreground(rgb, alpha), to_levels(alpha)])


def main() -> None:
    args = cli.parse(__doc__)
    with distributed.world() as world:
        infer(with_weights(load_config(args.config, args.overrides)), world)


if __name__ == "__main__":
    cli.run(main)
