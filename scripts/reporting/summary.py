"""What a run's files say, as numbers and charts for its report: pure functions of the validation's records.

Histograms are (256,) pixel counts per 8-bit level; rows are validation.json's `images`, one dict per image.
"""
import numpy as np

from core.config import Config, select_metric
from reporting import charts

WORST = 10           # validation images in the table
BINS, CALIBRATION_BINS = 64, 20
SOFT = (0.05, 0.95)  # alphas between these are half-tones


def collect(cfg: Config, run: dict) -> dict:
    """Everything on the page that follows from the run folder's numbers."""
    metric, history, validation = select_metric(cfg), run["history"], run["validation"]
    rows, epoch = validation["images"], validation["epoch"]
    counts = {name: np.array(values, np.float64) for name, values in validation["histograms"].items()}
    truth = "target" if metric == "val_mse_dense" else "alpha"
    levels = run["levels"] if truth == "target" else trivial_levels(counts["alpha"])
    values = {name: float(np.mean([row[name] for row in rows])) for name in ("val_mse", "val_mse_dense")}
    terms = [name for name in history[0] if name.startswith("loss_")]
    epochs = [int(row["epoch"]) for row in history]

    def columns(names):
        return {name.removeprefix("loss_"): [row[name] for row in history] for name in names}

    calibrated = calibration(counts["pred"], np.array(validation["target_sums"]))
    shares = {name: bin_shares(counts[name]) for name in (truth, "pred", *({"alpha", "target"} - {truth}))}
    ranked = sorted(rows, key=lambda row: -row[metric])
    return {
        "run": cfg.train.out_dir.resolve().name, "cfg": cfg, "metric": metric, "dense": truth == "target",
        "epoch": epoch, "epochs": epochs[-1], "images": len(rows), "truth": truth, **values,
        "value": values[metric], "levels": levels, "covered": covered(values[metric], levels),
        "error_chart": charts.lines(columns(("train_mse", "val_mse", "val_mse_dense")), epochs,
                                    {f"{name} {levels[name]:.4f}": levels[name] for name in ("floor", "constant")},
                                    epoch,
                                    f"Mean squared errors over {len(epochs)} epochs"),
        "loss_chart": charts.lines(columns(terms), epochs, {}, epoch, f"Loss terms over {len(epochs)} epochs"),
        "histogram_chart": charts.histogram(shares, "Share of the pixels per alpha, true and predicted"),
        "calibration_chart": charts.calibration(calibrated["bins"], "Mean true alpha over predicted alpha"),
        "calibration": calibrated, "overlap": float(np.minimum(shares[truth], shares["pred"]).sum()),
        "softness": {name: softness(values) for name, values in counts.items()},
        "worst": shares_of_error(ranked, metric)[:WORST], "families": families(rows, metric),
    }


def covered(value: float, levels: dict[str, float]) -> float:
    """How far value has come from the best constant (0) to the floor (1); negative: worse than the constant."""
    return (levels["constant"] - value) / max(levels["constant"] - levels["floor"], 1e-9)


def trivial_levels(counts: np.ndarray) -> dict[str, float]:
    """Of the file's alpha, from its histogram: MSE of the best constant and of zero; nothing bounds it from below."""
    levels = np.arange(256) / 255
    mean, square = np.average(levels, weights=counts), np.average(levels**2, weights=counts)
    return {"floor": 0.0, "constant": float(square - mean**2), "zero": float(square)}


def bin_shares(counts: np.ndarray) -> np.ndarray:
    """(256,) pixels per level -> (BINS,) shares of all pixels."""
    return counts.reshape(BINS, -1).sum(1) / counts.sum()


def softness(counts: np.ndarray) -> dict[str, float]:
    """(256,) pixels per level -> share of half-tones, and the levels below which 1, 50 and 99 % of the pixels lie."""
    levels, below = np.arange(256) / 255, counts.cumsum() / counts.sum()
    soft = counts[(levels > SOFT[0]) & (levels < SOFT[1])].sum() / counts.sum()
    return {"soft": float(soft), **{f"q{q}": float(levels[np.searchsorted(below, q / 100)]) for q in (1, 50, 99)}}


def calibration(counts: np.ndarray, target_sums: np.ndarray) -> dict:
    """(256,) pixels and sums of the target per predicted level -> `bins` (pred, true, share) and `gain`.

    gain: what the MSE would fall by if each predicted level were replaced by the mean target of its pixels.
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
    """Each row with its `value` and its `share` of the summed metric."""
    total = sum(row[metric] for row in rows) or 1.0
    return [{**row, "value": row[metric], "share": row[metric] / total} for row in rows]


def families(rows: list[dict], metric: str) -> list[dict]:
    """Per family its images, mean metric and share of the error, the worst first; none where the CSV names none."""
    grouped = {}
    for row in shares_of_error(rows, metric):
        grouped.setdefault(row.get("family") or "(none)", []).append(row)
    if set(grouped) == {"(none)"}:
        return []
    table = [{"family": name, "images": len(group), "value": float(np.mean([row["value"] for row in group])),
              "share": sum(row["share"] for row in group)} for name, group in grouped.items()]
    return sorted(table, key=lambda line: -line["value"])
