"""Pairs CSV -> (rgb, alpha) arrays, checked, and the samples of training and validation.

rgb is (H,W,3) uint8, alpha and target are (H,W) float32 in [0,1].
"""
import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from augment import augment_pair, sample_xray_params, xray_alpha_dense
from cache import Cache
from cli import UserError
from config import Config, in_epoch
from decoded import DecodedFiles
from distributed import ALONE, World
from foreground import cached_foreground
from images import list_images, read_alpha, read_rgb, resize_longer_side

TRAIN, VALIDATION = 0, 1  # what a random generator is keyed by, see DESIGN: [seed, purpose, …]


@dataclass(frozen=True)
class Pair:
    """One row of a pairs CSV: its two files and where it stands, for messages."""
    image_path: Path
    alpha_path: Path
    row: str
    family: str = ""  # of the CSV's optional column `family`: what results are grouped by


def read_pairs(csv_path: str | Path, limit: int | None = None, on_error: str = "fail",
               world: World = ALONE) -> list[Pair]:
    """The pairs of a CSV, each one decoded once, by one of the processes, to know that it is usable.

    UserError names the row and the path of the first bad pair; with on_error="skip" bad pairs are dropped and said.
    """
    pairs = _read_rows(Path(csv_path))[:limit]
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        mine = world.deal(range(len(pairs)))
        found = tqdm(pool.map(lambda i: fault(pairs[i]), mine), f"checking {csv_path}", len(mine), disable=None,
                     leave=False)
        faults = list(world.merge(dict(zip(mine, found, strict=True))).values())
    bad = [fault for fault in faults if fault]
    if bad and on_error == "fail":
        raise UserError(f"{bad[0]} ({len(bad)} of {len(pairs)} pairs are bad; data.on_error=skip leaves them out)")
    if bad:
        print(f"{csv_path}: left out {len(bad)} of {len(pairs)} pairs (data.on_error=skip):", *bad, sep="\n  ")
    if len(bad) == len(pairs):
        raise UserError(f"{csv_path}: no usable pair is left of {len(pairs)}; the first: {bad[0]}")
    return [pair for pair, fault in zip(pairs, faults, strict=True) if not fault]


def _read_rows(csv_path: Path) -> list[Pair]:
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [c for c in ("image_path", "alpha_path") if c not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{csv_path}: no column {' and '.join(missing)}; "
                                "the first line must be image_path,alpha_path")
            rows = [(reader.line_num, row["image_path"], row["alpha_path"], row.get("family")) for row in reader]
    except FileNotFoundError:
        raise UserError(f"{csv_path}: no such pairs CSV; `make data SOURCE=synthetic` makes one, "
                        "or set data.train_csv / data.val_csv") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{csv_path}: cannot be read as a CSV ({error})") from None
    if not rows:
        raise UserError(f"{csv_path}: has no rows; each is one image_path,alpha_path")
    for line, image, alpha, _ in rows:
        if not image or not alpha:
            raise UserError(f"{csv_path} line {line}: image_path or alpha_path is empty")
    # An absolute path in the CSV replaces the folder: that is what pathlib's / does.
    return [Pair(csv_path.parent / image, csv_path.parent / alpha, f"{csv_path} line {line}", family or "")
            for line, image, alpha, family in rows]


def fault(pair: Pair) -> str | None:
    """What is wrong with a pair, or None."""
    try:
        read_pair(pair)
    except UserError as error:
        return str(error)


def read_pair(pair: Pair, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(rgb, alpha) of equal height and width, longer side `size` when given. UserError names row and path."""
    try:
        rgb, alpha = read_rgb(pair.image_path), read_alpha(pair.alpha_path)
    except UserError as error:
        raise UserError(f"{pair.row}: {error}") from None
    if rgb.shape[:2] != alpha.shape:
        (height, width), (alpha_height, alpha_width) = rgb.shape[:2], alpha.shape
        raise UserError(f"{pair.row}: {pair.image_path} is {width}×{height}, "
                        f"but {pair.alpha_path} is {alpha_width}×{alpha_height}")
    return resize_longer_side(rgb, size), resize_longer_side(alpha, size)


class TrainSet(Dataset):
    """[(epoch, index)] -> rgb (3,crop,crop) uint8, target (1,crop,crop) float32, index.

    Epoch and index key the randomness, so that a sample is the same whoever draws it, and whenever.
    """

    def __init__(self, pairs: Sequence[Pair], cfg: Config):
        self.pairs, self.cfg = pairs, cfg
        folder = cfg.data.backgrounds_dir
        self.backgrounds = list_images(folder)[0] if folder else [pair.image_path for pair in pairs]
        files = [(pair.image_path, pair.alpha_path) for pair in pairs]
        self.decoded = DecodedFiles(cfg.data.root / "cache/decoded", cfg.data.cache_gb * 1e9, files,
                                    recipe=cfg.data.size) if cfg.data.cache_gb else None
        self.foregrounds = Cache(cfg.data.root / "cache/foregrounds")

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, key):
        epoch, index = key
        cfg, pair = self.cfg, self.pairs[index]
        sources = pair.image_path, pair.alpha_path

        def decode():
            return read_pair(pair, cfg.data.size)

        def foreground(rgb, alpha):
            return cached_foreground(self.foregrounds, sources, rgb, alpha)

        def background(rng):
            return resize_longer_side(read_rgb(self.backgrounds[rng.integers(len(self.backgrounds))]), cfg.data.size)

        rng = np.random.default_rng([cfg.seed, TRAIN, epoch, index])
        augment = in_epoch(cfg, epoch).augment
        rgb, alpha = self.decoded.get(sources, decode) if self.decoded else decode()
        rgb, target = augment_pair(rgb, alpha, augment, rng, foreground, background)
        # uint8 until the network: a quarter of the bytes to hand over
        return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))), torch.from_numpy(target)[None], index


class ValidationSet(Dataset):
    """[index] -> rgb (H,W,3) uint8, alpha (H,W), target (H,W): the dense alpha of this index, always the same."""

    def __init__(self, pairs: Sequence[Pair], cfg: Config):
        self.pairs, self.cfg = pairs, cfg

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        rgb, alpha = read_pair(self.pairs[index], self.cfg.data.size)
        rng = np.random.default_rng([self.cfg.seed, VALIDATION, index])
        params = sample_xray_params(self.cfg.augment.xray, rng)
        return rgb, alpha, xray_alpha_dense(rgb, alpha, params, rng)
