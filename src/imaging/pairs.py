"""Pairs CSV: reading and checking, splitting by name, folds, writing.

    train = configured_pairs(cfg, "train")                # each pair decoded once, or remembered as good
    pairs = read_pairs("other.csv")
    write_splits(root, [split_by_name([(image_path, alpha_path), …], val_share=0.2)])
"""
import csv
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
import PIL
from tqdm import tqdm

from core.config import Config
from core.distributed import ALONE, World
from core.errors import UserError
from core.files import written_whole
from imaging.alphas import is_coloured, read_alpha
from imaging.images import dangling, is_turned, read_rgb, resize_longer_side
from imaging.pair_checks import Remembered, doubts, files_key, look
from imaging.tables import read_table

# "train" and "val" -> (image, alpha), (image, alpha, family) or (image, alpha, family, group)
Row = tuple[Path, Path] | tuple[Path, Path, str] | tuple[Path, Path, str, str]
Split = dict[str, list[Row]]
RULES = f"1, Pillow {PIL.__version__}"  # a new number when the checks change: all pairs are checked again


@dataclass(frozen=True)
class Pair:
    """One row of a pairs CSV: its two files and its place in the CSV, for messages."""
    image_path: Path
    alpha_path: Path
    row: str
    family: str = ""  # the CSV's optional column `family`, by which results are grouped
    group: str = ""   # its optional column `group`: pictures that must be in the same fold

    @property
    def fold_key(self) -> str:
        """What decides the fold: the group, or without one, the image's name."""
        return normalize("NFC", self.group or self.image_path.stem)


def configured_pairs(cfg: Config, split: str, world: World = ALONE) -> list[Pair]:
    """The pairs of data.train_csv or data.val_csv (split: train | val), read as cfg.data says; see read_pairs().

    With data.folds those of both that are in data.fold (val) or not (train).
    """
    data = cfg.data
    if data.folds:
        pairs = [pair for pair in all_pairs(cfg) if (fold_of(pair, data.folds) == data.fold) == (split == "val")]
    else:
        pairs = _read_rows({"train": data.train_csv, "val": data.val_csv}[split])[:data.limit]
    return usable(pairs, pairs_source(cfg, split), data.on_error, world, memory_file(cfg))


def pairs_source(cfg: Config, split: str) -> str:
    """Where configured_pairs() come from, for messages. UserError if data.fold is missing."""
    data = cfg.data
    if not data.folds:
        return str({"train": data.train_csv, "val": data.val_csv}[split])
    if data.fold is None:
        raise UserError(f"data.folds={data.folds} needs data.fold, 0 to {data.folds - 1}; `make folds` trains them all")
    return f"{'all but ' if split == 'train' else ''}fold {data.fold} of {data.folds}"


def all_pairs(cfg: Config) -> list[Pair]:
    """The pairs of data.train_csv and data.val_csv together, unchecked; one that is listed twice comes once.

    UserError if an image is in two groups.
    """
    unique, groups = {}, {}
    for pair in (pair for path in (cfg.data.train_csv, cfg.data.val_csv) for pair in _read_rows(path)[:cfg.data.limit]):
        image = pair.image_path.resolve()
        first = groups.setdefault(image, pair)
        if pair.group != first.group:
            raise UserError(f"{pair.row}: {pair.image_path.name} is in group '{pair.group}', but in '{first.group}' at "
                            f"{first.row}; give it one group")
        unique.setdefault((image, pair.alpha_path.resolve()), pair)
    return list(unique.values())


def fold_of(pair: Pair, folds: int) -> int:
    """The pair's fold, 0 to folds - 1: it depends on nothing but its fold_key."""
    # not split_by_name()'s hash: val.csv would be one of the folds
    return int(hash_share(f"fold of {pair.fold_key}") * folds)


def read_pairs(csv_path: str | Path, limit: int | None = None, on_error: str = "fail",
               world: World = ALONE, memory: Path | None = None) -> list[Pair]:
    """The first `limit` pairs of a CSV. One of the processes decodes each pair once to check it.

    memory: file with the findings of earlier calls, so that only new and changed pairs are decoded. UserError names row
    and path of the first bad pair; with on_error="skip" bad pairs are dropped and listed.
    """
    return usable(_read_rows(Path(csv_path))[:limit], str(csv_path), on_error, world, memory)


def usable(pairs: Sequence[Pair], where: str, on_error: str, world: World, memory: Path | None) -> list[Pair]:
    """The pairs, checked; see read_pairs(). where: their source, for messages."""
    if not pairs:
        raise UserError(f"{where}: holds no pairs; lower data.folds, or check the CSVs' column `group`")
    faults, findings = check_pairs(pairs, where, world, memory)
    if faults and on_error == "fail":
        raise UserError(f"{next(iter(faults.values()))} ({len(faults)} of {len(pairs)} pairs are bad; "
                        "data.on_error=skip skips them)")
    if faults:
        print(f"{where}: skipped {len(faults)} of {len(pairs)} pairs (data.on_error=skip):", *faults.values(),
              sep="\n  ")
    if len(faults) == len(pairs):
        raise UserError(f"{where}: none of its {len(pairs)} pairs is usable; the first: {faults[0]}")
    good = [pair for index, pair in enumerate(pairs) if index not in faults]
    for line in [*doubts(where, [pair.alpha_path.name for pair in good], findings), *repeated(where, good)]:
        print(f"note    {line}")
    return good


def check_pairs(pairs: Sequence[Pair], where: str, world: World = ALONE,
                memory: Path | None = None) -> tuple[dict[int, str], list[list]]:
    """({index of a bad pair: what is wrong with it}, look()'s findings about the good ones, in order)."""
    known, mine = Remembered(memory, RULES), world.deal(range(len(pairs)))
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        keys = dict(zip(mine, pool.map(lambda i: files_key(pairs[i].image_path, pairs[i].alpha_path), mine),
                        strict=True))
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
    """What is wrong with a pair, or look()'s finding if nothing is."""
    try:
        return look(*read_pair(pair))
    except UserError as error:
        return str(error)


def memory_file(cfg: Config) -> Path:
    """Where findings about pairs are kept between runs."""
    return cfg.data.root / "cache/checked.json"


def repeated(where: str, pairs: Sequence[Pair]) -> list[str]:
    """A line if images are listed more than once."""
    times = Counter(pair.image_path.resolve() for pair in pairs)
    twice = [path for path, count in times.items() if count > 1]
    if not twice:
        return []
    return [f"{where}: lists {len(twice)} photographs more than once, {twice[0].name} {times[twice[0]]} times"]


def shared(train: Sequence[Pair], val: Sequence[Pair]) -> list[str]:
    """A line if the two sets have files in common."""
    known = {path.resolve() for pair in train for path in (pair.image_path, pair.alpha_path)}
    both = [pair for pair in val if not known.isdisjoint((pair.image_path.resolve(), pair.alpha_path.resolve()))]
    if not both:
        return []
    return [f"{len(both)} of {len(val)} validation pairs share a file with the training pairs, such as "
            f"{both[0].image_path.name}: validation results will look too good"]


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
                 f"{csv_path} line {line}", *(row.get(name, "").strip() for name in ("family", "group")))
            for line, row in rows]


def find_file(folder: Path, text: str) -> Path:
    """The file named in a cell of a pairs CSV: as typed if that exists, else as other systems write it.

    Tries without surrounding blanks, with ~, Windows' backslashes, and accents as one or two characters (macOS).
    """
    plain = text.strip()
    home = os.path.expanduser(plain)
    forward = home.replace("\\", "/")
    for form in (text, plain, home, forward, normalize("NFC", forward), normalize("NFD", forward)):
        if os.path.lexists(folder / form):  # pathlib's / drops the folder if form is absolute
            return folder / form
    return folder / home


def read_pair(pair: Pair, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(rgb, alpha) of equal height and width, longer side `size` when given. UserError names row and path."""
    try:
        rgb, alpha = read_rgb(pair.image_path), read_alpha(pair.alpha_path)
    except UserError as error:
        hint = "; are image and alpha swapped?" if _is_swapped(pair) else ""
        raise UserError(f"{pair.row}: {error}{hint}") from None
    if rgb.shape[:2] != alpha.shape:
        (height, width), (alpha_height, alpha_width) = rgb.shape[:2], alpha.shape
        raise UserError(f"{pair.row}: {pair.image_path} is {width}×{height}, "
                        f"but {pair.alpha_path} is {alpha_width}×{alpha_height}{_remedy(pair, rgb, alpha)}")
    return resize_longer_side(rgb, size), resize_longer_side(alpha, size)


def _is_swapped(pair: Pair) -> bool:
    """Whether the image could be an alpha and the alpha cannot."""
    try:
        read_alpha(pair.image_path)
        return is_coloured(read_rgb(pair.alpha_path))
    except UserError:
        return False


def _remedy(pair: Pair, rgb: np.ndarray, alpha: np.ndarray) -> str:
    """Against different sizes: another one if only one of the two is turned by its EXIF orientation."""
    if rgb.shape[1::-1] != alpha.shape:
        return "; give both the same size, or list the alpha that belongs to this image"
    turned = [path for path in (pair.image_path, pair.alpha_path) if is_turned(path)]
    if len(turned) != 1:
        return ": one of them is turned by 90°"
    return (f": {turned[0].name} is turned by its EXIF orientation, the other file is not; turn the other one too, or "
            "remove the orientation if the pixels are upright without it")


def hash_share(text: str) -> float:
    """A hash in [0,1), the same on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def split_by_name(pairs: Sequence[tuple[Path, Path]], val_share: float) -> Split:
    """Assigns each pair by its image's name, so that it stays in its split when others are added or removed."""
    return split_groups([(image.stem, [(image, alpha)]) for image, alpha in pairs], val_share)


def split_groups(groups: Sequence[tuple[str, Sequence[Row]]], val_share: float) -> Split:
    """Like split_by_name(), for (name, its pairs): pairs of one name are all in one split."""
    split = {"train": [], "val": []}
    for name, pairs in groups:
        split["val" if hash_share(name) < val_share else "train"].append(pairs)
    # A handful of groups may all be in one split; training needs both.
    for empty, full in (("val", "train"), ("train", "val")):
        if not split[empty] and len(split[full]) > 1:
            split[empty].append(split[full].pop())
    return {side: [pair for pairs in taken for pair in pairs] for side, taken in split.items()}


def write_splits(root: Path, splits: Sequence[Split]) -> None:
    """The union of the splits as root/splits/train.csv and val.csv."""
    for side in ("train", "val"):
        rows = [row for split in splits for row in split[side]]
        if not rows:
            raise UserError(f"{root}/splits/{side}.csv: would be empty; the sources must have at least two pairs")
        write_pairs_csv(root / f"splits/{side}.csv", rows, root)


def write_pairs_csv(path: Path, rows: Sequence[tuple], root: Path) -> None:
    """Writes a pairs CSV; paths inside `root` are relative to the CSV's folder, so that `root` can be moved."""
    def text(file: Path) -> str:
        file = file.absolute()
        return os.path.relpath(file, path.parent.absolute()) if file.is_relative_to(root.absolute()) else str(file)

    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_path", "alpha_path", "family", "group"])
        writer.writerows((text(image), text(alpha), *[*more, "", ""][:2]) for image, alpha, *more in rows)
