"""Photographs -> one picture of what the network makes of them: dense alpha, and cut-out on another background.

    python scripts/gallery.py infer.weights=embedded --out docs/photographs.jpg
    python scripts/gallery.py infer.weights=outputs/u2netp/best.pth --photographs holiday --out holiday.png
"""
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from augment import composite
from core import cli
from core.config import ROOT, Config, load_config
from core.outputs import check_file, may_write, no_input
from imaging.foreground import estimate_foreground
from imaging.images import list_images, read_rgb, write_image
from imaging.pictures import INK, PAPER, grey
from inference.predictor import Predictor, load_predictor
from inference.weights import with_weights

PHOTOGRAPHS = ROOT / "docs/photographs"
HEIGHT, GAP, FOOT = 240, 8, 30  # pixels: of a picture, between pictures, of a row's caption
ABOVE, BELOW = (64, 124, 138), (232, 190, 130)  # colours of the other background, blended from top to bottom


def gallery(cfg: Config, photographs: Path, out: Path) -> None:
    """Writes the picture; a column per photograph, in the order of their names."""
    check_file(out, "--out")
    paths, _ = list_images(photographs)
    no_input("--out", out, paths)
    may_write(out)
    predict = load_predictor(cfg)
    print(f"{len(paths)} photographs of {photographs} with {cfg.infer.named_weights}: {predict.description}")
    columns = [column(predict, read_rgb(path)) for path in paths]
    captions = ["photograph", "dense alpha", "cut-out on another background"]
    write_image(out, sheet(list(zip(*columns, strict=True)), captions))
    print(f"picture  {out}")


def column(predict: Predictor, rgb: np.ndarray) -> tuple[np.ndarray, ...]:
    """The photograph, its dense alpha and its object on another background, each HEIGHT pixels high."""
    (alpha, dense), = predict.predictions([rgb])
    ramp = np.linspace(0, 1, len(rgb), dtype=np.float32)[:, None, None]
    other = np.broadcast_to(np.rint((1 - ramp) * ABOVE + ramp * BELOW).astype(np.uint8), rgb.shape)
    moved = composite(estimate_foreground(rgb, alpha), other, alpha)
    size = round(rgb.shape[1] * HEIGHT / rgb.shape[0]), HEIGHT
    return tuple(cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (rgb, grey(dense), moved))


def sheet(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str]) -> np.ndarray:
    """Rows of pictures (HEIGHT,w,3) uint8, as wide in each row, with a caption below each row -> (H,W,3) uint8."""
    width = GAP + sum(picture.shape[1] + GAP for picture in rows[0])
    page = Image.new("RGB", (width, GAP + len(rows) * (HEIGHT + FOOT)), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for number, (pictures, caption) in enumerate(zip(rows, captions, strict=True)):
        left, top = GAP, GAP + number * (HEIGHT + FOOT)
        for picture in pictures:
            page.paste(Image.fromarray(picture), (left, top))
            left += picture.shape[1] + GAP
        draw.text((GAP, top + HEIGHT + 4), caption, INK, font)
    return np.asarray(page)


def main() -> None:
    args = cli.parse(__doc__, options={"photographs": (str(PHOTOGRAPHS), "folder of photographs"),
                                       "out": ("outputs/photographs.png", "picture to write, PNG or JPEG")})
    gallery(with_weights(load_config(args.config, args.overrides)), Path(args.photographs), Path(args.out))


if __name__ == "__main__":
    cli.run(main)
