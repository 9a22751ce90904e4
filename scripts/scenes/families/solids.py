"""Solid bodies: padded parts from silhouettes, bodies of revolution, and the family of turned vessels.

The alpha of a solid is one inside and antialiased along its edge.
"""

import cv2
import numpy as np

from scenes.families.drawing import coverage, ellipse, monotone, over, paint, spline, tube_coverage
from scenes.families.textures import Light, draw_light, fractal, grid, natural_colour, normals, shade, smoothstep

WORDS = ("NORDEN", "pure", "No. 7", "alba", "FIELD", "organic", "Sol & Co", "tonic", "MORA", "125 ml", "studio")
# Profiles of turned bodies: (position from top 0 to foot 1, radius) control points, and which extras they may carry.
PROFILES = {
    "bottle": ([(0, 0.12), (0.13, 0.12), (0.36, 0.26), (0.42, 0.29), (0.95, 0.29), (1, 0.26)], "cap label"),
    "flask": ([(0, 0.1), (0.3, 0.1), (0.42, 0.2), (0.62, 0.42), (0.85, 0.46), (0.97, 0.36), (1, 0.3)], "cap"),
    "jar": ([(0, 0.36), (0.14, 0.36), (0.15, 0.31), (0.22, 0.4), (0.3, 0.42), (0.94, 0.42), (1, 0.38)], "cap label"),
    "mug": ([(0, 0.44), (0.5, 0.43), (0.9, 0.42), (0.97, 0.39), (1, 0.35)], "open handle label"),
    "cup": ([(0, 0.5), (0.3, 0.47), (0.65, 0.38), (0.9, 0.24), (1, 0.22)], "open handle"),
    "vase": ([(0, 0.22), (0.1, 0.15), (0.22, 0.16), (0.5, 0.4), (0.68, 0.42), (0.92, 0.24), (1, 0.25)], "open"),
    "bowl": ([(0, 0.82), (0.3, 0.76), (0.7, 0.5), (0.92, 0.28), (1, 0.3)], "open"),
    "can": ([(0, 0.36), (0.03, 0.4), (0.97, 0.4), (1, 0.36)], "label cap"),
    "lamp": ([(0, 0.28), (0.45, 0.6), (0.452, 0.05), (0.62, 0.045), (0.75, 0.13), (0.9, 0.06), (1, 0.3)], ""),
    "goblet": ([(0, 0.3), (0.2, 0.34), (0.42, 0.3), (0.56, 0.1), (0.6, 0.03), (0.92, 0.04), (1, 0.32)], "open"),
    "tumbler": ([(0, 0.42), (0.6, 0.38), (0.97, 0.35), (1, 0.33)], "open"),
    "pitcher": ([(0, 0.26), (0.16, 0.22), (0.35, 0.3), (0.65, 0.44), (0.85, 0.4), (1, 0.3)], "open handle"),
}


def inflate(alpha: np.ndarray, resolution: int = 96) -> np.ndarray:
    """A rounded height field over a silhouette, in half image widths: the root of the solution of Poisson's equation.

    The equation is smooth, so it is solved coarse to fine on a small grid and enlarged.
    """
    potential = np.zeros((6, 6), np.float32)
    for size in (12, 24, 48, resolution):
        mask = cv2.resize(alpha, (size, size), interpolation=cv2.INTER_AREA)
        potential = cv2.resize(potential, (size, size), interpolation=cv2.INTER_LINEAR) * 4
        for _ in range(40):
            neighbours = cv2.blur(potential, (3, 3), borderType=cv2.BORDER_CONSTANT)
            potential = mask * (neighbours + 0.33)
    height = cv2.GaussianBlur(np.sqrt(4 * potential), (0, 0), 0.8) * (2 / resolution)
    return cv2.resize(height, alpha.shape[::-1], interpolation=cv2.INTER_CUBIC)


def round_part(alpha, rng, light: Light, albedo, *, gloss=0.2, shine=40, puff=0.7, bump=0.0, weave=0.0, folds=0.0):
    """The layer of one padded or cast part with the silhouette alpha (side, side), lit as a rounded body.

    puff: thickness relative to a half sphere; bump: grain of leather or stone; weave: threads; folds: creases of cloth.
    """
    layer = np.zeros((*alpha.shape, 4), np.float32)
    # The texture has its own generator: the amount of noise depends on the picture's size, and must not change what is
    # drawn later.
    rng = np.random.default_rng(rng.integers(2**63))
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(rows):
        return layer
    # Only the square around the part is lit; its texture frequencies follow the part's size.
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    top, left = (min(max(0, (v[0] + v[-1] + 1 - extent) // 2), len(alpha) - extent) for v in (rows, columns))
    window = np.s_[top : top + extent, left : left + extent]
    mask, scale = alpha[window], extent / len(alpha)
    height = inflate(mask) * puff
    grain = fractal(mask.shape, rng, cells=90 * scale, octaves=2)
    mottle = fractal(mask.shape, rng, cells=3, octaves=5)
    height += 0.0008 * bump * grain
    if folds:
        height += 0.1 * folds * np.abs(fractal(mask.shape, rng, cells=2.5, octaves=3)) * smoothstep(0, 0.15, height)
    colour = np.asarray(albedo, np.float32) * (1 + 0.06 * mottle[..., None])
    if weave:
        x, y = grid(extent)
        # Threads too fine for the picture are left out: a camera averages them, but sampling gives a moire pattern.
        threads = np.sin(x * 420 * scale) * np.sin(y * 420 * scale) * smoothstep(300, 600, len(alpha))
        colour = colour * (1 + 0.22 * weave * threads + 0.08 * weave * grain)[..., None]
    layer[window] = paint(shade(normals(height), colour.astype(np.float32), light, gloss, shine), mask)
    return layer


def label(rng, width: int = 384, height: int = 512) -> np.ndarray:
    """A printed design with paper, bands, a mark and words that mean nothing, (height, width, 3) float32."""
    paper, ink, accent = natural_colour(rng), natural_colour(rng), natural_colour(rng)
    if abs(paper.mean() - ink.mean()) < 0.3:  # print must be legible
        ink = np.full(3, 0.06 if paper.mean() > 0.5 else 0.94, np.float32)
    art = np.tile(paper, (height, width, 1)).astype(np.float32)
    for y in rng.integers(0, height, rng.integers(1, 4)):
        cv2.rectangle(art, (0, int(y)), (width, int(y + rng.integers(4, 120))), accent.tolist(), -1)
    centre = (int(rng.uniform(0.3, 0.7) * width), int(rng.uniform(0.2, 0.5) * height))
    mark = int(rng.integers(30, 90))
    cv2.circle(art, centre, mark, ink.tolist(), int(rng.choice([-1, 3, 8])), cv2.LINE_AA)
    cv2.circle(art, centre, int(mark * 0.6), accent.tolist(), -1, cv2.LINE_AA)
    for line in range(int(rng.integers(2, 6))):
        size = float(rng.choice([0.7, 1.2, 2.0, 2.8]))
        origin = (int(rng.integers(10, 110)), int(height * (0.5 + 0.1 * line)))
        word = WORDS[rng.integers(len(WORDS))]
        font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX]))
        printed = np.zeros((height, width), np.uint8)  # OpenCV 5 writes on nothing else
        cv2.putText(printed, word, origin, font, size, 1, int(2 * size) + 1)
        art[printed > 0] = ink
    return cv2.GaussianBlur(art, (0, 0), 0.7)


def revolve(profile: np.ndarray, tilt: float, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A body of revolution about the vertical axis, seen from slightly above.

    profile: (K, 2) of (y, radius) in the unit frame; tilt: the ratio of its ellipses' axes. Returns the alpha, the
    normals (side, side, 3), the position along the profile in [0, 1] and the azimuth in units of half turns.
    """
    ys = np.linspace(profile[0, 0], profile[-1, 0], 512, dtype=np.float32)
    radii = monotone(*profile.T, ys).astype(np.float32)
    slices = [ellipse((0, y), (r, tilt * r)) for y, r in zip(ys[::6], radii[::6], strict=True)]
    outline = np.concatenate([np.stack([radii, ys], -1), np.stack([-radii, ys], -1)[::-1]])
    alpha = coverage([outline, *slices, ellipse((0, ys[-1]), (radii[-1], tilt * radii[-1]))], side)
    x, y = grid(side)
    span = ys[-1] - ys[0]
    depth = np.zeros_like(x)
    for _ in range(4):  # the visible point at height h is drawn lower by tilt * depth: a fixed point
        at = np.clip((y - tilt * depth - ys[0]) / span, 0, 1)
        index = (at * 511).astype(np.int32)
        radius = radii[index]
        depth = np.sqrt(np.maximum(radius**2 - x**2, 0))
    slope = (np.gradient(radii) / (span / 511)).astype(np.float32)
    across = np.clip(x / radius, -1, 1)
    normal = np.stack([across, -slope[index], np.sqrt(np.maximum(1 - across**2, 0))], -1)
    normal /= np.sqrt(np.einsum("hwc,hwc->hw", normal, normal))[..., None]
    return alpha, normal, at, np.arcsin(across) / np.pi


def draw_profile(rng, names) -> tuple[np.ndarray, str]:
    """A varied profile (K, 2) of (y, radius), filling the frame's height or width, and its extras."""
    points, extras = PROFILES[names[rng.integers(len(names))]]
    points = np.array(points, np.float32)
    points[:, 1] *= rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.06, len(points))
    half_height = 0.86 * rng.uniform(0.8, 1) * min(1, 1.05 / (points[:, 1].max() / 0.42))
    profile = np.stack([points[:, 0] * 2 * half_height - half_height, np.minimum(points[:, 1], 0.9)], -1)
    if "handle" in extras:
        profile[:, 1] *= min(1, 0.55 / profile[:, 1].max())
    return profile, extras


def handle(profile: np.ndarray, side: int, rng, light: Light, colour) -> np.ndarray:
    """A bent handle on one side of a turned body; with an open hole between them."""
    sign, top, bottom = rng.choice([-1, 1]), profile[0, 0], profile[-1, 0]
    upper, lower = top + rng.uniform(0.12, 0.2) * (bottom - top), top + rng.uniform(0.62, 0.78) * (bottom - top)
    inner = [np.interp(y, profile[:, 0], profile[:, 1]) - 0.03 for y in (upper, lower)]
    out = rng.uniform(0.2, 0.32)
    bend = [(inner[0], upper), (max(inner) + 0.8 * out, upper - 0.03), (max(inner) + out, (upper + lower) / 2),
            (inner[1] + 0.7 * out, lower - 0.02), (inner[1], lower)]
    path = spline(np.array(bend) * (sign, 1), 80, loop=False)
    return round_part(tube_coverage([path], [rng.uniform(0.07, 0.11)], side), rng, light, colour, gloss=0.4)


def opening(profile, tilt: float, side: int, rng, colour, is_open: bool, light: Light) -> np.ndarray:
    """The top ellipse: a flat lid, or a rim with the dark inside and sometimes a drink."""
    y, radius = profile[0]
    lid_colour = np.clip(colour * 0.9 * (light.ambient + 0.7), 0, 1)
    lid = paint(lid_colour, coverage([ellipse((0, y), (radius, tilt * radius))], side))
    if not is_open:
        return lid
    inner = radius * 0.93
    _, rows = grid(side)
    shadow = smoothstep(y - tilt * inner, y + tilt * inner, rows)[..., None]
    hollow = paint(colour * (0.2 + 0.55 * shadow), coverage([ellipse((0, y), (inner, tilt * inner))], side))
    layer = over(hollow, lid)
    if rng.random() < 0.5:
        drink = rng.choice([(0.2, 0.11, 0.06), (0.5, 0.3, 0.16), (0.72, 0.55, 0.3)]) * (0.7 + 0.5 * shadow)
        surface = coverage([ellipse((0, y + 0.12 * tilt * inner), (inner * 0.93, tilt * inner * 0.86))], side)
        layer = over(paint(drink.astype(np.float32), surface), layer)
    return layer


def turned(side: int, rng, names=tuple(PROFILES)) -> np.ndarray:
    """A bottle, jar, mug, vase, bowl, can or lamp: glazed, matt or metallic, with cap, label, opening and handle."""
    light, tilt = draw_light(rng), rng.uniform(0.08, 0.3)
    profile, extras = draw_profile(rng, names)
    gloss, colour = rng.choice([0.08, 0.35, 0.7, 1.0]), natural_colour(rng)
    alpha, normal, at, azimuth = revolve(profile, tilt, side)
    albedo = np.broadcast_to(colour, normal.shape).copy()
    glaze = fractal((side, side), rng, cells=5, octaves=6)
    if rng.random() < 0.3:
        albedo *= (0.95 + 0.16 * smoothstep(-0.2, 0.8, glaze))[..., None]
    if rng.random() < 0.35:  # a dipped glaze or a painted foot
        border = at + 0.012 * glaze > rng.uniform(0.55, 0.85)
        albedo[border] = natural_colour(rng)
    if "label" in extras and rng.random() < 0.75:
        low, high, centre = 0.48, rng.uniform(0.8, 0.92), rng.uniform(-0.15, 0.15)
        art = label(rng)
        u = (azimuth - centre) / 0.8 + 0.5
        v = (at - low) / (high - low)
        printed = cv2.remap(art, u * 384, v * 512, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = (np.abs(u - 0.5) < 0.5) & (np.abs(v - 0.5) < 0.5)
        albedo[inside] = printed[inside]
    if "cap" in extras and rng.random() < 0.8:
        ridges = 1 + 0.12 * np.sign(np.sin(azimuth * np.pi * 60)) if rng.random() < 0.5 else np.ones_like(at)
        lid = at < 0.14
        albedo[lid] = natural_colour(rng) * ridges[lid][:, None]
    lit = shade(normal, albedo.astype(np.float32), light, gloss, rng.uniform(20, 120))
    # Less light arrives where the body meets the table.
    lit *= (1 - 0.35 * smoothstep(0.85, 1.0, at))[..., None]
    layer = over(opening(profile, tilt, side, rng, colour, "open" in extras, light), paint(lit, alpha))
    if "handle" in extras and rng.random() < 0.85:
        layer = over(layer, handle(profile, side, rng, light, colour))
    return layer
