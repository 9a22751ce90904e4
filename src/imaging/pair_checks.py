"""Findings about readable pairs that are probably a mistake, and a file that remembers them between runs.

    finding = look(rgb, alpha)                        # about one pair
    for line in doubts("train.csv", names, findings): print(line)
"""
import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.errors import OperationError, UserError, brief
from core.files import stamp, written_whole

FAINT = 0.5  # a set whose alphas are all below this is probably not scaled to 0…255
DARK = 16    # of 255: the brightest level of a photograph of 12 bits in a 16-bit file
# doubt -> (it is reported if more than this share of the pairs has it, message)
DOUBTS = {
    "same": (0, "the alpha shows the same as the photograph; is it the right file?"),
    "dark": (0, f"the photograph has no level above {DARK} of 255; if it holds 10 or 12 bits in a 16-bit file, rescale "
                "it"),
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
    """Up to rounding; a sparse grid settles most cases."""
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
    """One line per doubt about the pairs listed in `where`, with one of their `names` as an example."""
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


class Remembered:
    """{key: finding}, kept in a JSON file. A damaged file, or one written under other `rules`, counts as empty."""

    def __init__(self, path: Path | None, rules: str):
        self.path, self.rules, self.findings = path, rules, {}
        if path is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["rules"] == rules:
                self.findings = {key: found for key, found in stored["findings"].items() if _is_finding(found)}

    def add(self, findings: Mapping[str, list]) -> None:
        """Adds findings, in the file too if it can be written."""
        if findings.items() <= self.findings.items():
            return
        self.findings |= findings
        try:
            with written_whole(self.path) as part:
                part.write_text(json.dumps({"rules": self.rules, "findings": self.findings}), encoding="utf-8")
        except (OSError, OperationError, UserError) as error:
            _print_once(f"note    {self.path}: cannot be written ({brief(error)}); the next run checks the pairs again")


@functools.cache  # training and validation pairs share the file
def _print_once(line: str) -> None:
    print(line)


def _is_finding(found: object) -> bool:
    """Whether it is a number and words, as look() returns."""
    return (isinstance(found, list) and bool(found) and isinstance(found[0], int | float)
            and all(isinstance(word, str) for word in found[1:]))


def files_key(*files: Path) -> str | None:
    """Changes with the path, time or size of any of the files; None if one is missing."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        return hashlib.sha256(repr([stamp(path) for path in files]).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return None
