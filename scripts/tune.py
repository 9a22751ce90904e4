"""Does another input size or any post-processing lower a run's MSE? Fitted on half of its validation set, judged on the
other half.

    python scripts/tune.py train.out_dir=outputs/u2netp

First the size at which the network sees the images, alone and with detail from tiles; then, at the chosen size, the
post-processing. Writes postprocess.yaml, sizes.png and tune.png into the run folder; `infer.postprocess=tuned` applies
what was chosen. A candidate is accepted only if the 95 % interval of its change of MSE, on the images that it was not
fitted on, is below zero.
"""
import sys
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np
from matplotlib.figure import Figure
from torch.utils.data import DataLoader
from tqdm import tqdm

from core import checkpoint, cli
from core.config import Config, select_metric, with_infer
from core.files import written_whole
from core.outputs import check_folder, may_write
from core.seeds import Purpose, generator
from dataset import ValidationSet
from imaging.pairs import configured_pairs, pairs_source
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
from inference.prediction import Prediction
from inference.predictor import Loaded, Predictor, load_model, single_predictor
from inference.tuned import NOT_TUNED, Tuned, save_tuned, tuned_path
from inference.weights import run_with_weights
from reporting.intervals import intervals
from training import metrics

FEWEST = 4  # validation images
LOOKED_AT = 20  # validation images, to see how large they are
TRUTHS = {"val_mse_dense": "dense target", "val_mse": "file's alpha"}
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


SIZES = (256, 320, 384, 512, 768, 1024)  # longer side of the network's input, pixels
TILED = (320, 512)  # also with tiles of this size at native resolution


class Way(NamedTuple):
    """How the network sees the images."""
    size: int
    tile_over: int | None

    def __str__(self) -> str:
        return f"{self.size} px" + (f", tiles over {self.tile_over} px" if self.tile_over else "")


class Measured(NamedTuple):
    """One way on the images."""
    way: Way
    errors: np.ndarray  # (images,) MSE against the truth that decides
    seconds: float      # per image, in the network


@dataclass(frozen=True)
class Result:
    """One candidate on the images that it was not fitted on; a change is after minus before: negative is better."""
    candidate: str
    setting: Setting
    before: tuple[float, float]  # mean MSE against the truth that decides, and against the other one
    after: tuple[float, float]
    change: float                # against the truth that decides, with its interval:
    low: float
    high: float
    fit_change: float            # the change on the half that it was fitted on
    swapped: float               # the change with the halves swapped: is the finding stable?

    @property
    def verdict(self) -> str:
        if self.low == self.high == 0:
            return "no effect"
        return "helps" if self.high < 0 else "hurts" if self.low > 0 else "no evidence"


def tune(cfg: Config) -> None:
    """cfg: the run's. Writes postprocess.yaml (even for "none"), sizes.png and tune.png beside its best checkpoint."""
    path = tuned_path(cfg)
    picture, metric = path.with_name("tune.png"), select_metric(cfg)
    sizes = path.with_name("sizes.png")
    check_folder(path.parent, "make it writable, or work on a copy of it")
    val_set = ValidationSet(configured_pairs(cfg, "val"), cfg)
    for target in (path, picture, sizes):
        may_write(target)
    identity = checkpoint.identity(cfg.infer.weights)  # first, because a running training may replace the file
    if len(val_set) < FEWEST:
        save_tuned(path, identity, NOT_TUNED, {"reason": f"{len(val_set)} validation images"})
        print(f"{pairs_source(cfg, 'val')}: {len(val_set)} images are too little evidence, at least {FEWEST} are "
              f"needed; chosen: none\n{path}")
        return
    loaded = load_model(cfg)
    print(f"val     {len(val_set)} images of {pairs_source(cfg, 'val')} with {cfg.infer.weights}")
    ways = [measure_way(cfg, loaded, way, val_set, metric) for way in ways_to_try(cfg, loaded.size, val_set)]
    print(table_of_ways(ways, cfg.seed))
    way = choose_way(ways, cfg.seed)
    save_ways(sizes, ways, f"{path.parent} · MSE against the {TRUTHS[metric]}")
    predict = predictor(cfg, loaded, way)
    print(f"{'same size' if way == ways[0].way else 'size'}    {predict.description}\n")
    results = search(val_set, predict_all(predict, val_set), metric, cfg.seed)
    print(table(results, metric, len(val_set)))
    setting, evidence = choose(results)
    other = way if way != ways[0].way else Way(None, None)
    save_tuned(path, identity, Tuned(setting, *other), {"decided_by": metric, **evidence})
    save_intervals(picture, results, f"{path.parent} · MSE against the {TRUTHS[metric]}")
    use = "" if setting == NONE and other.size is None else "; infer.postprocess=tuned applies it"
    print(f"chosen: {way}, {setting}{use}\n{path}\n{sizes}\n{picture}")


def ways_to_try(cfg: Config, size: int, val_set: ValidationSet) -> list[Way]:
    """The present way first. Sizes beyond the largest image, and tiles not smaller than it, would change nothing."""
    present = Way(size, cfg.infer.tile_over)
    largest = max(max(rgb.shape) for rgb, _, _ in (val_set[i] for i in range(min(LOOKED_AT, len(val_set)))))
    ways = [*(Way(size, cfg.infer.tile_over) for size in SIZES if size <= largest),
            *(Way(size, size) for size in TILED if size < largest)]
    return [present, *(way for way in ways if way != present)]


def predictor(cfg: Config, loaded: Loaded, way: Way) -> Predictor:
    return single_predictor(with_infer(cfg, tile_over=way.tile_over), loaded._replace(size=way.size))


def measure_way(cfg: Config, loaded: Loaded, way: Way, val_set: ValidationSet, metric: str) -> Measured:
    predict = predictor(cfg, loaded, way)
    loader = DataLoader(val_set, predict.batch_size, collate_fn=list)
    errors = [metrics.mse(pred, truths(sample, metric)[0])
              for batch in tqdm(loader, str(way), disable=None, leave=False)
              for sample, pred in zip(batch, predict([rgb for rgb, _, _ in batch]), strict=True)]
    return Measured(way, np.array(errors), predict.seconds / len(val_set))


def choose_way(ways: Sequence[Measured], seed: int) -> Way:
    """The best on one half of the images, if it is better on the other half than the present way, the first; else that.
    """
    fit, held = halves(len(ways[0].errors), seed)
    best = min(ways, key=lambda measured: measured.errors[fit].mean())
    _, highs = intervals((best.errors - ways[0].errors)[held][None], seed)
    return best.way if highs[0] < 0 else ways[0].way


def table_of_ways(ways: Sequence[Measured], seed: int) -> str:
    """Over all images, with the interval of the change against the first."""
    lows, highs = intervals(np.stack([measured.errors - ways[0].errors for measured in ways]), seed)
    lines = [f"{'input':30}{'MSE':>9}{'change':>10}  {'95 % interval':20}{'s/image':>9}"]
    return "\n".join(lines + [
        f"{way!s:30}{errors.mean():9.5f}{(errors - ways[0].errors).mean():+10.5f}  "
        f"{f'{low:+.5f} … {high:+.5f}':20}{seconds:9.3f}"
        for (way, errors, seconds), low, high in zip(ways, lows, highs, strict=True)])


def save_ways(path: Path, ways: Sequence[Measured], title: str) -> None:
    """MSE over seconds per image, one point per way."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for number, (way, errors, seconds) in enumerate(ways):
        axes.plot(seconds, errors.mean(), "s" if way.size == way.tile_over else "o",
                  color="tab:green" if number == 0 else "tab:blue")
        axes.annotate(f"{way}{' (present)' if number == 0 else ''}", (seconds, errors.mean()), xytext=(6, 4),
                      textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_ylim(0)
    axes.set(title=title, xlabel="seconds per image in the network", ylabel="MSE, all validation images")
    axes.grid(alpha=0.25)
    with written_whole(path) as part:
        figure.savefig(part, dpi=110)


def halves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images to fit on, and of those to judge on."""
    order = generator(seed, Purpose.TUNING, 0).permutation(count)
    return order[:count // 2], order[count // 2:]


def predict_all(predict: Predictor, val_set: ValidationSet) -> list[Prediction]:
    """Two (H,W) float16 per image: all that is kept in memory, 4 MB each at 1024²."""
    loader = DataLoader(val_set, predict.batch_size, collate_fn=list)
    return [Prediction(*(each.astype(np.float16) for each in pred))
            for batch in tqdm(loader, "predicting", disable=None, leave=False)
            for pred in predict.predictions([rgb for rgb, _, _ in batch])]


@dataclass(frozen=True)
class Errors:
    """The MSE of each setting on each image."""
    settings: list[Setting]
    values: np.ndarray  # (settings, 2, images): against the truth that decides, and against the other one

    def on(self, half: np.ndarray, setting: Setting) -> np.ndarray:
        """(2, images of the half)"""
        return self.values[self.settings.index(setting)][:, half]

    def means(self, half: np.ndarray, setting: Setting) -> tuple[float, float]:
        return tuple(self.on(half, setting).mean(1).tolist())

    def changes(self, half: np.ndarray, setting: Setting) -> np.ndarray:
        """(images of the half,): after minus before, against the truth that decides."""
        return (self.on(half, setting) - self.on(half, NONE))[0]

    def best(self, half: np.ndarray, candidates: dict[str, list[Setting]]) -> dict[str, Setting]:
        """For each candidate its setting with the lowest mean MSE."""
        return {name: min(settings, key=lambda setting: self.on(half, setting)[0].mean())
                for name, settings in candidates.items()}


def search(samples: Sequence[tuple], preds: Sequence[Prediction], metric: str, seed: int) -> list[Result]:
    """Every candidate, fitted on one half of the images and measured on the other. samples[i]: (rgb, alpha, target)."""
    fit, held = halves(len(preds), seed)
    tables, corrections = map(np.stack, zip(*in_threads(lambda i: fitting_tables(samples[i], preds[i], metric),
                                                        len(preds), "fitting"), strict=True))
    fitted, fitted_swapped = (
        {"affine": [fit_affine(tables[half].mean(0))], "gamma": [fit_gamma(tables[half].mean(0))],
         "correction": [fit_correction(corrections[half].mean(0))]} for half in (fit, held))
    errors = measure(samples, preds, metric, [NONE, *(setting for candidates in (GRIDS, fitted, fitted_swapped)
                                                      for settings in candidates.values() for setting in settings)])
    chosen, chosen_swapped = errors.best(fit, GRIDS | fitted), errors.best(held, GRIDS | fitted_swapped)
    lows, highs = intervals(np.stack([errors.changes(held, setting) for setting in chosen.values()]), seed)
    return [Result(name, setting, errors.means(held, NONE), errors.means(held, setting),
                   errors.changes(held, setting).mean(), low, high, errors.changes(fit, setting).mean(),
                   errors.changes(fit, chosen_swapped[name]).mean())
            for (name, setting), low, high in zip(chosen.items(), lows, highs, strict=True)]


def fitting_tables(sample: tuple, pred: Prediction, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """What the fits need of an image."""
    (alpha, dense), true = as_float(pred), truths(sample, metric)[0]
    return calibration_table(dense, true), correction_table(dense, sample[0], alpha, true)


def as_float(pred: Prediction) -> tuple[np.ndarray, np.ndarray]:
    return tuple(each.astype(np.float32) for each in pred)


def measure(samples: Sequence[tuple], preds: Sequence[Prediction], metric: str, settings: list[Setting]) -> Errors:
    def errors(index: int) -> list[list[float]]:
        sample, (alpha, dense) = samples[index], as_float(preds[index])
        results = (apply(setting, sample[0], dense, alpha) for setting in settings)
        return [[metrics.mse(result, true) for true in truths(sample, metric)] for result in results]

    return Errors(settings, np.array(in_threads(errors, len(preds), "measuring")).transpose(1, 2, 0))


def truths(sample: tuple, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The truth that decides, and the other one."""
    _, alpha, target = sample
    return (target, alpha) if metric == "val_mse_dense" else (alpha, target)


def in_threads(function, count: int, what: str) -> list:
    with ThreadPoolExecutor() as pool:  # OpenCV and NumPy release the GIL
        return list(tqdm(pool.map(function, range(count)), what, count, unit="image", disable=None, leave=False))


def choose(results: Sequence[Result]) -> tuple[Setting, dict]:
    """The accepted one that was best on the half it was fitted on, so that the other half's figures stay unbiased."""
    accepted = [result for result in results if result.verdict == "helps"]
    if not accepted:
        return NONE, {"reason": "no candidate's interval is below zero"}
    result = min(accepted, key=lambda result: result.fit_change)
    return result.setting, {"before": result.before[0], "after": result.after[0],
                            "interval": [float(result.low), float(result.high)]}


def table(results: Sequence[Result], metric: str, count: int) -> str:
    deciding, other = TRUTHS[metric], next(truth for name, truth in TRUTHS.items() if name != metric)
    before, before_other = results[0].before
    lines = [f"halves  {count // 2} images to fit and select, {count - count // 2} to judge; the latter's MSE before: "
             f"{before:.5f} against the {deciding}, which decides, {before_other:.5f} against the {other}", "",
             f"{'candidate':26}{'after':>8}{'change':>10}  {'95 % interval':20}{'swapped':>10}"
             f"{'after, ' + other:>20}  {'verdict':13}parameters"]
    lines += [f"{r.candidate:26}{r.after[0]:8.5f}{r.change:+10.5f}  {f'{r.low:+.5f} … {r.high:+.5f}':20}"
              f"{r.swapped:+10.5f}{r.after[1]:20.5f}  {r.verdict:13}{r.setting}" for r in results]
    original = next(result for result in results if result.candidate == THE_ORIGINAL)
    accepted = ", ".join(result.candidate for result in results if result.verdict == "helps") or "none"
    return "\n".join([*lines, "", f"{THE_ORIGINAL}: {original.verdict}", f"accepted: {accepted}"])


def save_intervals(path: Path, results: Sequence[Result], title: str) -> None:
    """One line per candidate: its change of the MSE in percent, with its interval."""
    colours = {"helps": "tab:green", "hurts": "tab:red", "no evidence": "tab:grey", "no effect": "tab:grey"}
    figure = Figure(figsize=(10, 0.5 * len(results) + 1.6), layout="constrained")
    axes = figure.subplots()
    for row, r in enumerate(results):
        low, mean, high = (100 * value / r.before[0] for value in (r.low, r.change, r.high))
        axes.plot([low, high], [row, row], color=colours[r.verdict], linewidth=3, solid_capstyle="butt")
        axes.plot(mean, row, "o", color=colours[r.verdict])
        axes.annotate(f"{r.verdict}, {mean:+.1f} %", (1.01, row), xycoords=("axes fraction", "data"), va="center",
                      color=colours[r.verdict])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1)  # some hurt a hundred times as much as others help
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(results)), [textwrap.fill(f"{r.candidate}: {r.setting}", 58) for r in results],
                    fontsize=8)
    axes.invert_yaxis()
    axes.set(title=title,
             xlabel="change on the half not fitted on, % of the MSE before (left is better); bar: 95 % interval")
    axes.grid(axis="x", alpha=0.25)
    with written_whole(path) as part:
        figure.savefig(part, dpi=110)


def main() -> None:
    args = cli.parse(__doc__)
    tune(run_with_weights(args.config, args.overrides))


if __name__ == "__main__":
    cli.run(main)
