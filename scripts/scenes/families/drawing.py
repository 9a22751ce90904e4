"""Layers with exact coverage: strands, polygons and surfaces drawn to premultiplied RGBA.

A *layer* is (side, side, 4) float32, premultiplied: colour * alpha, then alpha. Coordinates are in the unit frame
[-1, 1] x [-1, 1], y downwards. Thin objects are drawn on a canvas several times finer and reduced by area. An opaque
antialiased stroke on a premultiplied canvas is the *over* operator itself, so colour and alpha agree to the last bit,
and the reduced layer is exact.

    canvas = blank(256); draw_polygons(canvas, polygons, colours); layer = reduce(canvas, 256)
"""

import cv2
import numpy as np

FRACTION_BITS = 4  # OpenCV draws at 1/16 of a canvas pixel


def supersampling(side: int) -> int:
    """How much finer than the layer its canvas is: 2 from 1024 on, more below, so that thin strands stay thin."""
    return int(np.clip(round(1536 / side), 2, 8))


def blank(side: int, channels: int = 4) -> np.ndarray:
    """An empty canvas for a layer of this side, uint8."""
    fine = side * supersampling(side)
    return np.zeros((fine, fine, channels) if channels > 1 else (fine, fine), np.uint8)


def reduce(canvas: np.ndarray, side: int) -> np.ndarray:
    """A canvas averaged down to its layer, float32 in [0, 1]."""
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def over(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Porter-Duff over, on premultiplied layers."""
    return top + (1 - top[..., 3:]) * bottom


def paint(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The layer of a colour, (3,) or (H, W, 3), seen through an alpha (H, W)."""
    layer = np.empty((*alpha.shape, 4), np.float32)
    layer[..., :3] = colour * alpha[..., None]
    layer[..., 3] = alpha
    return layer


def relight(layer: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The layer with its colour times factor (H, W), kept within its alpha; alpha itself unchanged."""
    lit = np.minimum(layer[..., :3] * factor[..., None], layer[..., 3:])
    return np.concatenate([lit, layer[..., 3:]], -1)


def extend_foreground(layer: np.ndarray) -> np.ndarray:
    """Un-premultiplied colour (H, W, 3), continued smoothly into the pixels without coverage (pull-push)."""
    height, width = layer.shape[:2]
    alpha = layer[..., 3:]
    own = layer[..., :3] / np.maximum(alpha, 1e-6)
    if min(height, width) <= 2:
        return np.broadcast_to(layer[..., :3].sum((0, 1)) / max(alpha.sum(), 1e-6), own.shape).astype(np.float32)
    half = cv2.resize(layer, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(extend_foreground(half), (width, height), interpolation=cv2.INTER_LINEAR)
    # Below 1/8 coverage 8-bit colours are noisy, so colours of the neighbourhood replace them gradually.
    weight = np.minimum(alpha * 8, 1)
    return np.clip(coarse + weight * (own - coarse), 0, 1)


def place(layer: np.ndarray, frame: np.ndarray, left: int, top: int) -> None:
    """Put a layer over part of a larger frame, in place; parts outside are cut off."""
    height, width = frame.shape[:2]
    side = layer.shape[0]
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    if x0 < x1 and y0 < y1:
        seen = layer[y0 - top : y1 - top, x0 - left : x1 - left]
        frame[y0:y1, x0:x1] = over(seen, frame[y0:y1, x0:x1])


def fit(points: np.ndarray, limit: float = 0.96) -> np.ndarray:
    """The points, shrunk towards the centre if they would leave the frame."""
    return points * min(1.0, limit / max(np.abs(points).max(), 1e-6))


def to_canvas(points: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Unit-frame points as OpenCV's fixed-point canvas coordinates."""
    scale = canvas.shape[0] / 2
    return np.round(((points + 1) * scale - 0.5) * 2**FRACTION_BITS).astype(np.int32)


def opaque(colour) -> tuple[float, ...]:
    """A colour in [0, 1] as the premultiplied 8-bit RGBA value of full coverage."""
    return (*(float(np.clip(c, 0, 1)) * 255 for c in colour), 255.0)


def draw_polygons(canvas: np.ndarray, polygons, colours) -> None:
    """Fill polygons (each (P, 2)) one over the other, in order, each with its colour (3,) in [0, 1]."""
    for polygon, colour in zip(polygons, colours, strict=True):
        cv2.fillPoly(canvas, [to_canvas(polygon, canvas)], opaque(colour), cv2.LINE_AA, FRACTION_BITS)


def coverage(polygons, side: int) -> np.ndarray:
    """Alpha (side, side) of the union of filled polygons."""
    canvas = blank(side, channels=1)
    for polygon in polygons:
        cv2.fillPoly(canvas, [to_canvas(polygon, canvas)], 255, cv2.LINE_AA, FRACTION_BITS)
    return reduce(canvas, side)


def tube_coverage(paths, widths, side: int) -> np.ndarray:
    """Alpha (side, side) of the union of strokes with round ends: paths of (P, 2), one width each."""
    canvas = blank(side, channels=1)
    for path, width in zip(paths, widths, strict=True):
        thickness = max(1, round(width * canvas.shape[0] / 2))
        cv2.polylines(canvas, [to_canvas(path, canvas)], False, 255, thickness, cv2.LINE_AA, FRACTION_BITS)
    return reduce(canvas, side)


def draw_strands(canvas, points, tone, width, palette, slices: int = 24) -> None:
    """Draw N strands of P points, back to front in the order given.

    points: (N, P, 2); tone: (N, P - 1) int index into palette (K, 3); width: (N, P - 1) in unit-frame lengths.
    Order is kept between `slices` of strands; inside one, segments of equal colour and thickness are one OpenCV call.
    """
    fixed = to_canvas(points, canvas)
    segments = np.stack([fixed[:, :-1], fixed[:, 1:]], axis=2)
    # Strokes are whole canvas pixels wide, so a golden-ratio dither per strand gives the right mean width.
    dither = (np.arange(len(points)) * 0.618034 % 1)[:, None]
    thickness = np.maximum(1, np.floor(width * canvas.shape[0] / 2 + dither)).astype(np.int64)
    code = np.broadcast_to(thickness, tone.shape) * len(palette) + tone
    slices = min(slices, len(points))
    for part, keys in zip(np.array_split(segments, slices), np.array_split(code, slices), strict=True):
        flat, keys = part.reshape(-1, 2, 2), keys.ravel()
        order = np.argsort(keys, kind="stable")
        values, starts = np.unique(keys[order], return_index=True)
        for value, run in zip(values, np.split(flat[order], starts[1:]), strict=True):
            colour = opaque(palette[value % len(palette)])
            cv2.polylines(canvas, run, False, colour, int(value // len(palette)), cv2.LINE_AA, FRACTION_BITS)


def spline(points, count: int = 120, loop: bool = True) -> np.ndarray:
    """A smooth curve (count, 2) through control points (K, 2): Catmull-Rom."""
    points = np.asarray(points, np.float32)
    ends = (points[-1:], points[:2]) if loop else (2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1])
    padded = np.concatenate([ends[0], points, ends[1]])
    spans = len(points) if loop else len(points) - 1
    position = np.linspace(0, spans, count, endpoint=not loop)
    index = np.minimum(position.astype(int), spans - 1)
    t = (position - index)[:, None]
    a, b, c, d = (padded[index + k] for k in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def monotone(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Cubic interpolation of (x, y) at `at` that never overshoots, so that a profile's corners stay corners."""
    slope = np.diff(y) / np.diff(x)
    product, total = slope[1:] * slope[:-1], slope[1:] + slope[:-1]
    # The harmonic mean of the neighbouring slopes, level at extremes: Fritsch and Butland 1984.
    inner = np.divide(2 * product, total, out=np.zeros_like(total), where=product > 0)
    tangent = np.concatenate([slope[:1], inner, slope[-1:]])
    k = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    step = x[k + 1] - x[k]
    t = (at - x[k]) / step
    rise = t * t * (3 - 2 * t)
    bend = (t - 1) ** 2 * t * tangent[k] + (t - 1) * t**2 * tangent[k + 1]
    return y[k] + rise * (y[k + 1] - y[k]) + bend * step


def polar(angle) -> np.ndarray:
    """Unit vectors (..., 2) at angles (...)."""
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def closed(outline: np.ndarray) -> np.ndarray:
    """An outline (P, 2) with its first point repeated at the end, to be drawn as a stroke."""
    return np.concatenate([outline, outline[:1]])


def ellipse(centre, radii, angle: float = 0.0, count: int = 72) -> np.ndarray:
    """The outline (count, 2) of an ellipse rotated by angle (radians)."""
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return rotate(polar(turn) * radii, angle) + np.asarray(centre)


def rotate(points: np.ndarray, angle) -> np.ndarray:
    """Points (..., 2) turned about the origin by angle (radians, scalar or broadcastable to (...))."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([points[..., 0] * cos - points[..., 1] * sin, points[..., 0] * sin + points[..., 1] * cos], -1)
