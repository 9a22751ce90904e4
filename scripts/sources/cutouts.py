"""From cut-outs to pairs: what the sources magick and rgba share.

    behind = background(one_of(kind, rng), background_files(cfg, kind, "data.rgba.background"), side, rng)
    rgb = over(alpha * colours, alpha, behind)
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core.config import Config
from core.errors import UserError
from imaging.alphas import read_alpha
from imaging.images import readable_images
from scenes.backgrounds import catalog_background, crop_of

LOOKED_AT = 100  # alphas read to print how binary they are


class Unusable(Exception):
    """An image that cannot become a pair; the message says why."""


def background_files(cfg: Config, kind: str, setting: str) -> list[Path]:
    """The pictures that `kind` draws from: those of data.backgrounds_dir for folder and mixed.

    UserError, with the name of the setting that `kind` comes from, if that is not set.
    """
    if kind not in ("folder", "mixed"):
        return []
    if cfg.data.backgrounds_dir is None:
        raise UserError(f"{setting}={kind}: set data.backgrounds_dir to a folder of pictures")
    return readable_images(cfg.data.backgrounds_dir, cfg.data.on_error)


def background(kind: str, files: Sequence[Path], side: int, rng) -> np.ndarray:
    """(side,side,3) float32 in [0,1]. kind: catalog, or folder: a crop of one of the files."""
    if kind == "catalog":
        return catalog_background((side, side), rng)
    try:
        return crop_of(files[rng.integers(len(files))], side, rng)
    except ValueError as error:
        raise UserError(str(error)) from None


def one_of(kind: str, rng) -> str:
    """catalog or folder, drawn for mixed."""
    return ("catalog", "folder")[rng.integers(2)] if kind == "mixed" else kind


def over(premultiplied: np.ndarray, alpha: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """(H,W,3) uint8: alpha·colours (H,W,3) in 0…255, over a background (H,W,3) in [0,1]; alpha is (H,W,1)."""
    return np.rint(premultiplied + (1 - alpha) * behind * 255).astype(np.uint8)


def refuse_constant(alpha: np.ndarray) -> None:
    if alpha.min() == alpha.max():
        raise Unusable("has the same alpha everywhere")


def make_all(jobs: Mapping[str, Callable[[], None]], title: str, workers: int | None = None,
             watch: Callable[[dict[str, str]], None] = lambda left_out: None) -> dict[str, str]:
    """Runs {name: job} in threads (decoding and encoding release the GIL) -> {name: why} of the Unusable, in order.

    watch(left_out) is called after each image and may raise an error, which ends the work.
    """
    left_out = {}
    pool = ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(job): name for name, job in jobs.items()}
        bar = tqdm(as_completed(futures), title, len(jobs), unit="image", disable=None, leave=False)
        for future in bar:
            try:
                future.result()
            except Unusable as reason:
                left_out[futures[future]] = f"{futures[future]}: {reason}"
                bar.write(f"left out {futures[future]}: {reason}")
            watch(left_out)
    finally:
        pool.shutdown(cancel_futures=True)
    return {name: left_out[name] for name in jobs if name in left_out}


def soft_share(pairs: Sequence[tuple[Path, Path]]) -> float:
    """Share of pixels in (.05,.95) over LOOKED_AT alphas: the lower, the more binary."""
    def shares() -> Iterator[float]:
        for _, path in pairs[:LOOKED_AT]:
            alpha = read_alpha(path)
            yield np.mean((alpha > 0.05) & (alpha < 0.95))

    return float(np.mean(list(shares())))
