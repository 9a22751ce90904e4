"""A run's files -> the numbers and charts of its report: pure functions.

Histograms are (256,) pixel counts per 8-bit level; rows are validation.json's `images`, one dict per image.
"""
import numpy as np
import pandas as pd

from core.config import Config, select_metric
from imaging.pairs import pairs_source
from reporting import charts

WORST = 10           # validation images in the table
BINS, CALIBRATION_BINS = 64, 20
SOFT = (0.05, 0.95)  # alphas between these are half-tones


def collect(cfg: Config, run: dict) -> dict:
    """All values on the page that follow from the run folder's numbers; run: as read_run() returns it."""
    metric, validation = select_metric(cfg), run["validation"]
    rows, epoch = validation["images"], validation["epoch"]
    counts = {name: np.array(values, np.float64) for name, values in validation["histograms"].items()}
    truth = "target" if metric == "val_mse_dense" else "alpha"
    if truth == "alpha":
        counts["pred"] = counts.get("pred_alpha", counts["pred"])  # runs of older versions have only one
    levels = run["levels"] if truth == "target" else trivial_levels(counts["alpha"])
    values = {name: float(np.mean([row[name] for row in rows])) for name in ("val_mse", "val_mse_dense")}
    dense_counts = np.array(validation["histograms"]["pred"], np.float64)
    calibrated = calibration(dense_counts, np.array(validation["target_sums"]))
    shares = {name: bin_shares(counts[name]) for name in (truth, "pred", *({"alpha", "target"} - {truth}))}
    ranked = sorted(rows, key=lambda row: -row[metric])
    return {
        "run": cfg.train.out_dir.resolve().name, "cfg": cfg, "metric": metric, "dense": truth == "target",
        "epoch": epoch, "images": len(rows), "train_source": pairs_source(cfg, "train"),
        "val_source": pairs_source(cfg, "val"), "truth": truth, **values, "value": values[metric], "levels": levels,
        "covered": covered(values[metric], levels), **training_charts(run["history"], levels, epoch),
        "histogram_chart": charts.histogram(shares, "Share of the pixels per alpha, true and predicted"),
        "calibration_chart": charts.calibration(calibrated["bins"], "Mean true alpha over predicted alpha"),
        "calibration": calibrated, "overlap": float(np.minimum(shares[truth], shares["pred"]).sum()),
        "softness": {name: softness(values) for name, values in counts.items()},
        "worst": shares_of_error(ranked, metric)[:WORST], "families": families(rows, metric),
    }


def training_charts(history: pd.DataFrame, levels: dict[str, float], best: int) -> dict:
    """history: metrics.csv; best: an epoch. The last epoch and the charts over the epochs."""
    epochs = history["epoch"].astype(int).tolist()
    names = {"floor": "floor", "constant": "constant", "official_composed": "official alpha composed"}
    marks = {f"{word} {levels[name]:.4f}": levels[name] for name, word in names.items() if name in levels}
    errors = history[["train_mse", "val_mse", "val_mse_dense"]]
    terms = history.filter(regex="^loss_").rename(columns=lambda name: name.removeprefix("loss_"))
    count = len(epochs)
    return {"epochs": epochs[-1],
            "error_chart": charts.lines(errors.to_dict("list"), epochs, marks, best,
                                        f"Mean squared errors over {count} epochs"),
            "loss_chart": charts.lines(terms.to_dict("list"), epochs, {}, best, f"Loss terms over {count} epochs")}


def covered(value: float, levels: dict[str, float]) -> float:
    """How far `value` is on the way from the best constant (0) to the floor (1); negative: worse than the constant."""
    return (levels["constant"] - value) / max(levels["constant"] - levels["floor"], 1e-9)


def trivial_levels(counts: np.ndarray) -> dict[str, float]:
    """The file's alpha's histogram -> MSE of the best constant and of all zero; its floor is 0."""
    levels = np.arange(256) / 255
    mean, square = np.average(levels, weights=counts), np.average(levels**2, weights=counts)
    return {"floor": 0.0, "constant": float(square - mean**2), "zero": float(square)}


def bin_shares(counts: np.ndarray) -> np.ndarray:
    """(256,) pixels per level -> (BINS,) shares of all pixels."""
    return counts.reshape(BINS, -1).sum(1) / counts.sum()


def softness(counts: np.ndarray) -> dict[str, float]:
    """(256,) pixels per level -> share of half-tones, and the levels below which 1, 50 and 99 % of the pixels are."""
    levels, below = np.arange(256) / 255, counts.cumsum() / counts.sum()
    soft = counts[(levels > SOFT[0]) & (levels < SOFT[1])].sum() / counts.sum()
    return {"soft": float(soft), **{f"q{q}": float(levels[np.searchsorted(below, q / 100)]) for q in (1, 50, 99)}}


def calibration(counts: np.ndarray, target_sums: np.ndarray) -> dict:
    """(256,) pixels and sums of the target per predicted level -> `bins` (pred, true, share) and `gain`.

    gain: how much the MSE would fall if each predicted level were replaced by the mean target of its pixels.
    """
    levels, total = np.arange(256) / 255, counts.sum()
    bins = []
    for part in np.array_split(np.arange(256), CALIBRATION_BINS):
        pixels = counts[part].sum()
        if pixels:
            bins.append({"pred": float(levels[part] @ counts[part] / pixels),
                         "true": float(target_sums[part].sum() / pixels), "share": float(pixels / total)})
    seen = counts > 0
    gaps = target_sums[seen] / counts[seen] - levels[seen]
    return {"bins": bins, "gain": float(gaps**2 @ counts[seen] / total)}


def shares_of_error(rows: list[dict], metric: str) -> list[dict]:
    """Each row plus its `value` of the metric and its `share` of the sum."""
    total = sum(row[metric] for row in rows) or 1.0
    return [{**row, "value": row[metric], "share": row[metric] / total} for row in rows]


def families(rows: list[dict], metric: str) -> list[dict]:
    """Each family's images, mean metric and share of the error, the worst first; empty if the CSV names no families."""
    names = [row.get("family") or "(none)" for row in rows]
    if set(names) == {"(none)"}:
        return []
    grouped = pd.DataFrame(shares_of_error(rows, metric)).assign(family=names).groupby("family", sort=False)
    table = grouped.agg(images=("value", "size"), value=("value", "mean"), share=("share", "sum"))
    return table.sort_values("value", ascending=False, kind="stable").reset_index().to_dict("records")


def ranks(errors: list[float]) -> dict[int, str]:
    """index -> Best, Median or Worst; no median of two."""
    ranked = sorted(range(len(errors)), key=errors.__getitem__)
    median = {ranked[len(ranked) // 2]: "Median"} if len(ranked) > 2 else {}
    return {ranked[0]: "Best", **median, ranked[-1]: "Worst"}
