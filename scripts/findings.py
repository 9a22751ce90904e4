"""What is what among a competition's files: its sample submission, its folder of test images, its training pairs.

    images = find_test_images(folder, find_sample(folder))
"""
import csv
import itertools
import re
from collections import defaultdict
from pathlib import Path

from cli import OperationError
from images import SUFFIXES, TEST_SHAPE, read_shape
from submission import read_rows

COLUMNS = ("image_path", "alpha_path")


def find_sample(folder: Path) -> Path | None:
    """The sample submission, wherever it lies."""
    return next((path for path in sorted(folder.rglob("*.csv")) if sample_kind(path)), None)


def sample_kind(path: Path) -> str | None:
    """`sample` or `example`, as the file's name says; None for another file."""
    match = re.fullmatch(r"(sample|example)_?submission.*\.csv", path.name.lower())
    return match and match[1]


def find_test_images(folder: Path, sample: Path | None,
                     shape: tuple[int, int] | None = TEST_SHAPE) -> list[Path]:
    """The images of one folder: the one with the sample submission's names, else the one called test.

    Images of another height and width than `shape` are left aside; None: all count.

    OperationError lists what is there when no folder, or more than one, is that.
    """
    by_folder = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and shape in (None, read_shape(path)):
            by_folder[path.parent].append(path)
    names = {name for _, name, _ in read_rows(sample)} if sample else None

    def fits(place: Path) -> bool:
        if names is not None:
            return {path.stem for path in by_folder[place]} == names
        return "train" not in str(place.relative_to(folder)).lower()

    def rank(place: Path) -> tuple[bool, bool]:
        words = str(place.relative_to(folder)).lower()
        return "orig" in words, "test" in words

    places = sorted(filter(fits, by_folder), key=rank, reverse=True)
    if not places or (len(places) > 1 and rank(places[0]) == rank(places[1])):
        seen = ", ".join(f"{place.relative_to(folder)} ({len(paths)})" for place, paths in by_folder.items()) or "none"
        size = f"{shape[1]}×{shape[0]} " if shape else ""
        raise OperationError(f"{folder}: cannot tell which folder holds the test images; folders of {size}images: "
                             f"{seen}; copy the right one to data.test_dir yourself")
    return by_folder[places[0]]


def pairs_tables(folder: Path) -> list[Path]:
    """The pairs CSVs (image_path,alpha_path) among the files."""
    def columns(path: Path) -> set[str]:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            return set(csv.DictReader(file).fieldnames or ())

    return [path for path in sorted(folder.rglob("*.csv")) if set(COLUMNS) <= columns(path)]


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The rows of the first pairs CSV. OperationError where one leads outside."""
    for path in pairs_tables(folder)[:1]:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            pairs = [tuple(path.parent / (row[column] or "") for column in COLUMNS) for row in csv.DictReader(file)]
        for file in itertools.chain.from_iterable(pairs):
            if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
                raise OperationError(f"{path}: names {file}, which is not among the competition's files")
        return pairs
    return []
