"""Validates a submission (names and sizes against the test set) and scores it against a solution.

    validate("submission.csv", ["1", "2"], (1024, 1024))     # -> 2 rows
    score("submission.csv", "solution.csv")                  # -> MSE on [0,1]
"""
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from core.errors import UserError
from imaging.images import is_readable, natural_key
from submission.submission_csv import decode_row, read_alphas, read_hosted, read_rows


def validate(path: str | Path, names: Sequence[str],
             size: tuple[int, int] | Mapping[str, tuple[int, int]] | None) -> int:
    """Checks a submission against the test set's names and sizes -> number of rows.

    size: (H,W), one for all or by name; None if unknown. UserError names the first wrong row.
    """
    expected, seen = set(names), set()
    for line, name, alpha in read_alphas(path):
        if name in seen:
            raise UserError(f"{path} line {line}: {name} is there twice")
        if name not in expected:
            raise UserError(f"{path} line {line}: {name} is not a test image; names must have no extension")
        shape = size[name] if isinstance(size, Mapping) else size or alpha.shape
        if alpha.shape != tuple(shape):
            raise UserError(f"{path} line {line} ({name}): is {alpha.shape[1]}×{alpha.shape[0]} instead of "
                            f"{shape[1]}×{shape[0]}")
        seen.add(name)
    missing = sorted(expected - seen, key=natural_key)
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(expected)} test images are missing ({', '.join(missing[:3])}"
                        f"{', …' if len(missing) > 3 else ''}); run `make infer` again")
    return len(seen)


def score(path: str | Path, solution_path: str | Path) -> float:
    """MSE on [0,1], the mean over the solution's images. Rows may be in any order."""
    errors = [np.mean((pred.astype(np.float32) - true) ** 2, dtype=np.float64)
              for _, pred, true in matched_alphas(path, solution_path)]
    return float(np.mean(errors)) / 255**2


def baselines(solution_path: str | Path) -> dict[str, float]:
    """MSE on [0,1] of two predictions without a model: `zero` everywhere and the best `constant`."""
    moments = np.array([(np.mean(true, dtype=np.float64), np.mean(np.square(true, dtype=np.float64)))
                        for _, _, true in read_alphas(solution_path, read_hosted)])
    mean, square = moments.mean(0) / (255, 255**2)
    return {"zero": float(square), "constant": float(square - mean**2)}


def matched_alphas(path: str | Path, solution_path: str | Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(filename, pred, true) uint8 (H,W) of each image; keeps only rows whose partner is still to come."""
    files = (path, solution_path)
    waiting = ({}, {})
    for rows in itertools.zip_longest(read_rows(path), _solution_rows(solution_path, path)):
        for side, row in enumerate(rows):
            if row is None:
                continue
            line, name, text = row
            if name in waiting[side]:
                raise UserError(f"{files[side]} line {line}: {name} is there twice")
            waiting[side][name] = text
            if name in waiting[1 - side]:
                pred, true = (decode_row(waiting[i].pop(name), f"{files[i]} ({name})") for i in (0, 1))
                if pred.shape != true.shape:
                    raise UserError(f"{path} ({name}): is {pred.shape[1]}×{pred.shape[0]}, "
                                    f"but in {solution_path} {true.shape[1]}×{true.shape[0]}")
                yield name, pred, true
    for side in (0, 1):
        if waiting[side]:
            raise UserError(f"{files[1 - side]}: has no row {next(iter(waiting[side]))}, which {files[side]} has")


def _solution_rows(solution_path: str | Path, path: str | Path) -> Iterator[tuple[int, str, str]]:
    """The solution's rows, with names spelt as in the submission."""
    listed = [name for _, name, _ in read_hosted(solution_path)]
    own = {name for _, name, _ in read_rows(path)} if any(Path(name).suffix for name in listed) else listed
    for (line, _, text), name in zip(read_hosted(solution_path), as_stems(listed, own), strict=True):
        yield line, name, text


def in_sample_order(paths: Sequence[Path], sample: Path) -> list[Path]:
    """The test images in the order of the sample submission. UserError if the two differ.

    A file that it does not name and that cannot be read as an image is left out.
    """
    listed = [name for _, name, _ in read_hosted(sample)]
    known = {*listed, *map(bare_name, listed)}
    by_name = {path.stem: path for path in paths if path.stem in known or is_readable(path)}
    for path in (path for path in paths if path.stem not in by_name):
        print(f"note    {path} is not in {sample} and cannot be read as an image: left out")
    names = as_stems(listed, by_name)
    if set(names) != set(by_name) or len(names) != len(by_name):
        raise UserError(f"{sample}: its names differ from those in {paths[0].parent} ({_difference(names, by_name)}); "
                        "correct data.sample_submission or infer.images")
    if names != listed:
        print(f"note    {sample} lists {listed[0]}; the submission calls it {names[0]}, without extension")
    return [by_name[name] for name in names]


def _difference(names: Sequence[str], stems: Collection[str]) -> str:
    """What is wrong with the names of a sample submission, in a few words."""
    parts = []
    for missing, what in ((set(names) - set(stems), "listed, but no image"), (set(stems) - set(names), "not listed")):
        if missing:
            first = sorted(missing, key=natural_key)[:3]
            more = f" and {len(missing) - len(first)} more" if len(missing) > len(first) else ""
            parts.append(f"{', '.join(first)}{more}: {what}")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    return "; ".join(parts) or f"{twice} is listed twice"


def as_stems(names: Sequence[str], stems: Collection[str]) -> list[str]:
    """`names` as `stems` spells them: without folder and extension if only then the two sets are equal."""
    bare = [bare_name(name) for name in names]
    if len(set(bare)) == len(names) and set(bare) == set(stems) != set(names):
        return bare
    return list(names)


def bare_name(name: str) -> str:
    """`test/001.png`, also as Windows writes it -> `001`."""
    return Path(name.replace("\\", "/")).stem
