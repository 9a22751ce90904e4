"""Two or more runs -> what differs: settings, curves, and errors paired by image. Everything is against the first run.
"""
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from core.config import Config, flat, select_metric
from core.errors import UserError
from core.files import file_sha256
from imaging.pairs import Pair, configured_pairs, pairs_source
from reporting import charts
from reporting.intervals import intervals
from reporting.summary import trivial_levels

METRICS = ("val_mse_dense", "val_mse")
TRUTHS = {"val_mse_dense": "dense targets", "val_mse": "alphas"}
# What decides a truth beside its files, and which histogram of validation.json counts its pixels.
MAKES = {"val_mse_dense": ("seed", "data.size", "augment.xray"), "val_mse": ("data.size",)}
COUNTED = {"val_mse_dense": "target", "val_mse": "alpha"}
OWN = ("train.out_dir", "infer.weights", "infer.submission")  # differ between any two runs
FEWEST = 4    # images for an interval
LABEL = 14    # letters of a run's name beside a chart


@dataclass(frozen=True)
class Compared:
    """One of the runs. files: as read_run() returns them."""
    letter: str
    cfg: Config
    files: dict

    @property
    def folder(self) -> Path:
        return self.cfg.train.out_dir

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def label(self) -> str:
        """Short, and different for each run."""
        text = f"{self.letter} {self.name}"
        return text if len(text) <= LABEL else f"{text[:LABEL - 1]}…"

    @property
    def rows(self) -> list[dict]:
        return self.files["validation"]["images"]

    @property
    def images(self) -> list[str]:
        return [row["image"] for row in self.rows]

    @functools.cached_property  # reading them takes time and prints a line
    def pairs(self) -> tuple[list[Pair], str]:
        """The pairs that the run was validated on; if they can no longer be read, none, and the reason."""
        try:
            pairs = configured_pairs(self.cfg, "val")
        except UserError as error:
            return [], str(error)
        if [pair.image_path.name for pair in pairs] != self.images:
            return [], f"{pairs_source(self.cfg, 'val')} has changed since {self.folder} was validated"
        return pairs, ""

    def errors(self, metric: str) -> np.ndarray:
        """(images,)"""
        return np.array([row[metric] for row in self.rows])

    def levels(self, metric: str) -> dict[str, float]:
        """MSE of the floor, of the best constant and of all zero."""
        if metric == "val_mse_dense":
            return self.files["levels"]
        return trivial_levels(np.array(self.files["validation"]["histograms"]["alpha"], np.float64))


@dataclass(frozen=True)
class Change:
    """A run's MSE minus the first run's, over the images that both validated with the same truths."""
    pairs: list[tuple[int, int]]  # their indices in the first run and in this one
    mean: float                   # NaN without such images
    low: float                    # 95 % interval; NaN with fewer than FEWEST images
    high: float
    why: str                      # if not all images are paired: what differs

    @property
    def verdict(self) -> str:
        if math.isnan(self.low):
            return "too few images for an interval" if self.pairs else "not comparable"
        if self.low == self.high == 0:
            return "the same"
        return "better" if self.high < 0 else "worse" if self.low > 0 else "no evidence"


def settings(runs: Sequence[Compared]) -> dict[str, list[object]]:
    """Those that differ: key -> its value in each run."""
    values = [flat(run.cfg.model_dump(mode="json")) for run in runs]
    table = {key: [each.get(key) for each in values] for key in values[0] if key not in OWN}
    return {key: row for key, row in table.items() if any(value != row[0] for value in row)}


def curves(runs: Sequence[Compared], column: str) -> Markup:
    """A metrics.csv column of all runs over the epochs, with the levels to read it against."""
    histories = {run.label: run.files["history"].set_index("epoch")[column] for run in runs}
    table = pd.DataFrame({label: values[~values.index.duplicated(keep="last")] for label, values in histories.items()})
    return charts.lines(table.to_dict("list"), table.index.astype(int).tolist(), marks(runs, column), None,
                        f"{column} of {len(runs)} runs over {len(table)} epochs")


def marks(runs: Sequence[Compared], column: str) -> dict[str, float]:
    """Floor and constant; the first run's, and named so, if the runs' differ. train_mse is measured on crops: none."""
    if column not in METRICS:
        return {}
    every = [run.levels(column) for run in runs]
    shown = {name: every[0][name] for name in ("floor", "constant")}
    same = all(math.isclose(levels[name], shown[name], rel_tol=1e-3) for levels in every for name in shown)
    return {f"{'' if same else 'A '}{name} {value:.4f}": value for name, value in shown.items()}


def change(first: Compared, other: Compared, metric: str) -> Change:
    pairs = paired(first, other, metric)
    complete = len(pairs) == len(first.rows) == len(other.rows)
    why = "" if complete else difference(first, other, metric)
    if not pairs:
        return Change([], math.nan, math.nan, math.nan, why)
    a, b = np.array(pairs).T
    changes = other.errors(metric)[b] - first.errors(metric)[a]
    low, high = (float(end[0]) for end in intervals(changes[None], first.cfg.seed)) if len(pairs) >= FEWEST else (
        math.nan, math.nan)
    return Change(pairs, float(changes.mean()), low, high, why)


def paired(first: Compared, other: Compared, metric: str) -> list[tuple[int, int]]:
    """Indices of the images that both runs validated with the same truths.

    The same names and the same count of pixels per level of the truths: all of them. Otherwise the files decide.
    """
    counts = [run.files["validation"]["histograms"][COUNTED[metric]] for run in (first, other)]
    if first.images == other.images and counts[0] == counts[1]:
        return [(index, index) for index in range(len(first.images))]
    where = {key: index for index, key in enumerate(truth_keys(first, metric))}
    return [(where[key], index) for index, key in enumerate(truth_keys(other, metric)) if key in where]


def truth_keys(run: Compared, metric: str) -> list[tuple]:
    """For each validation image its name and what its truth is made from; none if the pairs can no longer be read."""
    pairs, _ = run.pairs
    made_with = repr([made(run.cfg, key) for key in MAKES[metric]])
    return [(pair.image_path.name, file_sha256(pair.image_path), file_sha256(pair.alpha_path), made_with,
             index if metric == "val_mse_dense" else 0) for index, pair in enumerate(pairs)]


def made(cfg: Config, key: str) -> object:
    """The value of a setting, or all values of a section."""
    values = cfg.model_dump(mode="json")
    for part in key.split("."):
        values = values[part]
    return values


def difference(first: Compared, other: Compared, metric: str) -> str:
    """In words: why not all images are paired."""
    keys = [key for key in MAKES[metric] if made(first.cfg, key) != made(other.cfg, key)]
    if keys:
        return f"validated with other {TRUTHS[metric]}: {', '.join(keys)} differ{'s' if len(keys) == 1 else ''}"
    gone = first.pairs[1] or other.pairs[1]
    return f"validated on pictures that can no longer be compared ({gone})" if gone else "validated on other pictures"


def deciding(runs: Sequence[Compared], changes: dict[str, list[Change]]) -> str:
    """The metric that the first run selected its checkpoint by, unless only the other one is comparable."""
    own = select_metric(runs[0].cfg)
    other = next(metric for metric in METRICS if metric != own)
    return own if in_all(changes[own]) or not in_all(changes[other]) else other


def in_all(changes: Sequence[Change]) -> list[tuple[int, ...]]:
    """The images that all runs have in common: their indices in each run."""
    common = [dict(change.pairs) for change in changes]
    return [(index, *(each[index] for each in common)) for index in sorted(set.intersection(*map(set, common)))]
