"""Fills data.root from data.source: splits/train.csv, splits/val.csv and test_dataset/orig_1024/.

    python scripts/get_data.py data.source=synthetic data.synthetic.train=400

synthetic: procedural objects with exact alpha; its test set has a solution.csv of dense alphas, drawn as those of the
hidden test are expected to be.
"""
import csv
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from synthetic import draw_pair

import cli
from augment import sample_xray_params, xray_alpha_dense
from cli import UserError, written_whole
from config import Config, load_config
from submission import SubmissionWriter, to_levels

TEST_SIDE = 1024  # pixels, of the competition's test images
# Where each split's scenes begin, so that no scene changes sides when a split grows.
FIRST_SCENE = {"train": 0, "val": 1_000_000, "test": 2_000_000}
PURPOSE = 4  # what a random generator is keyed by: [seed, purpose, …]


def synthetic(cfg: Config) -> None:
    """Pairs of cfg.data.synthetic.size and 1024² test images with their solution, drawn on all cores."""
    started, wanted = time.perf_counter(), cfg.data.synthetic
    if cfg.data.test_dir.exists() and not cfg.data.solution_csv.exists():
        raise UserError(f"{cfg.data.test_dir}: holds another test set; choose a data.root of its own")
    for split, count in (("train", wanted.train), ("val", wanted.val)):
        folder = cfg.data.root / "synthetic" / split
        shutil.rmtree(folder, ignore_errors=True)
        names = list(parallel(partial(save_pair, cfg.seed, folder, wanted.size, FIRST_SCENE[split]), count, split))
        write_split(cfg.data.root / f"splits/{split}.csv", [
            (f"../synthetic/{split}/images/{name}.jpg", f"../synthetic/{split}/alphas/{name}.png") for name in names])
    shutil.rmtree(cfg.data.test_dir, ignore_errors=True)
    with SubmissionWriter(cfg.data.solution_csv) as writer:
        for index, alpha in enumerate(parallel(partial(save_test_image, cfg), wanted.test, "test")):
            writer.write(str(index + 1), alpha)
    print(f"{cfg.data.root}: {wanted.train} training and {wanted.val} validation pairs of {wanted.size} px, "
          f"{wanted.test} test images of {TEST_SIDE} px with {cfg.data.solution_csv.name}, "
          f"in {time.perf_counter() - started:.0f} s")


def save_pair(seed: int, folder: Path, size: int, first: int, index: int) -> str:
    """Draws one scene into images/ and alphas/ -> its name."""
    rgb, alpha, family = draw_pair(seed, first + index, size)
    name = f"{index:05d}_{family}"
    write_image(folder / f"images/{name}.jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    write_image(folder / f"alphas/{name}.png", to_levels(alpha))
    return name


def save_test_image(cfg: Config, index: int) -> np.ndarray:
    """Draws one test image into data.test_dir -> its true dense alpha (H,W)."""
    rgb, alpha, _ = draw_pair(cfg.seed, FIRST_SCENE["test"] + index, TEST_SIDE)
    write_image(cfg.data.test_dir / f"{index + 1}.png", rgb[..., ::-1])
    rng = np.random.default_rng([cfg.seed, PURPOSE, index])
    return xray_alpha_dense(rgb, alpha, sample_xray_params(cfg.augment.xray, rng), rng)


def parallel(draw: Callable, count: int, name: str) -> Iterator:
    """draw(0) … draw(count - 1) in order, on all cores."""
    with ProcessPoolExecutor(initializer=start_worker) as pool:
        yield from tqdm(pool.map(draw, range(count)), f"drawing {name}", count, unit="image", disable=None, leave=False)


def start_worker() -> None:
    cv2.setNumThreads(1)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's affair


def write_image(path: Path, image: np.ndarray, options: Sequence[int] = ()) -> None:
    """(H,W) or (H,W,3) in OpenCV's channel order."""
    with written_whole(path) as part:
        part.write_bytes(cv2.imencode(path.suffix, image, options)[1])


def write_split(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """A pairs CSV; paths are relative to its own folder."""
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_path", "alpha_path"])
        writer.writerows(rows)


SOURCES = {"synthetic": synthetic}


def main() -> None:
    args = cli.parse(__doc__)
    cfg = load_config(args.config, args.overrides)
    SOURCES[cfg.data.source](cfg)


if __name__ == "__main__":
    cli.run(main)
