"""Candidates for post-processing, fitted and measured on predictions."""
from collections.abc import Sequence

import numpy as np

from inference.postprocess import (
    NONE,
    ORIGINAL,
    Setting,
    apply,
    calibration_table,
    correction_table,
    fit_affine,
    fit_correction,
    fit_gamma,
)
from inference.predictor import Prediction
from training import metrics
from tuning.measuring import in_threads, truths
from tuning.nested import Division

THE_ORIGINAL = "the original's components"

GRIDS = {
    THE_ORIGINAL: [ORIGINAL],
    "components": [Setting("components", {**ORIGINAL.parameters, "support": support, "rest": rest})
                   for support in (0.2, 0.3, 0.4) for rest in ("zero", "background")],
    "guided filter": [Setting("guided", {"radius": radius, "eps": eps})
                      for radius in (4, 12, 36) for eps in (1e-4, 1e-3, 1e-2, 1e-1)],
    "snap to 0": [Setting("snap", {"to": "zero", "tolerance": t}) for t in (0.01, 0.02, 0.05)],
    # What near-binary alphas would need; measured by itself, since a search would choose its weakest form.
    "whole background to 0": [Setting("snap", {"to": "zero", "tolerance": 0.2})],
    "snap to background": [Setting("snap", {"to": "background", "tolerance": t}) for t in (0.01, 0.02, 0.05, 0.1)],
}
FITTED = ("affine", "gamma", "correction")
EVERYWHERE = frozenset()


class PostProcessing:
    """The candidates of GRIDS and FITTED on one set of predictions, as nested.Candidates.

    Each fit is made without no part, without each part and without each two, and measured on the images that it did
    without.
    """
    names = (*GRIDS, *FITTED)

    def __init__(self, samples: Sequence[tuple], preds: Sequence[Prediction], metric: str, division: Division):
        """samples[i]: (rgb, alpha, target); metric: val_mse or val_mse_dense, whose truth decides."""
        self.division = division
        tables = in_threads(lambda i: fitting_tables(samples[i], preds[i], metric), len(preds), "fitting")
        calibration, correction = map(np.stack, zip(*tables, strict=True))
        self.settings, self.rows = [NONE], {}  # rows: (name, parts that its fit did without) -> indices of its settings
        for name, settings in GRIDS.items():
            self._add(name, EVERYWHERE, settings)
        for without in division.left_out:
            kept = division.outside(without)
            for name, setting in fitted(calibration[kept].mean(0), correction[kept].mean(0)).items():
                self._add(name, without, [setting])
        self.errors = self._measured(samples, preds, metric)  # (2, settings, images): against both truths, see truths()

    def _add(self, name: str, without: frozenset[int], settings: Sequence[Setting]) -> None:
        self.rows[name, without] = range(len(self.settings), len(self.settings) + len(settings))
        self.settings += settings

    def _measured(self, samples: Sequence[tuple], preds: Sequence[Prediction], metric: str) -> np.ndarray:
        """NaN where an error is not needed: a fit is measured only on images that it did without."""
        needed = {part: [0, *(row for (name, without), rows in self.rows.items() for row in rows
                              if name in GRIDS or part in without)] for part in self.division.names}

        def measure(index: int) -> np.ndarray:
            sample, (alpha, dense) = samples[index], as_float(preds[index])
            found, true = np.full((2, len(self.settings)), np.nan), truths(sample, metric)
            for row in needed[self.division.parts[index]]:
                result = apply(self.settings[row], sample[0], dense, alpha)
                found[:, row] = [metrics.mse(result, each) for each in true]
            return found

        return np.stack(in_threads(measure, len(preds), "measuring"), axis=2)

    def _row(self, name: str, without: frozenset[int]) -> int:
        """The index of the candidate's best setting on the images outside the parts `without`."""
        if name in FITTED:
            return self.rows[name, without][0]
        rows = self.rows[name, EVERYWHERE]
        return min(rows, key=lambda row: self.errors[0, row, self.division.outside(without)].mean())

    def setting(self, name: str) -> Setting:
        """As fitted on all images."""
        return self.settings[self._row(name, EVERYWHERE)]

    def changes(self, name: str, without: frozenset[int], part: int) -> np.ndarray:
        here = self.division.parts == part
        return self.errors[0, self._row(name, without), here] - self.errors[0, 0, here]

    def before(self) -> np.ndarray:
        """(2,): the mean errors without post-processing, against both truths."""
        return self.errors[:, 0].mean(1)

    def after(self, name: str) -> np.ndarray:
        """(2,): the mean errors, each image's by the fit that did without its part."""
        rows = {part: self._row(name, frozenset({part})) for part in self.division.names}
        parts = self.division.parts.tolist()
        return np.mean([self.errors[:, rows[part], image] for image, part in enumerate(parts)], axis=0)


def fitted(calibration: np.ndarray, correction: np.ndarray) -> dict[str, Setting]:
    """The means of some images' tables -> FITTED."""
    return {"affine": fit_affine(calibration), "gamma": fit_gamma(calibration),
            "correction": fit_correction(correction)}


def fitting_tables(sample: tuple, pred: Prediction, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """What the fits need of an image."""
    (alpha, dense), true = as_float(pred), truths(sample, metric)[0]
    return calibration_table(dense, true), correction_table(dense, sample[0], alpha, true)


def as_float(pred: Prediction) -> tuple[np.ndarray, np.ndarray]:
    return tuple(each.astype(np.float32) for each in pred)
