"""Blends submissions: the weighted mean of their alphas, row by row.

    blend({Path("a.csv"): 2, Path("b.csv"): 1}, Path("blend.csv"))      # -> number of rows

In memory are the names and one row of each file, however long the files are.
"""
import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core.errors import UserError
from core.outputs import check_file, may_write, no_input
from submission.submission_csv import SubmissionWriter, decode_row, read_rows


class RowsByName:
    """The rows of a submission in any order: knows where in the file each one begins."""

    def __init__(self, path: Path):
        """UserError names the first row that is wrong."""
        self.path, self.lines, self._places = path, {}, {}
        for line, name, _ in read_rows(path):
            if name in self.lines:
                raise UserError(f"{path} line {line}: {name} is there twice")
            self.lines[name] = line
        self._file, place = path.open("rb"), 0  # as bytes: a text file tells its place slowly
        for row in self._rows():
            self._places.update(dict.fromkeys(row[:1], place))
            place = self._file.tell()
        if not self.lines.keys() <= self._places.keys():
            raise UserError(f"{path}: its lines end in CR alone; save it again with LF or CR LF")

    def close(self) -> None:
        self._file.close()

    def _rows(self) -> Iterator[list[str]]:
        """From the file's place on, reading no line ahead."""
        return csv.reader(line.decode() for line in iter(self._file.readline, b""))

    def alpha(self, name: str) -> np.ndarray:
        """(H,W) uint8. UserError names the row if it cannot be decoded."""
        self._file.seek(self._places[name])
        _, text = next(row for row in self._rows() if row)
        return decode_row(text, self.where(name))

    def where(self, name: str) -> str:
        return f"{self.path} line {self.lines[name]} ({name})"


def blend(weights: Mapping[Path, float], target: Path) -> int:
    """Writes the mean of the submissions, weighted and rounded once, to `target`, in the first one's order -> rows.

    weights: of any sum > 0. UserError if names or sizes differ, or if `target` is one of the files or the user's own.
    """
    check_file(target, "out")
    no_input("out", target, weights)
    may_write(target)
    shares = np.array([*weights.values()]) / sum(weights.values())
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(contextlib.closing(RowsByName(path))) for path in weights]
        refuse_other_names(files)
        writer = stack.enter_context(SubmissionWriter(target))
        for name in tqdm(files[0].lines, "blending", unit="image", disable=None, leave=False):
            writer.write(name, mean_alpha(files, name, shares))
    return len(files[0].lines)


def refuse_other_names(files: Sequence[RowsByName]) -> None:
    first = files[0]
    for file in files[1:]:
        for one, other in ((first, file), (file, first)):
            missing = next((name for name in one.lines if name not in other.lines), None)
            if missing is not None:
                raise UserError(f"{other.path}: has no row {missing}, which {one.path} has; only submissions of the "
                                "same images can be blended")


def mean_alpha(files: Sequence[RowsByName], name: str, shares: np.ndarray) -> np.ndarray:
    """(H,W) float64 in [0,1]; shares sum to 1."""
    total = 0
    for file, share in zip(files, shares, strict=True):
        levels = file.alpha(name)
        if np.ndim(total) and levels.shape != total.shape:
            raise UserError(f"{file.where(name)}: is {levels.shape[1]}×{levels.shape[0]}, but in {files[0].path} "
                            f"{total.shape[1]}×{total.shape[0]}")
        total = total + share * levels
    return total / 255
