"""Source synthetic: pairs and a test set, drawn by code; needs no network.

    python scripts/get_data.py data.source=synthetic data.synthetic.train=400

The test set has a solution.csv of dense alphas, drawn as those of the hidden test are expected to be.
"""
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from augment import sample_xray_params, xray_alpha_dense
from cli import OperationError, UserError
from config import Config
from images import TEST_SHAPE, list_images
from pairs import Split, write_image
from submission import SubmissionWriter, to_levels
from synthetic import contact_sheet, draw_pair

SHEET_SIDE = 160  # pixels, of each picture on the sheet of all families
# Where each split's scenes begin, so that no scene changes sides when a split grows.
FIRST_SCENE = {"train": 0, "val": 1_000_000, "test": 2_000_000}
PURPOSE = 4  # what a random generator is keyed by: [seed, purpose, …]


def fetch(cfg: Config) -> Split:
    """Pairs of cfg.data.synthetic.size and 1024² test images with their solution, drawn on all cores."""
    started, wanted, root, test_dir = time.perf_counter(), cfg.data.synthetic, cfg.data.root, cfg.data.test_dir
    if test_dir.exists() and not cfg.data.solution_csv.exists():
        raise UserError(f"{test_dir}: holds another test set; choose a data.root of its own")
    draw = partial(draw_pair, cfg.seed, backgrounds=list_images(cfg.data.backgrounds_dir)[0]
                   if cfg.data.backgrounds_dir else ())
    split = {}
    for side, count in (("train", wanted.train), ("val", wanted.val)):
        folder = root / "synthetic" / side
        shutil.rmtree(folder, ignore_errors=True)
        split[side] = list(parallel(partial(save_pair, draw, folder, wanted.size, FIRST_SCENE[side]), count, side))

    part = test_dir.with_name(f".{test_dir.name}.part")  # the test set appears whole, after its solution
    shutil.rmtree(part, ignore_errors=True)
    with SubmissionWriter(cfg.data.solution_csv) as writer:
        for index, alpha in enumerate(parallel(partial(save_test_image, draw, part, cfg), wanted.test, "test")):
            writer.write(str(index + 1), alpha)
    shutil.rmtree(test_dir, ignore_errors=True)
    part.rename(test_dir)
    write_image(root / "synthetic/sheet.png", contact_sheet(SHEET_SIDE, 3, cfg.seed)[..., ::-1])
    print(f"{root}: {wanted.train} training and {wanted.val} validation pairs of {wanted.size} px, {wanted.test} test "
          f"images of {TEST_SHAPE[0]} px with {cfg.data.solution_csv.name}, in {time.perf_counter() - started:.0f} s; "
          f"all families: {root}/synthetic/sheet.png")
    return split


def save_pair(draw: Callable, folder: Path, size: int, first: int, index: int) -> tuple[Path, Path, str]:
    """Draws one scene into images/ and alphas/ -> its two files and its family."""
    rgb, alpha, family = draw(first + index, size)
    name = f"{index:05d}_{family}"
    files = folder / f"images/{name}.jpg", folder / f"alphas/{name}.png"
    write_image(files[0], rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    write_image(files[1], to_levels(alpha))
    return *files, family


def save_test_image(draw: Callable, folder: Path, cfg: Config, index: int) -> np.ndarray:
    """Draws one test image -> its true dense alpha (H,W)."""
    rgb, alpha, _ = draw(FIRST_SCENE["test"] + index, TEST_SHAPE[0])
    write_image(folder / f"{index + 1}.png", rgb[..., ::-1])
    rng = np.random.default_rng([cfg.seed, PURPOSE, index])
    return xray_alpha_dense(rgb, alpha, sample_xray_params(cfg.augment.xray, rng), rng)


def parallel(draw: Callable, count: int, name: str) -> Iterator:
    """draw(0) … draw(count - 1) in order, on all cores."""
    try:
        with ProcessPoolExecutor(initializer=start_worker) as pool:
            yield from tqdm(pool.map(draw, range(count)), f"drawing {name}", count, unit="image", disable=None,
                            leave=False)
    except BrokenProcessPool:
        raise OperationError("a process that draws was killed (often no memory was left); run the same command again"
                             ) from None


def start_worker() -> None:
    cv2.setNumThreads(1)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's affair
