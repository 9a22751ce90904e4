"""Pictures of results: rows of rgb | true | pred | error, and the curves of a run."""
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.files import written_whole
from core.ownership import signed
from imaging.images import resize_longer_side, to_levels

INK, PAPER, QUIET = (235, 237, 240), (24, 26, 30), (150, 156, 166)
ERROR_FULL = 0.5  # |error| in alpha that is drawn brightest


def panel_sheet(rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], title: str,
                side: int = 320) -> np.ndarray:
    """rows of (caption, rgb (H,W,3) uint8, true (H,W), pred (H,W)) -> one labelled (H,W,3) uint8 picture."""
    gap, head, foot = 12, 64, 34
    panels = [[resize_longer_side(image, side) for image in (rgb, grey(true), grey(pred), heat(np.abs(pred - true)))]
              for _, rgb, true, pred in rows]
    heights = [images[0].shape[0] + foot for images in panels]
    sheet = Image.new("RGB", (4 * side + 5 * gap, head + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(20), ImageFont.load_default(15)
    draw.text((gap, 8), title, INK, large)
    for column, name in enumerate(("rgb", "true", "pred", f"|pred - true|, brightest from {ERROR_FULL}")):
        draw.text((gap + column * (side + gap), head - 24), name, QUIET, small)
    top = head
    for (caption, *_), images, height in zip(rows, panels, heights, strict=True):
        for column, image in enumerate(images):
            centred = (side - image.shape[1]) // 2
            sheet.paste(Image.fromarray(np.ascontiguousarray(image)), (gap + column * (side + gap) + centred, top))
        draw.text((gap, top + height - foot + 5), caption, INK, small)
        top += height
    return np.asarray(sheet)


def save_picture(path: str | Path, rgb: np.ndarray) -> None:
    encoded = io.BytesIO()
    Image.fromarray(rgb).save(encoded, "PNG")
    with written_whole(path) as part:
        part.write_bytes(signed(encoded.getvalue()))


def draw_curves(history: Sequence[dict]):
    """history: metrics.csv's rows, one dict per epoch -> matplotlib's Figure."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no window, no backend; here: slow to import
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    figure = Figure(figsize=(11, 4), layout="constrained")
    error, terms = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for name in ("train_mse", "val_mse", "val_mse_dense"):
        values = [row[name] for row in history]
        error.plot(epochs, values, marker=".", label=f"{name}, lowest {min(values):.4f}")
    for name in (key for key in history[0] if key.startswith("loss_")):
        terms.plot(epochs, [row[name] for row in history], marker=".", label=name.removeprefix("loss_"))
    rate = terms.twinx()
    rate.plot(epochs, [row["lr"] for row in history], color="lightgrey", linestyle="--", zorder=0)
    rate.set_ylabel("learning rate (dashed)", color="grey")
    rate.set_ylim(bottom=0)
    for axes, title in ((error, "mean squared error"), (terms, "loss terms, unweighted")):
        axes.set(title=title, xlabel="epoch", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    return figure


def save_curves(path: str | Path, history: Sequence[dict]) -> None:
    with written_whole(path) as part:
        draw_curves(history).savefig(part, dpi=110)


def grey(alpha: np.ndarray) -> np.ndarray:
    """(H,W) in [0,1] (clipped) -> (H,W,3) uint8."""
    return cv2.cvtColor(to_levels(alpha), cv2.COLOR_GRAY2RGB)


def heat(error: np.ndarray) -> np.ndarray:
    """|error| (H,W), 0 to ERROR_FULL and above -> (H,W,3) uint8, dark to bright."""
    return cv2.cvtColor(cv2.applyColorMap(to_levels(error / ERROR_FULL), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
