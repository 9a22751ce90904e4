"""Source synthetic: pairs and a test set, drawn by code; needs no network.

    python scripts/get_data.py data.source=synthetic data.synthetic.train=400

The test set has a solution.csv of dense alphas, drawn as those of the hidden test are expected to be.
"""
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from augment import sample_xray_params, xray_alpha_dense
from core.config import Config
from core.errors import OperationError, UserError
from core.files import may_empty, read_list, written_folder
from core.outputs import same_place
from core.seeds import Purpose, generator
from imaging.images import TEST_SHAPE, to_levels, write_image
from imaging.pairs import Split
from scenes.scene import contact_sheet, draw_pair
from sources.cutouts import background_files
from submission.submission_csv import SubmissionWriter, read_rows

SHEET_SIDE = 160  # pixels, of each picture on the sheet of all families
# The first scene of each split: far apart, so no scene changes split when one grows.
FIRST_SCENE = {"train": 0, "val": 1_000_000, "test": 2_000_000}
EARLIER = re.compile(r"(images|alphas)/\d{5}_\w+\.(jpg|png)")  # what save_pair() writes


def fetch(cfg: Config) -> Split:
    """Pairs of cfg.data.synthetic.size and 1024² test images with their solution, drawn on all cores."""
    started, wanted, root, test_dir = time.perf_counter(), cfg.data.synthetic, cfg.data.root, cfg.data.test_dir
    if test_dir.exists() and not cfg.data.solution_csv.exists():
        raise UserError(f"{test_dir}: holds another test set; choose another data.root")
    earlier = earlier_test_set(cfg)
    may_empty(test_dir, earlier)
    refuse_foreign_solution(cfg)
    for side in ("train", "val"):
        may_empty(root / "synthetic" / side, EARLIER.fullmatch)
    draw_pairs, draw_test = ways_to_draw(cfg)
    split = {}
    for side, count in (("train", wanted.train), ("val", wanted.val)):
        folder = root / "synthetic" / side
        with written_folder(folder, EARLIER.fullmatch) as part:
            drawn = list(parallel(partial(save_pair, draw_pairs, part, wanted.size, FIRST_SCENE[side]), count, side))
        split[side] = [(*(folder / path.relative_to(part) for path in files), family) for *files, family in drawn]

    # the test set appears whole, after its solution
    with written_folder(test_dir, earlier) as part, SubmissionWriter(cfg.data.solution_csv) as writer:
        for index, alpha in enumerate(parallel(partial(save_test_image, draw_test, part, cfg), wanted.test, "test")):
            writer.write(str(index + 1), alpha)
    write_image(root / "synthetic/sheet.png", contact_sheet(SHEET_SIDE, 3, cfg.seed))
    print(f"{root}: {wanted.train} training and {wanted.val} validation pairs of {wanted.size} px, {wanted.test} test "
          f"images of {TEST_SHAPE[0]} px with {cfg.data.solution_csv.name}, in {time.perf_counter() - started:.0f} s; "
          f"all families: {root}/synthetic/sheet.png")
    return split


def ways_to_draw(cfg: Config) -> tuple[Callable, Callable]:
    """What draws the pairs, and what draws the test images: (index, size) -> as draw_pair()."""
    kind, drawn = cfg.data.synthetic.background, partial(draw_pair, cfg.seed)
    if kind == "drawn" or (kind == "folder" and cfg.data.backgrounds_dir is None):
        return drawn, drawn
    on_pictures = partial(drawn, backgrounds=background_files(cfg, kind, "data.synthetic.background"))
    return (on_pictures, on_pictures) if kind == "folder" else (partial(in_turn, (drawn, on_pictures)), drawn)


def in_turn(ways: Sequence[Callable], index: int, size: int) -> tuple[np.ndarray, np.ndarray, str]:
    return ways[index % len(ways)](index, size)


def earlier_test_set(cfg: Config) -> Callable[[str], bool]:
    """Recognises the files of a test set drawn before folders kept a list of them, by the solution's names."""
    solution, test_dir = cfg.data.solution_csv, cfg.data.test_dir
    if not solution.exists() or not same_place(solution.parent, test_dir.parent):
        return lambda name: False
    known = {f"{name}.png" for _, name, _ in read_rows(solution)}
    return known.__contains__


def refuse_foreign_solution(cfg: Config) -> None:
    """UserError if data.solution_csv is not the default and belongs to another test set than the existing one."""
    solution, test_dir = cfg.data.solution_csv, cfg.data.test_dir
    if not solution.exists() or same_place(solution, cfg.data.root / "test_dataset/solution.csv"):
        return
    names = {f"{name}.png" for _, name, _ in read_rows(solution)}
    if names != {name for name, _ in read_list(test_dir)}:
        raise UserError(f"{solution}: is not the solution of {test_dir} and would be overwritten; move it, or choose "
                        "another data.solution_csv")


def save_pair(draw: Callable, folder: Path, size: int, first: int, index: int) -> tuple[Path, Path, str]:
    """Draws one scene into images/ and alphas/ -> its two files and its family."""
    rgb, alpha, family = draw(first + index, size)
    name = f"{index:05d}_{family}"
    files = folder / f"images/{name}.jpg", folder / f"alphas/{name}.png"
    write_image(files[0], rgb, [cv2.IMWRITE_JPEG_QUALITY, 95])
    write_image(files[1], to_levels(alpha))
    return *files, family


def save_test_image(draw: Callable, folder: Path, cfg: Config, index: int) -> np.ndarray:
    """Draws one test image -> its true dense alpha (H,W)."""
    rgb, alpha, _ = draw(FIRST_SCENE["test"] + index, TEST_SHAPE[0])
    write_image(folder / f"{index + 1}.png", rgb)
    rng = generator(cfg.seed, Purpose.SYNTHETIC_TEST, index)
    return xray_alpha_dense(rgb, alpha, sample_xray_params(cfg.augment.xray, rng), rng)


def parallel(draw: Callable, count: int, name: str) -> Iterator:
    """draw(0) … draw(count - 1) in order, on all cores."""
    try:
        with ProcessPoolExecutor(initializer=start_worker) as pool:
            yield from tqdm(pool.map(draw, range(count)), f"drawing {name}", count, unit="image", disable=None,
                            leave=False)
    except BrokenProcessPool:
        raise OperationError("a drawing process was killed (often out of memory); run the same command again"
                             ) from None


def start_worker() -> None:
    cv2.setNumThreads(1)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the main process handles Ctrl-C
