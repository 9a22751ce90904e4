"""What a readable pair, or a set of them, probably is not meant to be: announced, since only its user can know.

    finding = look(rgb, alpha)                        # of one pair, short enough to be remembered
    for line in doubts("train.csv", names, findings): print(line)
"""
from collections.abc import Sequence

import numpy as np

FAINT = 0.5  # a set without an alpha above this holds other values than 0…255
DARK = 16    # of 255, the brightest level of a photograph: that of 12 bits in a 16-bit file
# doubt -> (share of the pairs from which on it is said, what is said)
DOUBTS = {
    "same": (0, "the alpha shows the same as the photograph; is it the right file?"),
    "dark": (0, f"the photograph has no level above {DARK} of 255; does it hold 10 or 12 bits in a 16-bit file? Then "
                "rescale it"),
    "constant": (0.5, "the alpha is the same everywhere; are these the mattes?"),
    "inverted": (0.5, "the alpha is opaque along the border and not within; is it inverted? White means object"),
}


def look(rgb: np.ndarray, alpha: np.ndarray) -> list:
    """[largest alpha, doubts …] of rgb (H,W,3) uint8 and alpha (H,W) in [0,1]."""
    low, high = float(alpha.min()), float(alpha.max())
    found = {"constant": low == high, "dark": rgb.max() <= DARK, "same": low < high and _is_same(rgb, alpha),
             "inverted": _is_inverted(alpha)}
    return [round(high, 4), *(name for name in DOUBTS if found[name])]


def _is_same(rgb: np.ndarray, alpha: np.ndarray) -> bool:
    """Up to rounding; a few pixels decide nearly always."""
    def near(step: int) -> bool:
        levels = np.rint(alpha[::step, ::step, None] * 255)
        return np.abs(rgb[::step, ::step] - levels).max() <= 2

    return near(16) and near(1)


def _is_inverted(alpha: np.ndarray) -> bool:
    border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    height, width = alpha.shape
    inner = alpha[height // 4:height - height // 4, width // 4:width - width // 4]
    return bool(np.mean(border > 0.9) > 0.95 and inner.size and inner.mean() < 0.5)


def doubts(where: str, names: Sequence[str], findings: Sequence[list]) -> list[str]:
    """One line for each doubt about the pairs listed in `where`, with an example from their `names`."""
    lines = []
    highest = max((high for high, *_ in findings), default=1)
    if 0 < highest < FAINT:
        lines.append(f"{where}: no alpha exceeds {highest:.3f} (0 to 1; {highest * 255:.0f} of 255); if that means "
                     f"opaque, multiply the values by {1 / highest:.4g}")
    for doubt, (share, text) in DOUBTS.items():
        these = [name for name, (_, *found) in zip(names, findings, strict=True) if doubt in found]
        if len(these) > share * len(findings):
            lines.append(f"{where}: in {len(these)} of {len(findings)} pairs {text} ({these[0]})")
    return lines
