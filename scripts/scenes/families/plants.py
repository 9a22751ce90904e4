"""The foliage family: house plants, trees, ferns, grass and conifers, leaf by leaf."""

import numpy as np

from scenes.families.drawing import blank, draw_polygons, draw_strands, fit, over, polar, reduce, relight, rotate
from scenes.families.solids import turned
from scenes.families.strands import TONES, to_index, tubes
from scenes.families.textures import draw_light, fractal, ramp, tones
from scenes.families.threads import branch

LEAF_COLOURS = (
    (74, 104, 46), (98, 128, 58), (52, 84, 50), (120, 140, 70), (64, 96, 70), (150, 128, 50), (170, 90, 40),
    (142, 52, 36),
)
# Half outlines of leaves: half width at evenly spaced places from stalk to tip.
LEAF_SHAPES = (
    (0.02, 0.26, 0.38, 0.38, 0.3, 0.18, 0.0), (0.02, 0.12, 0.17, 0.18, 0.15, 0.09, 0.0),
    (0.02, 0.44, 0.5, 0.4, 0.26, 0.12, 0.0), (0.02, 0.2, 0.5, 0.28, 0.5, 0.2, 0.0),
    (0.02, 0.08, 0.1, 0.1, 0.09, 0.06, 0.0),
)
PLANT_POTS = ("vase", "jar", "mug", "pitcher", "bowl", "tumbler")


def leaf_outline(shape, rows: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Midrib positions (rows,) and half widths (rows,) of a leaf of length 1."""
    s = np.linspace(0, 1, rows)
    return s, np.interp(s, np.linspace(0, 1, len(shape)), shape)


def draw_leaf(canvas, foot, heading: float, length: float, shape, palette, light, rng, detail: bool) -> None:
    """One leaf, folded along its midrib: two halves with their own light and, in detail, cross bands and veins."""
    s, half = leaf_outline(shape)
    bend, fold = rng.normal(0, 0.5), rng.uniform(0.45, 1.0)
    spine = np.cumsum(polar(heading + bend * s), 0) * length / len(s)
    spine = foot + spine - spine[0]
    across = np.stack([-np.sin(heading + bend * s), np.cos(heading + bend * s)], -1) * half[:, None] * length
    # The half that faces the light is brighter; the leaf's heading decides which one.
    facing = float(np.sign(across[len(s) // 2] @ light.direction[:2])) or 1.0
    exposure = rng.uniform(0.32, 0.68)
    for sign, width in ((-1, fold), (1, 1.0 if rng.random() < 0.7 else fold)):
        level = exposure + 0.11 * sign * facing
        edge = spine + sign * width * across
        draw_polygons(canvas, [np.concatenate([spine, edge[::-1]])], [pick(palette, level)])
        if detail:
            draw_bands(canvas, spine, edge, level, bend, palette)
    if detail:
        rim = spine[3:13] + np.array([[[-1]], [[1]]]) * fold * 0.75 * across[3:13]  # (2 halves, 10 veins, xy)
        veins = np.stack([np.broadcast_to(spine[1:11], rim.shape), rim], 2).reshape(-1, 2, 2)
        width = np.full((len(veins), 1), 0.0022)
        draw_strands(canvas, veins, to_index(np.full(width.shape, exposure + 0.16)), width, palette, slices=1)
        rib = 0.012 * length * np.linspace(1.4, 0.3, len(s) - 1)[None]
        draw_strands(canvas, spine[None], to_index(np.full(rib.shape, exposure + 0.24)), rib, palette, slices=1)


def draw_bands(canvas, spine, edge, level: float, bend: float, palette) -> None:
    """Cross bands of one half leaf, inside its outline: brightness along its curve and towards its edge."""
    inner = spine + 0.94 * (edge - spine)
    rows = np.arange(1, len(spine) - 2)
    quads = [np.stack([a, b, c, d]) for a, b, c, d in
             zip(spine[rows], spine[rows + 1], inner[rows + 1], inner[rows], strict=True)]
    shades = level + 0.13 * np.sin(np.linspace(0, 3, len(rows)) + bend * 2) - 0.03
    draw_polygons(canvas, quads, [pick(palette, value) for value in shades])


def pick(palette: np.ndarray, level: float) -> np.ndarray:
    """One colour of a tone ramp."""
    return palette[int(np.clip(level * TONES, 0, TONES - 1))]


def foliage(side: int, rng) -> np.ndarray:
    """A plant: broad leaves in detail, a tree crown, fern fronds, or grass and reeds."""
    layer = rng.choice([broad_leaves, broad_leaves, crown, fern, grass])(side, rng)
    return relight(layer, 1 + 0.07 * fractal((side, side), rng, cells=70, octaves=3))


def leaf_palette(rng) -> np.ndarray:
    """Tones of a leaf: cool shadow, own green, yellowish where light shines through."""
    base = np.array(LEAF_COLOURS[rng.integers(len(LEAF_COLOURS))]) / 255 * rng.uniform(0.8, 1.15)
    sunlit, shining = base * (1.35, 1.25, 1.0) + 0.04, base * 0.4 + (0.58, 0.58, 0.5)
    stops = [base * (0.14, 0.18, 0.2), base * 0.6, base, sunlit, shining]
    return np.clip(ramp(stops, np.linspace(0, 1, TONES, dtype=np.float32)), 0, 1)


def broad_leaves(side: int, rng) -> np.ndarray:
    """A house plant or a cut branch: ten to sixty leaves on stems, sometimes in a pot."""
    light, palette, shape = draw_light(rng), leaf_palette(rng), LEAF_SHAPES[rng.integers(len(LEAF_SHAPES))]
    potted = rng.random() < 0.45
    foot = np.array([0.0, 0.42 if potted else 0.9])
    canvas = blank(side)
    stems, leaves = int(rng.integers(4, 10)), []
    for _ in range(stems):
        heading, bend = -np.pi / 2 + rng.normal(0, 0.5), rng.normal(0, 0.7)
        reach = rng.uniform(0.55, 0.95) * (1.2 if potted else 1.5)
        s = np.linspace(0, 1, 14)
        turn = heading + bend * s
        path = foot + np.cumsum(polar(turn), 0) * reach / 14
        leaves += [(path[k], turn[k] + side_ * rng.uniform(0.5, 1.1)) for k in range(4, 13, 2) for side_ in (-1, 1)]
        leaves.append((path[-1], turn[-1]))
        tubes(canvas, np.clip(path, -0.94, 0.94)[None], 0.02 * np.linspace(1, 0.5, 13)[None], palette, light)
    size = rng.uniform(0.22, 0.42)
    for place, heading in sorted(leaves, key=lambda leaf: rng.random()):
        length = size * rng.uniform(0.6, 1.1)
        # A leaf that would leave the frame is made smaller, like a younger one.
        room = 0.97 - np.abs(place).max()
        if room > 0.05:
            draw_leaf(canvas, place, heading, min(length, room * 0.9), shape, palette, light, rng, detail=True)
    layer = reduce(canvas, side)
    return over(layer, pot(side, rng)) if potted else layer


def pot(side: int, rng) -> np.ndarray:
    """A turned vessel on the frame's lower edge, for a plant to stand in."""
    small = round(side * 0.42)
    layer = np.zeros((side, side, 4), np.float32)
    left, top = (side - small) // 2, side - small - round(0.02 * side)
    layer[top : top + small, left : left + small] = turned(small, rng, PLANT_POTS)
    return layer


def crown(side: int, rng) -> np.ndarray:
    """A tree or shrub: boughs and two thousand small leaves, dark inside, bright at the outside and on top."""
    light, palette, shape = draw_light(rng), leaf_palette(rng), LEAF_SHAPES[rng.integers(3)]
    found = branch(np.array([0.0, 0.93]), -np.pi / 2 + rng.normal(0, 0.1), 1.15, 0.075, rng, 2)
    paths, widths = np.stack([p for p, _ in found]), np.stack([w for _, w in found])
    canvas = blank(side)
    tubes(canvas, np.clip(paths, -0.9, 0.96)[::-1], widths[::-1], tones(np.array([0.36, 0.29, 0.24]), TONES), light)
    tips = paths[:, 4:][rng.random((len(paths), 6)) < 0.8].clip(-0.85, 0.85)
    tips = tips[tips[:, 1] < 0.35]
    count = int(rng.integers(1200, 2600))
    foot = tips[rng.integers(len(tips), size=count)] + rng.normal(0, rng.uniform(0.05, 0.12), (count, 2))
    foot = foot.clip(-0.9, 0.9)
    depth = rng.random(count)
    order = np.argsort(depth)
    s, half = leaf_outline(shape, 7)
    outline = np.concatenate([np.stack([s, half], -1), np.stack([s, -half], -1)[::-1]])
    length = rng.uniform(0.05, 0.085)
    heading = rng.normal(np.pi / 2, 1.2, count)
    squash = rng.uniform(0.35, 1, (count, 1))
    turned_away = np.stack([np.ones_like(squash), squash], -1)
    leaves = outline[None] * turned_away * length * rng.uniform(0.6, 1.1, (count, 1, 1))
    leaves = fit(rotate(leaves, heading[:, None]) + foot[:, None])
    clump = fractal((64, 64), rng, cells=5, octaves=3)[tuple(((foot.T[::-1] + 1) * 32).clip(0, 63).astype(int))]
    lit = 0.1 * foot[:, 0] * np.sign(light.direction[0]) - 0.14 * foot[:, 1]
    level = 0.1 + 0.42 * depth + 0.1 * clump + lit + rng.normal(0, 0.08, count)
    draw_polygons(canvas, leaves[order], [pick(palette, value) for value in level[order]])
    return reduce(canvas, side)


def fern(side: int, rng) -> np.ndarray:
    """Fronds with leaflets that shrink towards the tip; narrow ones make a conifer or palm."""
    light, palette = draw_light(rng), leaf_palette(rng)
    canvas = blank(side)
    needles = rng.random() < 0.5
    for _ in range(rng.integers(3, 9)):
        heading, bend = -np.pi / 2 + rng.normal(0, 0.6), rng.normal(0, 0.9)
        s = np.linspace(0, 1, 60)
        turn = heading + bend * s**1.5
        path = (0, 0.85) + np.cumsum(polar(turn), 0) * rng.uniform(1.1, 1.6) / 60
        steps = np.linspace(0, 1, 8)[None, :, None]
        reach = (0.05 + 0.3 * np.sqrt(np.clip(s, 0, 1)) * (1 - s) ** 0.8) * rng.uniform(0.9, 1.1, 60)
        if needles:
            path, turn, reach = np.repeat(path, 4, 0), np.repeat(turn, 4), np.repeat(reach, 4) * 0.7
            turn, reach = turn + rng.normal(0, 0.2, len(turn)), reach * rng.uniform(0.7, 1.1, len(turn))
        for sign in (-1, 1):
            lean = turn + sign * rng.uniform(0.9, 1.2)
            ray = polar(lean)[:, None] * reach[:, None, None] * steps
            ray = rotate(ray, -sign * 0.35 * steps[..., 0])
            tone = 0.5 + 0.12 * sign * np.sign(light.direction[0]) + rng.normal(0, 0.08, (len(path), 1))
            tone = np.repeat(tone, 7, 1)
            body = np.array([0.5, 0.9, 1, 0.95, 0.8, 0.55, 0.25]) * (0.006 if needles else 0.026)
            draw_strands(canvas, fit(path[:, None] + ray), to_index(tone), np.broadcast_to(body, tone.shape), palette)
        tubes(canvas, fit(path)[None], np.linspace(0.016, 0.004, len(path) - 1)[None], palette, light)
    return reduce(canvas, side)


def grass(side: int, rng) -> np.ndarray:
    """A tuft of tapered blades or reeds."""
    palette, count = leaf_palette(rng), int(rng.integers(120, 700))
    root = rng.normal((0, 0.9), (rng.uniform(0.08, 0.25), 0.02), (count, 2))
    s = np.linspace(0, 1, 18)[None]
    turn = -np.pi / 2 + rng.normal(0, 0.22, (count, 1)) + rng.normal(0, 0.9, (count, 1)) * s**2
    step = rng.uniform(0.5, 1.75, (count, 1)) / 18
    blades = root[:, None] + np.cumsum(polar(turn) * step[..., None], 1)
    tone = (0.22 + 0.45 * s[:, 1:]) * rng.uniform(0.7, 1.3, (count, 1))
    width = rng.uniform(0.012, 0.03) * (1 - 0.9 * s[:, 1:] ** 1.5) * rng.uniform(0.6, 1.2, (count, 1))
    canvas = blank(side)
    for share, lift in ((1.0, 0.8), (0.45, 1.1)):
        draw_strands(canvas, fit(blades), to_index(tone * lift), width * share, palette, slices=60)
    return reduce(canvas, side)
