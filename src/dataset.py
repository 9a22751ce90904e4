"""Pairs CSV -> (rgb, alpha) arrays, checked, and the samples of training and validation.

rgb is (H,W,3) uint8, alpha and target are (H,W) float32 in [0,1].
"""
import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
import PIL
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from augment import augment_pair, sample_xray_params, xray_alpha_dense
from core.config import Config, in_epoch
from core.distributed import ALONE, World
from core.errors import OperationError, UserError
from core.seeds import Purpose, generator
from imaging.cache import Cache
from imaging.checked_pairs import Remembered, key
from imaging.foreground import cached_foreground
from imaging.images import dangling, is_coloured, is_turned, read_alpha, read_rgb, readable_images, resize_longer_side
from imaging.pair_cache import DecodedFiles
from imaging.plausible import doubts, look
from imaging.tables import read_table

RULES = f"1, Pillow {PIL.__version__}"  # what pairs are judged by; a new number when that changes: all are checked anew


@dataclass(frozen=True)
class Pair:
    """One row of a pairs CSV: its two files and where it stands, for messages."""
    image_path: Path
    alpha_path: Path
    row: str
    family: str = ""  # of the CSV's optional column `family`: what results are grouped by


def read_pairs(csv_path: str | Path, limit: int | None = None, on_error: str = "fail",
               world: World = ALONE, memory: Path | None = None) -> list[Pair]:
    """The pairs of a CSV, each one decoded once, by one of the processes, to know that it is usable.

    memory: file of what was found by earlier calls, so that only new and changed pairs are decoded again.
    UserError names the row and the path of the first bad pair; with on_error="skip" bad pairs are dropped and said.
    """
    pairs = _read_rows(Path(csv_path))[:limit]
    faults, findings = check_pairs(pairs, str(csv_path), world, memory)
    if faults and on_error == "fail":
        raise UserError(f"{next(iter(faults.values()))} ({len(faults)} of {len(pairs)} pairs are bad; "
                        "data.on_error=skip leaves them out)")
    if faults:
        print(f"{csv_path}: left out {len(faults)} of {len(pairs)} pairs (data.on_error=skip):", *faults.values(),
              sep="\n  ")
    if len(faults) == len(pairs):
        raise UserError(f"{csv_path}: no usable pair is left of {len(pairs)}; the first: {faults[0]}")
    good = [pair for index, pair in enumerate(pairs) if index not in faults]
    for line in [*doubts(str(csv_path), [pair.alpha_path.name for pair in good], findings), *repeated(csv_path, good)]:
        print(f"note    {line}")
    return good


def check_pairs(pairs: Sequence[Pair], where: str, world: World = ALONE,
                memory: Path | None = None) -> tuple[dict[int, str], list[list]]:
    """({index of a bad pair: what is wrong with it}, plausible.look()'s findings of the good ones, in order)."""
    known, mine = Remembered(memory, RULES), world.deal(range(len(pairs)))
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        keys = dict(zip(mine, pool.map(lambda i: key(pairs[i].image_path, pairs[i].alpha_path), mine), strict=True))
        found = {i: known.findings[keys[i]] for i in mine if keys[i] in known.findings}
        new = [i for i in mine if i not in found]
        checked = pool.map(lambda i: check(pairs[i]), new)
        found |= zip(new, tqdm(checked, f"checking {where}", len(new), disable=None, leave=False), strict=True)
    decoded, keys, found = sum(world.gather(len(new))), world.merge(keys), world.merge(found)
    good = {i: finding for i, finding in found.items() if isinstance(finding, list)}
    if memory:
        print(f"data    {where}: {len(pairs)} pairs checked ({len(pairs) - decoded} remembered from {memory})")
        if world.main:
            known.add({keys[i]: finding for i, finding in good.items() if keys[i]})
    return {i: fault for i, fault in found.items() if i not in good}, list(good.values())


def check(pair: Pair) -> str | list:
    """What is wrong with a pair; plausible.look()'s finding if nothing is."""
    try:
        return look(*read_pair(pair))
    except UserError as error:
        return str(error)


def memory_file(cfg: Config) -> Path:
    """Where the findings of the checks are remembered."""
    return cfg.data.root / "cache/checked.json"


def repeated(where: str | Path, pairs: Sequence[Pair]) -> list[str]:
    """A line when rows repeat others."""
    times = Counter(pair.image_path.resolve() for pair in pairs)
    twice = [path for path, count in times.items() if count > 1]
    if not twice:
        return []
    return [f"{where}: lists {len(twice)} photographs more than once, {twice[0].name} {times[twice[0]]} times"]


def shared(train: Sequence[Pair], val: Sequence[Pair]) -> list[str]:
    """A line when pairs of both sets have files in common."""
    known = {path.resolve() for pair in train for path in (pair.image_path, pair.alpha_path)}
    both = [pair for pair in val if not known.isdisjoint((pair.image_path.resolve(), pair.alpha_path.resolve()))]
    if not both:
        return []
    return [f"{len(both)} of {len(val)} validation pairs have a file that is trained on as well, "
            f"{both[0].image_path.name} for example: the validation looks better than it is"]


def _read_rows(csv_path: Path) -> list[Pair]:
    try:
        rows = read_table(csv_path, ("image_path", "alpha_path"))
    except FileNotFoundError:
        raise UserError(f"{csv_path}: {dangling(csv_path) or 'no such pairs CSV'}; `make data SOURCE=synthetic` makes "
                        "one, or set data.train_csv / data.val_csv") from None
    if not rows:
        raise UserError(f"{csv_path}: has no rows; each is one image_path,alpha_path")
    for line, row in rows:
        if not row.get("image_path", "").strip() or not row.get("alpha_path", "").strip():
            raise UserError(f"{csv_path} line {line}: image_path or alpha_path is empty")
    return [Pair(find_file(csv_path.parent, row["image_path"]), find_file(csv_path.parent, row["alpha_path"]),
                 f"{csv_path} line {line}", row.get("family", "").strip()) for line, row in rows]


def find_file(folder: Path, text: str) -> Path:
    """The file that a cell of a pairs CSV names: as typed if there is one, else as other systems write it.

    Blanks around it, ~, Windows' backslashes, and accents as one letter or as two (macOS).
    """
    plain = text.strip()
    home = os.path.expanduser(plain)
    forward = home.replace("\\", "/")
    for form in (text, plain, home, forward, normalize("NFC", forward), normalize("NFD", forward)):
        if os.path.lexists(folder / form):  # an absolute path replaces the folder: that is what pathlib's / does
            return folder / form
    return folder / home


def read_pair(pair: Pair, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(rgb, alpha) of equal height and width, longer side `size` when given. UserError names row and path."""
    try:
        rgb, alpha = read_rgb(pair.image_path), read_alpha(pair.alpha_path)
    except UserError as error:
        hint = "; or are image and alpha exchanged?" if _is_exchanged(pair) else ""
        raise UserError(f"{pair.row}: {error}{hint}") from None
    if rgb.shape[:2] != alpha.shape:
        (height, width), (alpha_height, alpha_width) = rgb.shape[:2], alpha.shape
        raise UserError(f"{pair.row}: {pair.image_path} is {width}×{height}, "
                        f"but {pair.alpha_path} is {alpha_width}×{alpha_height}{_turned(pair, rgb, alpha)}")
    return resize_longer_side(rgb, size), resize_longer_side(alpha, size)


def _is_exchanged(pair: Pair) -> bool:
    """Whether the alpha can only be a photograph, and the photograph could be an alpha."""
    try:
        read_alpha(pair.image_path)
        return is_coloured(read_rgb(pair.alpha_path))
    except UserError:
        return False


def _turned(pair: Pair, rgb: np.ndarray, alpha: np.ndarray) -> str:
    """What to do where one of the two is turned by its EXIF orientation and the other is not."""
    if rgb.shape[1::-1] != alpha.shape:
        return ""
    turned = [path for path in (pair.image_path, pair.alpha_path) if is_turned(path)]
    if len(turned) != 1:
        return ": one of them is turned by 90°"
    return (f": {turned[0].name} is turned by its EXIF orientation, the other file is not; turn the other one as well, "
            "or remove the orientation if the pixels are upright without it")


class TrainSet(Dataset):
    """[(epoch, index)] -> rgb (3,crop,crop) uint8, target (1,crop,crop) float32, index.

    Epoch and index key the randomness, so that a sample is the same whoever draws it, and whenever.
    """

    def __init__(self, pairs: Sequence[Pair], cfg: Config):
        self.pairs, self.cfg, self._unread = pairs, cfg, set()
        folder = cfg.data.backgrounds_dir
        self.backgrounds = (readable_images(folder, cfg.data.on_error) if folder
                            else [pair.image_path for pair in pairs])
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
            return resize_longer_side(self._background(rng.integers(len(self.backgrounds))), cfg.data.size)

        rng = generator(cfg.seed, Purpose.TRAINING, epoch, index)
        augment = in_epoch(cfg, epoch).augment
        with still_there(pair):
            rgb, alpha = self.decoded.get(sources, decode) if self.decoded else decode()
        rgb, target = augment_pair(rgb, alpha, augment, rng, foreground, background)
        # uint8 until the network: a quarter of the bytes to hand over
        return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))), torch.from_numpy(target)[None], index

    def _background(self, index: int) -> np.ndarray:
        """The picture of this index; where it can no longer be read, the next one that can."""
        for path in (*self.backgrounds[index:], *self.backgrounds[:index]):
            try:
                return read_rgb(path)
            except UserError as error:
                if path not in self._unread:
                    print(f"note    {error}; another background takes its place", flush=True)
                    self._unread.add(path)
        raise OperationError(f"{self.backgrounds[0].parent}: no background can be read any more")


@contextlib.contextmanager
def still_there(pair: Pair) -> Iterator[None]:
    """OperationError, one line with the pair's row, where files that were good at the start no longer are."""
    try:
        yield
    except (UserError, FileNotFoundError) as error:
        reason = error if isinstance(error, UserError) else f"{pair.row}: {error.filename}: no such file"
        raise OperationError(f"{reason}; it was good when this run started: put it back, then run the same command "
                             "again to resume") from None


class ValidationSet(Dataset):
    """[index] -> rgb (H,W,3) uint8, alpha (H,W), target (H,W): the dense alpha of this index, always the same."""

    def __init__(self, pairs: Sequence[Pair], cfg: Config):
        self.pairs, self.cfg = pairs, cfg

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        with still_there(self.pairs[index]):
            rgb, alpha = read_pair(self.pairs[index], self.cfg.data.size)
        rng = generator(self.cfg.seed, Purpose.VALIDATION, index)
        params = sample_xray_params(self.cfg.augment.xray, rng)
        return rgb, alpha, xray_alpha_dense(rgb, alpha, params, rng)
