"""Numbers -> small inline SVG charts that take their colours from the page around them.

Every chart is WIDTH units wide; the page shows it at about that many pixels, so that its text is readable on a phone.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 380, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 36  # margins: tick labels, space, space, tick labels and axis title
LABELS = 104                               # right margin for the lines' names
COLOURS = 6                                # the page defines --c1 … --c6
KEY_SHARES = (0.01, 0.1, 0.5)              # sizes in the calibration plot's legend


@dataclass
class Scale:
    """Data -> units of the picture; log: on a logarithmic scale."""
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + (self.end - self.start) * share, 1)

    def ticks(self, most: int = 6) -> list[float]:
        """At most about `most` round numbers within the scale, as dense as that allows."""
        if not self.log:
            span = self.high - self.low
            steps = (factor * 10.0**power for power in range(-6, 9) for factor in (1, 2, 5))
            step = next((step for step in steps if span / step <= most - 1), span)
            first = math.ceil(self.low / step - 1e-9)
            return [round(i * step, 9) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for subs in ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            found = [s * 10.0**d for d in decades for s in subs if self.low * 0.999 <= s * 10.0**d <= self.high * 1.001]
            if len(found) <= most:
                break
        return found


def lines(series: dict[str, Sequence[float]], epochs: Sequence[int], levels: dict[str, float],
          best: int | None, describe: str) -> Markup:
    """One line per name over the epochs, on a logarithmic scale; levels: name -> horizontal line; best: an epoch.

    The colours go by the place in `series`; after COLOURS of them they come again, dashed.
    """
    shown = {name: [(e, v) for e, v in zip(epochs, values, strict=True) if math.isfinite(v) and v > 0]
             for name, values in series.items()}
    shown = {name: points for name, points in shown.items() if points}
    every = [v for points in shown.values() for _, v in points] + [v for v in levels.values() if v > 0]
    if not every:
        return Markup("")
    x = Scale(min(epochs), max(epochs), LEFT, WIDTH - LABELS)
    y = Scale(min(every) / 1.2, max(every) * 1.2, HEIGHT - BOTTOM, TOP, log=True)
    parts = _frame(x, y, [t for t in x.ticks() if t == int(t)], "epoch", _number)
    if best is not None:
        parts.append(_line(x(best), TOP, x(best), HEIGHT - BOTTOM, "best"))
    named = {name: value for name, value in levels.items() if value > 0}
    heights = {name: y(points[-1][1]) for name, points in shown.items()} | {name: y(v) for name, v in named.items()}
    labels = _spread(heights, TOP + 6, HEIGHT - BOTTOM)
    for name, value in named.items():
        parts += [_line(LEFT, y(value), WIDTH - LABELS, y(value), "level"),
                  _text(WIDTH - LABELS + 9, labels[name] + 4, name, "start note")]
    for name, points in shown.items():
        colour = colour_of(list(series).index(name))
        path = " ".join(f"{x(e)},{y(v)}" for e, v in points)
        parts.append(f'<polyline class="curve {colour}" points="{path}"/>')
        if len(points) <= 40:
            parts += [_dot(x(e), y(v), 2.2, f"dot {colour}", f"{name}, epoch {e}: {v:.4g}") for e, v in points]
        parts.append(_text(WIDTH - LABELS + 9, labels[name] + 4, name, f"start name {colour}"))
    return _svg(parts, describe)


def colour_of(place: int) -> str:
    """The CSS classes of the series at this place, from 0."""
    return f"c{place % COLOURS + 1}{' again' if place >= COLOURS else ''}"


def histogram(shares: dict[str, Sequence[float]], describe: str) -> Markup:
    """Share of the pixels per bin of [0,1], logarithmic: the first as an area, the others as outlines."""
    lowest = max(min((s for values in shares.values() for s in values if s > 0), default=1e-4), 1e-5)
    x = Scale(0, 1, LEFT, WIDTH - RIGHT)
    y = Scale(10 ** math.floor(math.log10(lowest)), 1, HEIGHT - BOTTOM, TOP, log=True)
    parts = _frame(x, y, x.ticks(), "alpha", _percent)
    for i, values in enumerate(shares.values()):
        heights = [y(max(s, y.low)) for s in values]
        steps = " ".join(f"{x(b / len(values))},{h} {x((b + 1) / len(values))},{h}" for b, h in enumerate(heights))
        if i == 0:
            steps = f"{x(0)},{HEIGHT - BOTTOM} {steps} {x(1)},{HEIGHT - BOTTOM}"
            parts.append(f'<polygon class="area" points="{steps}"/>')
        else:
            parts.append(f'<polyline class="curve h{i}" points="{steps}"/>')
    return _svg(parts, describe)


def calibration(bins: Sequence[dict[str, float]], describe: str) -> Markup:
    """Mean true alpha over mean predicted alpha, one disc per bin, its area the bin's share of the pixels."""
    side = HEIGHT - TOP - BOTTOM
    x = Scale(0, 1, LEFT, LEFT + side)
    y = Scale(0, 1, HEIGHT - BOTTOM, TOP)
    parts = _frame(x, y, x.ticks(), "predicted alpha", _number)
    parts.append(_line(x(0), y(0), x(1), y(1), "level"))
    parts += [_dot(x(b["pred"]), y(b["true"]), _radius(b["share"]), "disc",
                   f"predicted {b['pred']:.2f}, true {b['true']:.2f}, {b['share']:.1%} of the pixels")
              for b in sorted(bins, key=lambda b: -b["share"])]
    left, top = LEFT + side + 44, TOP + 62
    parts += [_text(left - 22, TOP + 14, "area: share", "start note"),
              _text(left - 22, TOP + 29, "of the pixels", "start note")]
    for share in KEY_SHARES:
        parts += [_dot(left, top, _radius(share), "disc key"), _text(left + 26, top + 4, f"{share:.0%}", "start note")]
        top += 16 + 2 * _radius(share)
    return _svg(parts, describe)


def _radius(share: float) -> float:
    return round(max(1.6, 25 * math.sqrt(share)), 1)


def _spread(wanted: dict[str, float], low: float, high: float, gap: float = 14) -> dict[str, float]:
    """Heights of labels, close to the wanted ones, at least `gap` apart and within [low, high]."""
    placed, last = {}, low - gap
    for name in sorted(wanted, key=wanted.get):
        last = placed[name] = max(wanted[name], last + gap)
    limit = high
    for name in reversed(placed):
        limit = placed[name] = min(placed[name], limit)
        limit -= gap
    return placed


def _frame(x: Scale, y: Scale, x_ticks: Sequence[float], x_name: str, y_format) -> list[str]:
    parts = []
    for value in y.ticks():
        parts += [_line(x.start, y(value), x.end, y(value), "grid"),
                  _text(x.start - 7, y(value) + 4, y_format(value), "end")]
    parts += [_text(x(value), y.start + 16, _number(value), "middle") for value in x_ticks]
    parts += [_line(x.start, y.start, x.end, y.start, "axis"),
              _text((x.start + x.end) / 2, y.start + 32, x_name, "middle note")]
    return parts


def _number(value: float) -> str:
    """Plain decimals, three significant digits."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"


def _percent(share: float) -> str:
    return f"{_number(share * 100)} %"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _dot(x: float, y: float, radius: float, kind: str, title: str = "") -> str:
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"><title>{escape(title)}</title></circle>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{round(x, 1)}" y="{round(y, 1)}">{escape(text)}</text>'


def _svg(parts: Sequence[str], describe: str) -> Markup:
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(describe)}">'
                  f'{"".join(parts)}</svg>')
