"""Folder of images -> submission.csv, and PNG mattes or RGBA cut-outs on request.

    python src/infer.py infer.images=photos infer.weights=outputs/u2netp/best.pth infer.cutout_dir=cutouts
"""
import itertools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

import cli
from cli import UserError, written_whole
from config import Config, load_config, sample_submission
from foreground import estimate_foreground
from images import list_images, read_rgb
from postprocess import NONE, apply, load_tuned
from predictor import load_predictor
from submission import SubmissionWriter, read_rows, to_levels


def infer(cfg: Config) -> None:
    """Writes cfg.infer.submission (and png_dir, cutout_dir), whole or not at all."""
    paths = ordered_images(cfg)
    setting = load_tuned(cfg.infer.weights) if cfg.infer.postprocess == "tuned" else NONE
    predict = load_predictor(cfg)
    print(f"{len(paths)} images of {cfg.infer.images} with {cfg.infer.weights}: {predict.description}, "
          f"post-processing {setting}")
    started = time.perf_counter()
    with SubmissionWriter(cfg.infer.submission) as writer:
        for batch in batched(read_ahead(paths), cfg.infer.batch_size, len(paths)):
            for (path, rgb), pred in zip(batch, predict([rgb for _, rgb in batch]), strict=True):
                alpha = apply(setting, rgb, pred)
                writer.write(path.stem, alpha)
                if cfg.infer.png_dir:
                    write_png(cfg.infer.png_dir / f"{path.stem}.png", to_levels(alpha))
                if cfg.infer.cutout_dir:
                    write_png(cfg.infer.cutout_dir / f"{path.stem}.png", cutout(rgb, alpha))
    seconds = time.perf_counter() - started
    print(f"{cfg.infer.submission}: {len(paths)} rows in {seconds:.1f} s, {seconds / len(paths):.2f} s per image")


def ordered_images(cfg: Config) -> list[Path]:
    """The images in the submission's order: the sample submission's where there is one, else natural."""
    paths, ignored = list_images(cfg.infer.images)
    if ignored:
        print(f"{cfg.infer.images}: {ignored} files that are no images are ignored")
    by_name = {path.stem: path for path in paths}
    if len(by_name) < len(paths):
        twice = next(path for path in paths if by_name[path.stem] is not path)
        raise UserError(f"{twice}: another image is named {twice.stem} too; a submission holds each name once")
    sample = sample_submission(cfg)
    if sample is None:
        return paths
    names = [name for _, name, _ in read_rows(sample)]
    if set(names) != set(by_name) or len(names) != len(by_name):
        odd = sorted(set(names) ^ set(by_name))
        raise UserError(f"{sample}: its names are not those of {cfg.infer.images} ({', '.join(odd[:3]) or 'doubled'}); "
                        "set data.sample_submission to the right file")
    return [by_name[name] for name in names]


def read_ahead(paths: list[Path], ahead: int = 2) -> Iterator[tuple[Path, np.ndarray]]:
    """(path, rgb) in order, decoded in a thread while the network works; holds `ahead` images at most."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(read_rgb, path) for path in paths[:ahead]]
        for i, path in enumerate(paths):
            rgb = waiting.pop(0).result()
            if i + ahead < len(paths):
                waiting.append(pool.submit(read_rgb, paths[i + ahead]))
            yield path, rgb


def batched(items: Iterable, size: int, total: int) -> Iterator[list]:
    with tqdm(total=total, unit="image", disable=None, leave=False) as bar:
        items = iter(items)
        while batch := list(itertools.islice(items, size)):
            yield batch
            bar.update(len(batch))


def cutout(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H,W,4) uint8, the object in its own colour, ready to lie on any background."""
    return np.dstack([estimate_foreground(rgb, alpha), to_levels(alpha)])


def write_png(path: Path, image: np.ndarray) -> None:
    """(H,W) grey or (H,W,4) RGBA, uint8."""
    encoded = cv2.imencode(".png", image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA))[1]
    with written_whole(path) as part:
        part.write_bytes(encoded)


def main() -> None:
    args = cli.parse(__doc__)
    infer(load_config(args.config, args.overrides))


if __name__ == "__main__":
    cli.run(main)
