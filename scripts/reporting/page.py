"""A page's template, numbers and pictures -> one self-contained HTML file."""
import base64
from pathlib import Path

import cv2
import jinja2
import numpy as np

from core.files import written_whole
from imaging.images import resize_longer_side

SIDE = 512  # longer side of an embedded picture, pixels


def save_page(path: Path, template: str, context: dict) -> None:
    """Fills a template of this folder; everything from outside (file names, paths, settings) is escaped."""
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
                                   undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates.filters.update(number=number, percent=percent, change=change)
    html = templates.get_template(template).render(context)
    with written_whole(path) as part:
        part.write_text(html, encoding="utf-8")


def number(value: float) -> str:
    """An MSE in four decimals; a small one in two significant digits, so that it does not read 0."""
    return f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.2g}"


def percent(share: float) -> str:
    return f"{share * 100:.1f} %" if share < 0.1 else f"{share * 100:.0f} %"


def change(value: float) -> str:
    """A change of an MSE, with its sign."""
    return f"{value:+.5f}".replace("-", "−")


def embedded(rgb: np.ndarray) -> str:
    """(H,W,3) uint8 -> data URI of a WebP, its longer side at most SIDE."""
    rgb = resize_longer_side(rgb, min(SIDE, max(rgb.shape[:2])))
    data = cv2.imencode(".webp", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, 85])[1]
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"
