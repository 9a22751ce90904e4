"""Finds a competition's sample submission, test images and training pairs among its files.

    images, sample = find_test_images(folder)
"""
import csv
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.errors import OperationError, UserError
from imaging.images import SUFFIXES, TEST_SHAPE, is_readable, read_shape
from submission.check import as_stems, bare_name
from submission.submission_csv import read_hosted

COLUMNS = ("image_path", "alpha_path")
ROLE = re.compile(r"(?<![A-Za-z])(?i:train|test)|Train|Test")
LOOKS = 5  # images per folder whose sizes are read if the names do not decide

Images = dict[Path, list[Path]]  # by their folder


def find_samples(folder: Path) -> dict[Path, list[str]]:
    """The sample submissions in any folder, and the names that each lists. Unreadable files are skipped."""
    found = {}
    for path in sorted(folder.rglob("*.csv")):
        if sample_kind(path):
            try:
                found[path] = [name for _, name, _ in read_hosted(path)]
            except (UserError, OSError):
                continue
    return {path: names for path, names in found.items() if names}


def sample_kind(path: Path) -> str | None:
    """`sample` or `example`, from the file's name; None if it is not a sample submission."""
    name = path.stem.lower()
    kind = re.search("sample|example", name)
    # sample_submission, sampleSubmission, stage1_sample_submission, submission_example, sample_sub, stage1_sample …
    return kind[0] if kind and re.search(r"subm|sub(?![a-z])|stage\d*_(sample|example)$", name) else None


def find_test_images(folder: Path) -> tuple[list[Path], Path | None]:
    """(the images of one folder, the sample submission that names them, if any).

    Decided by names, first those in a sample submission, then those of the folders. Image sizes are read only if
    several folders remain. OperationError lists the folders if that does not decide either.
    """
    images, samples = list_by_folder(folder), find_samples(folder)
    named = {place: sample for sample in reversed(samples) for place in images if agree(samples[sample], images[place])}
    others = [place for place in images if role(place.relative_to(folder)) != "train"]
    places = narrowed(named or {place: images[place] for place in others}, images, folder)
    if len(places) != 1:
        seen = ", ".join(f"{place.relative_to(folder)} ({len(images[place])})" for place in places or images) or "none"
        raise OperationError(f"{folder}: cannot tell which folder holds the test images; folders of images: {seen}; "
                             "copy the right one to data.test_dir yourself")
    place, sample = places[0], named.get(places[0])
    if samples and not sample:
        print(f"note    {next(iter(samples))} does not match the images in {place}; using natural order")
    return images[place], sample


def list_by_folder(folder: Path) -> Images:
    """All images, judged by suffix alone, sorted by name."""
    found = {}
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        images = [name for name in sorted(names) if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")]
        if images:
            found[Path(place)] = [Path(place, name) for name in images]
    return found


def agree(names: Sequence[str], paths: Sequence[Path]) -> bool:
    """Whether these are the images that a sample submission names. Other files count only if they are readable."""
    if len(paths) < len(names):
        return False
    known = {*names, *map(bare_name, names)}
    named = {path.stem for path in paths} & known
    if set(as_stems(names, named)) != named:
        return False
    return not any(is_readable(path) for path in paths if path.stem not in known)


def narrowed(places: Mapping[Path, object], images: Images, folder: Path) -> list[Path]:
    """The folders that look most like a test set. Each question is asked only while several remain."""
    questions = (lambda place: role(place.relative_to(folder)) != "train",
                 lambda place: role(place.relative_to(folder)) == "test",
                 lambda place: mostly_test_size(images[place]),
                 lambda place: "orig" in str(place.relative_to(folder)).lower())
    remaining = list(places)
    for question in questions:
        if len(remaining) > 1:
            remaining = [place for place in remaining if question(place)] or remaining
    return remaining


def role(place: Path) -> str | None:
    """`train` or `test`, from the innermost folder whose name contains just one of the two words."""
    for part in reversed(place.parts):
        words = {word.lower() for word in ROLE.findall(part)}
        if len(words) == 1:
            return words.pop()
    return None


def mostly_test_size(paths: Sequence[Path]) -> bool:
    """Whether most of a few sampled images have the competition's size; unreadable ones are skipped."""
    looked_at = filter(is_readable, paths[::max(1, len(paths) // LOOKS)][:LOOKS])
    fitting = [read_shape(path) == TEST_SHAPE for path in looked_at]
    return 2 * sum(fitting) > len(fitting)


def pairs_tables(folder: Path) -> list[Path]:
    """The pairs CSVs (image_path,alpha_path) in the folder."""
    def columns(path: Path) -> set[str]:
        try:
            with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
                return set(csv.DictReader(file).fieldnames or ())
        except (OSError, csv.Error):  # e.g. no permission to read
            return set()

    return [path for path in sorted(folder.rglob("*.csv")) if set(COLUMNS) <= columns(path)]


def find_pairs(*folders: Path) -> list[tuple[Path, Path]]:
    """The rows of the first pairs CSV in the folders. OperationError if a row points outside of them."""
    homes = [folder.resolve() for folder in folders]
    for path in [path for folder in folders for path in pairs_tables(folder)][:1]:
        try:
            with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
                pairs = [tuple(path.parent / (row[column] or "") for column in COLUMNS) for row in csv.DictReader(file)]
        except csv.Error as error:
            raise OperationError(f"{path}: cannot be read as a CSV ({error})") from None
        for file in itertools.chain.from_iterable(pairs):
            if not any(map(file.resolve().is_relative_to, homes)) or not file.is_file():
                raise OperationError(f"{path}: names {file}, which is not among the competition's files")
        return pairs
    return []
