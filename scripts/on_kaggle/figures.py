"""The notebook's pictures, as matplotlib figures: inputs, training, predictions.

    from on_kaggle import figures as show
    show.pairs(job)     # as the last expression of a cell; `job` is what main.start() returns
"""
import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # not pyplot: the notebook displays a cell's figure itself

from augment import sample_xray_params, xray_alpha_dense
from core import checkpoint
from core.seeds import Purpose, generator
from imaging.images import list_images, read_rgb, resize_longer_side
from imaging.pairs import read_pair, read_pairs
from imaging.pictures import draw_curves
from infer import ordered_images
from on_kaggle.inputs import find_splits, pairs_tables
from on_kaggle.main import Job
from submission.submission_csv import decode_alpha, read_rows

SIDE = 384                      # longer side of a panel in pixels
SQUARE = 24                     # side of the chequerboard's squares in pixels
INK, QUIET, HAIRLINE = "#22262c", "#6b7280", "#d9dce1"


def test_images(job: Job, count: int = 4) -> Figure:
    """The first test images, with names and sizes."""
    paths = ordered_images(job.config())[:count]
    images = [read_rgb(path) for path in paths]
    return grid([("", images)], [f"{path.name}  {image.shape[1]}×{image.shape[0]}"
                                 for path, image in zip(paths, images, strict=True)])


def pairs(job: Job, count: int = 3) -> Figure | None:
    """Training pairs: photograph, the file's alpha, and two draws of the dense target made from both."""
    if not pairs_tables(job.inputs):
        return print("no pairs CSV attached; attach one to see its dense targets here")
    cfg, rows = job.config(), []
    for index, pair in enumerate(read_pairs(find_splits(job.inputs, job.scratch, cfg.data.val_share)[0], count)):
        rgb, alpha = read_pair(pair, cfg.data.size)
        draws = [generator(cfg.seed, Purpose.NOTEBOOK, index, draw) for draw in range(2)]
        targets = [xray_alpha_dense(rgb, alpha, sample_xray_params(cfg.augment.xray, rng), rng) for rng in draws]
        rows.append((pair.image_path.name, [rgb, alpha, *targets]))
    return grid(rows, ["photograph", "the file's alpha", "dense target", "another draw"])


def curves(job: Job) -> Figure | None:
    """Error and loss terms by epoch: of this training, else of the run that made the weights."""
    runs = [path for path in (job.config().train.out_dir / "metrics.csv", job.bundle / "metrics.csv") if path.exists()]
    if not runs:
        return print("no finished epoch, so no curve to draw")
    with runs[0].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return draw_curves([{name: float(value or "nan") for name, value in row.items()} for row in rows])


def validation(job: Job) -> Figure | None:
    """The last epoch's validation samples: rgb, truth, prediction, error."""
    sheets = job.config().train.out_dir / "samples"
    if not sheets.is_dir():
        return print("no finished epoch, so no samples to show")
    sheet = read_rgb(list_images(sheets)[0][-1])
    figure = Figure(figsize=(11, 11 * sheet.shape[0] / sheet.shape[1]), dpi=130)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet)
    axes.axis("off")
    return figure


def weights(paths: Sequence[Path]) -> None:
    """Prints each checkpoint's epoch and metrics, with the values to compare them to."""
    for path in paths:
        metrics = checkpoint.load(path).get("metrics", {})
        print(f"{path.name}: {'epoch {epoch:.0f}'.format(**metrics) if 'epoch' in metrics else 'epoch unknown'}")
        for name, meaning in (("val_mse_dense", "MSE against dense alphas of the validation set"),
                              ("val_floor", "no model can be better on it"), ("val_constant", "the best constant"),
                              ("val_mse", "MSE against the files' own alphas")):
            if name in metrics:
                print(f"  {name:<14} {metrics[name]:.4f}   {meaning}")


def predictions(job: Job, count: int = 4) -> Figure:
    """The submission's first rows beside their images, and the objects on a chequerboard."""
    cfg = job.config()
    paths = {path.stem: path for path in ordered_images(cfg)}
    rows = []
    for _, name, text in itertools.islice(read_rows(cfg.infer.submission), count):
        rgb, alpha = read_rgb(paths[name]), decode_alpha(text).astype(np.float32) / 255
        rows.append((name, [rgb, alpha, on_chequerboard(rgb, alpha)]))
    return grid(rows, ["photograph", "predicted alpha", "photograph × alpha"])


def on_chequerboard(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """rgb (H,W,3) uint8 and alpha (H,W) -> (h,w,3) uint8 at panel size."""
    rgb, alpha = resize_longer_side(rgb, SIDE), resize_longer_side(alpha, SIDE)
    y, x = np.indices(alpha.shape) // SQUARE
    board = np.where((x + y) % 2, 215, 245)
    return np.rint(rgb * alpha[..., None] + (board * (1 - alpha))[..., None]).astype(np.uint8)


def grid(rows: Sequence[tuple[str, Sequence[np.ndarray]]], titles: Sequence[str]) -> Figure:
    """rows of (caption, images: (H,W,3) uint8 or (H,W) in [0,1]), a title over each column."""
    width = min(3.2, 11 / len(titles))
    figure = Figure(figsize=(width * len(titles), (width - 0.05) * len(rows) + 0.2), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    panels = figure.subplots(len(rows), len(titles), squeeze=False)
    for (caption, images), line in zip(rows, panels, strict=True):
        for image, axes in zip(images, line, strict=False):
            axes.imshow(resize_longer_side(image, SIDE), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=HAIRLINE, linewidth=0.6)
        line[0].set_ylabel(caption, color=QUIET, fontsize=9)
    for title, axes in zip(titles, panels[0], strict=True):
        axes.set_title(title, color=INK, fontsize=10)
    return figure
