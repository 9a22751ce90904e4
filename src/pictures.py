"""Numbers and mattes as pictures: rows of rgb | true | pred | error, and the curves of a run."""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cli import written_whole
from images import resize_longer_side

INK, PAPER, QUIET = (235, 237, 240), (24, 26, 30), (150, 156, 166)
ERROR_FULL = 0.5  # the |error| in alpha that is drawn brightest


def panel_sheet(rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], title: str,
                side: int = 320) -> np.ndarray:
    """rows of (caption, rgb (H,W,3) uint8, true (H,W), pred (H,W)) -> one labelled (H,W,3) uint8 picture."""
    gap, head, foot = 12, 64, 30
    sheet = Image.new("RGB", (4 * side + 5 * gap, head + len(rows) * (side + foot + gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(20), ImageFont.load_default(15)
    draw.text((gap, 8), title, INK, large)
    for column, name in enumerate(("rgb", "true", "pred", f"|pred − true|, white ≥ {ERROR_FULL}")):
        draw.text((gap + column * (side + gap), head - 24), name, QUIET, small)
    for row, (caption, rgb, true, pred) in enumerate(rows):
        top = head + row * (side + foot + gap)
        for column, image in enumerate((rgb, _grey(true), _grey(pred), _heat(np.abs(pred - true)))):
            small_image = Image.fromarray(np.ascontiguousarray(resize_longer_side(image, side)))
            left = gap + column * (side + gap) + (side - small_image.width) // 2
            sheet.paste(small_image, (left, top + (side - small_image.height) // 2))
        draw.text((gap, top + side + 5), caption, INK, small)
    return np.asarray(sheet)


def save_picture(path: str | Path, rgb: np.ndarray) -> None:
    with written_whole(path) as part:
        Image.fromarray(rgb).save(part)


def save_curves(path: str | Path, history: Sequence[dict]) -> None:
    """history: metrics.csv's rows, one dict per epoch."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no window, no backend to choose

    figure = Figure(figsize=(11, 4), layout="constrained")
    error, terms, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    for name in ("train_mse", "val_mse", "val_mse_dense"):
        error.plot(epochs, [row[name] for row in history], marker=".", label=name)
    best = min(history, key=lambda row: row["val_mse_dense"])
    error.annotate(f"{best['val_mse_dense']:.4f}", (best["epoch"], best["val_mse_dense"]),
                   textcoords="offset points", xytext=(0, -14), ha="center", fontsize=8)
    for name in (key for key in history[0] if key.startswith("loss_")):
        terms.plot(epochs, [row[name] for row in history], marker=".", label=name.removeprefix("loss_"))
    rate.plot(epochs, [row["lr"] for row in history], marker=".", color="grey")
    for axes, title in ((error, "mean squared error"), (terms, "loss terms, unweighted"), (rate, "learning rate")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.set_yscale("log")
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    error.legend(fontsize=8)
    terms.legend(fontsize=8)
    with written_whole(path) as part:
        figure.savefig(part, dpi=110)


def _grey(alpha: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.rint(np.clip(alpha, 0, 1) * 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)


def _heat(error: np.ndarray) -> np.ndarray:
    levels = np.rint(np.clip(error / ERROR_FULL, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
