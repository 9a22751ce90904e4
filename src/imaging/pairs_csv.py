"""What the sources of `make data` share: images written whole, pairs split by name, splits listed as CSV.

    write_splits(root, [split_by_name([(image_path, alpha_path), …], val_share=0.2)])
"""
import csv
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from core.errors import UserError
from core.files import written_whole

# "train" and "val" -> (image, alpha) paths, and the family where there is one
Split = dict[str, list[tuple[Path, Path] | tuple[Path, Path, str]]]


def hash_share(text: str) -> float:
    """A number in [0,1) that depends on the text alone: the same on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def split_by_name(pairs: Sequence[tuple[Path, Path]], val_share: float) -> Split:
    """Each pair's side by the name of its image, so that none changes sides when others come or go."""
    split = {"train": [], "val": []}
    for image, alpha in pairs:
        split["val" if hash_share(image.stem) < val_share else "train"].append((image, alpha))
    # A handful of pairs may all fall on one side; training needs both.
    for empty, full in (("val", "train"), ("train", "val")):
        if not split[empty] and len(split[full]) > 1:
            split[empty].append(split[full].pop())
    return split


def write_splits(root: Path, splits: Sequence[Split]) -> None:
    """The union of the splits as root/splits/train.csv and val.csv."""
    for side in ("train", "val"):
        rows = [row for split in splits for row in split[side]]
        if not rows:
            raise UserError(f"{root}/splits/{side}.csv: no pair is left for it; the sources need two pairs at least")
        write_pairs_csv(root / f"splits/{side}.csv", rows, root)


def write_pairs_csv(path: Path, rows: Sequence[tuple], root: Path) -> None:
    """A pairs CSV; what lies in `root` is written relative to the CSV's folder, so that `root` can be moved."""
    def text(file: Path) -> str:
        file = file.absolute()
        return os.path.relpath(file, path.parent.absolute()) if file.is_relative_to(root.absolute()) else str(file)

    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_path", "alpha_path", "family"])
        writer.writerows((text(image), text(alpha), *(family or [""])) for image, alpha, *family in rows)


def write_image(path: Path, image: np.ndarray, options: Sequence[int] = ()) -> None:
    """(H,W) or (H,W,3) uint8 in OpenCV's channel order."""
    with written_whole(path) as part:
        part.write_bytes(cv2.imencode(path.suffix, image, options)[1])
