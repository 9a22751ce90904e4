"""Source competition: what Kaggle gives out for kaggle.competition, laid out as data/test_dataset/orig_1024.

    python scripts/get_data.py data.source=competition kaggle.competition=<slug>

The archive stays in data/competition/: a broken download goes on where it was, an unchanged one is not repeated.
"""
import csv
import itertools
import re
import shutil
from collections import defaultdict
from pathlib import Path

from tqdm import tqdm

from archive import unpack
from cli import OperationError, UserError, written_whole
from config import Config
from images import SUFFIXES, read_shape
from kaggle_client import read_kaggle
from pairs import Split, split_by_name
from submission import read_rows

TEST_SHAPE = (1024, 1024)  # height and width of the competition's test images


def fetch(cfg: Config) -> Split:
    """Downloads, unpacks, lays out the test images -> the training pairs among the competition's files, if any."""
    slug = cfg.kaggle.competition
    if slug is None:
        raise UserError("kaggle.competition is not set: give the last part of the competition's address, "
                        "kaggle.competition=<slug>, or take another source: SOURCE=magick, or SOURCE=synthetic, "
                        "which needs no network")
    if cfg.data.solution_csv.exists():
        raise UserError(f"{cfg.data.test_dir.parent}: holds a synthetic test set; remove it or change data.root")
    home = cfg.data.root / "competition"
    unpack(download(slug, home), home / slug)
    sample = find_sample(home / slug)
    images = find_test_images(home / slug, sample)
    lay_out(images, cfg.data.test_dir)
    if sample:
        copy(sample, cfg.data.test_dir.parent / f"{sample_kind(sample)}_submission.csv")
    split = split_by_name(find_pairs(home / slug), cfg.data.val_share)
    beside = f"with {sample.name}" if sample else "no sample submission"
    found = (f"{len(split['train'])} training and {len(split['val'])} validation pairs" if split["train"] else
             "no training pairs among the competition's files; magick or csv brings some")
    print(f"{cfg.data.test_dir}: {len(images)} test images, {beside}; {found}")
    return split


def download(slug: str, folder: Path) -> Path:
    """The competition's archive, fetched by the Kaggle client, which resumes what was interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{slug}.zip"
    with tqdm(desc=archive.name, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        def progress():
            size = archive.stat().st_size if archive.exists() else 0
            bar.update(size - bar.n)
            return size

        read_kaggle("competitions", "download", slug, "--path", str(folder), "--quiet", progress=progress)
    if not archive.exists():
        raise OperationError(f"{folder}: the Kaggle client left no {archive.name} there")
    return archive


def find_sample(folder: Path) -> Path | None:
    """The sample submission, wherever it lies."""
    return next((path for path in sorted(folder.rglob("*.csv")) if sample_kind(path)), None)


def sample_kind(path: Path) -> str | None:
    """`sample` or `example`, as the file's name says; None for another file."""
    match = re.fullmatch(r"(sample|example)_?submission.*\.csv", path.name.lower())
    return match and match[1]


def find_test_images(folder: Path, sample: Path | None) -> list[Path]:
    """The 1024×1024 images of one folder: the one with the sample submission's names, else the one called test.

    OperationError lists what is there when no folder, or more than one, is that.
    """
    by_folder = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and read_shape(path) == TEST_SHAPE:
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
        raise OperationError(f"{folder}: cannot tell which folder holds the test images; folders of 1024×1024 images: "
                             f"{seen}; copy the right one to data.test_dir yourself")
    return by_folder[places[0]]


def lay_out(images: list[Path], test_dir: Path) -> None:
    """Copies of the images as `test_dir`, which appears whole. UserError where other images would be lost."""
    foreign = {path.name for path in test_dir.glob("*")} - {path.name for path in images}
    if foreign:
        raise UserError(f"{test_dir / min(foreign)}: is not of this competition; move it or choose another data.root")
    part = test_dir.with_name(f".{test_dir.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path in images:
        shutil.copyfile(path, part / path.name)
    shutil.rmtree(test_dir, ignore_errors=True)
    part.rename(test_dir)


def copy(source: Path, target: Path) -> None:
    with written_whole(target) as part:
        shutil.copyfile(source, part)


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The rows of a pairs CSV (image_path,alpha_path) among the files. OperationError where one leads outside."""
    columns = ("image_path", "alpha_path")
    for path in sorted(folder.rglob("*.csv")):
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file)
            if not set(columns) <= set(reader.fieldnames or ()):
                continue
            pairs = [tuple(path.parent / (row[column] or "") for column in columns) for row in reader]
        for file in itertools.chain.from_iterable(pairs):
            if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
                raise OperationError(f"{path}: names {file}, which is not among the competition's files")
        return pairs
    return []
