"""The product family: things as shops photograph them, made of parts, with holes like the real ones."""

# ruff: noqa: RUF005 - outline + (x, y) is a sum of vectors, not a concatenation

import cv2
import numpy as np

from scenes.families.drawing import closed, coverage, ellipse, over, paint, polar, rotate, spline, tube_coverage
from scenes.families.solids import label, round_part
from scenes.families.textures import draw_light, fractal, grid, natural_colour

# Apple, pear, lemon, orange, potato, pebble.
SKINS = ((0.7, 0.14, 0.1), (0.55, 0.66, 0.2), (0.92, 0.72, 0.16), (0.9, 0.5, 0.14), (0.62, 0.48, 0.34), (0.5,) * 3)


def product(side: int, rng) -> np.ndarray:
    """A box, shoe, bag, chair, fruit, pair of spectacles, ring of metal or cushion."""
    return rng.choice([box, box, shoe, shoe, bag, chair, fruit, spectacles, hardware, cushion])(side, rng)


def box(side: int, rng) -> np.ndarray:
    """A printed carton or book in perspective: three faces, each a warped print with its own light."""
    light = draw_light(rng)
    extent = rng.uniform(0.35, 1, 3) * (1, 1, rng.choice([0.25, 1]))
    yaw, pitch = rng.uniform(0.3, 1.2), rng.uniform(0.25, 0.7)
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * extent
    spin = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    nod = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    turn = nod @ spin
    seen = corners @ turn.T
    flat = seen[:, :2] / (1 - 0.12 * seen[:, 2:])
    flat = (flat - (flat.max(0) + flat.min(0)) / 2) / (np.ptp(flat, axis=0).max() / 1.84)
    art, plain = label(rng), natural_colour(rng)
    texture = fractal((side, side), rng, cells=50, octaves=3)
    layer = np.zeros((side, side, 4), np.float32)
    # Corner indices of each face, clockwise when facing its print, with the outward normal.
    faces = [((1, 5, 7, 3), (0, 0, 1)), ((4, 0, 2, 6), (0, 0, -1)), ((5, 4, 6, 7), (1, 0, 0)),
             ((0, 1, 3, 2), (-1, 0, 0)), ((0, 4, 5, 1), (0, -1, 0))]
    visible = [(flat[list(index)], turn @ normal) for index, normal in faces if (turn @ normal)[2] > 0.02]
    hull = coverage([quad for quad, _ in visible], side)
    layer = paint(np.clip(art.mean((0, 1)) * 0.55, 0, 1), hull)
    for quad, normal in visible:
        design = art if rng.random() < 0.7 else np.clip(art * 0.25 + plain * 0.75, 0, 1)
        source = np.array([(0, 0), (384, 0), (384, 512), (0, 512)], np.float32)
        target = ((quad + 1) * side / 2 - 0.5).astype(np.float32)
        warp = cv2.getPerspectiveTransform(source, target)
        shown = cv2.warpPerspective(design, warp, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        level = light.ambient + 0.85 * np.clip(normal @ light.direction, 0, 1) + 0.1
        x, y = grid(side)
        sheen = level * (1 + 0.02 * texture - 0.1 * (y - quad[:, 1].mean()) + 0.08 * (x - quad[:, 0].mean()))
        layer = over(paint(np.clip(shown * sheen[..., None] * light.colour, 0, 1), coverage([quad], side)), layer)
    # Adjacent antialiased faces leave a seam; the silhouette stays the union's.
    return np.concatenate([np.minimum(layer[..., :3], hull[..., None]), hull[..., None]], -1)


def shoe(side: int, rng) -> np.ndarray:
    """A sports shoe or boot from the side: sole, upper, toe cap, stripes and laces."""
    light, flip = draw_light(rng), rng.choice([-1, 1])
    shaft = rng.uniform(-0.55, 0.0) if rng.random() < 0.3 else rng.uniform(-0.28, -0.1)
    upper_points = [(-0.82, 0.3), (-0.86, 0.02), (-0.8, shaft), (-0.62, shaft - 0.06), (-0.36, shaft), (-0.2, -0.02),
                    (0.15, 0.1), (0.55, 0.16), (0.82, 0.24), (0.86, 0.34), (0.3, 0.36), (-0.4, 0.36)]
    sole_points = [(-0.88, 0.28), (-0.4, 0.33), (0.3, 0.33), (0.88, 0.3), (0.92, 0.4), (0.8, 0.47), (0.1, 0.47),
                   (-0.5, 0.48), (-0.86, 0.47)]
    jitter = rng.normal(0, 0.012, (len(upper_points), 2))
    upper = coverage([spline(np.array(upper_points) + jitter, 200) * (flip, 1)], side)
    sole = coverage([spline(sole_points, 160) * (flip, 1)], side)
    colour, second = natural_colour(rng), natural_colour(rng)
    rubber = np.array([0.9, 0.89, 0.86]) * rng.choice([1, 1, 0.25])
    style = {"gloss": rng.choice([0.05, 0.3, 0.6]), "bump": 0.8, "weave": rng.choice([0, 0.8])}
    layer = round_part(sole, rng, light, rubber, gloss=0.1, puff=0.4)
    layer = over(round_part(upper, rng, light, colour, **style), layer)
    shapes = [
        spline([(0.5, 0.13), (0.84, 0.24), (0.88, 0.36), (0.55, 0.35), (0.42, 0.25)], 60),
        spline([(-0.84, 0.0), (-0.6, 0.05), (-0.55, 0.34), (-0.82, 0.32)], 60),
    ]
    for shape in shapes:
        patch = coverage([shape * (flip, 1)], side) * upper
        layer = over(round_part(patch, rng, light, second, gloss=0.2, puff=0.25, bump=0.6), layer)
    stripe = spline([(-0.35, 0.36), (-0.3, 0.2), (-0.14, 0.06)], 30, loop=False)
    stripes = [stripe + (0.16 * k, 0.015 * k) for k in range(int(rng.integers(0, 4)))]
    laces = [np.array([(-0.3 + 0.09 * k, 0.028 * k), (-0.16 + 0.1 * k, 0.03 * k - 0.04)]) for k in range(6)]
    for paths, width, tint in ((stripes, 0.05, second), (laces, 0.028, np.array([0.92, 0.91, 0.88]))):
        stroke = tube_coverage([p * (flip, 1) for p in paths], [width] * len(paths), side) * upper
        layer = over(round_part(stroke, rng, light, tint, gloss=0.1, puff=0.3), layer)
    return layer


def bag(side: int, rng) -> np.ndarray:
    """A handbag or tote: soft body, flap, clasp, and handles with a gap."""
    light, colour = draw_light(rng), natural_colour(rng)
    wide, narrow, top = rng.uniform(0.6, 0.85), rng.uniform(0.45, 0.7), rng.uniform(-0.2, 0.1)
    body = spline([(-narrow, top), (0, top - 0.02), (narrow, top), (wide, 0.78), (0, 0.86), (-wide, 0.78)], 200)
    arch, thickness = rng.uniform(0.25, 0.5), rng.uniform(0.03, 0.07)
    loops = [spline([(-arch, top + 0.2), (-arch * 0.9, -0.62 + lift), (0, -0.86 + lift), (arch * 0.9, -0.62 + lift),
                     (arch, top + 0.2)], 100, loop=False) for lift in (0.0, 0.1)]
    style = {"gloss": rng.choice([0.05, 0.3, 0.6]), "bump": rng.uniform(0.3, 1.2), "weave": rng.choice([0, 0, 1.0])}
    layer = round_part(tube_coverage(loops[1:], [thickness], side), rng, light, colour * 0.6, **style)
    front = round_part(coverage([body], side), rng, light, colour, puff=0.45, folds=rng.uniform(0, 0.5), **style)
    layer = over(front, layer)
    if rng.random() < 0.6:
        flap = spline([(-narrow, top), (narrow, top), (narrow * 1.05, 0.22), (0, 0.42), (-narrow * 1.05, 0.22)], 120)
        layer = over(round_part(coverage([flap], side), rng, light, colour * 0.92, puff=0.2, **style), layer)
        clasp = coverage([ellipse((0, 0.36), (0.06, 0.075))], side)
        layer = over(round_part(clasp, rng, light, np.array([0.75, 0.62, 0.36]), gloss=1.0), layer)
    return over(round_part(tube_coverage(loops[:1], [thickness], side), rng, light, colour, **style), layer)


def chair(side: int, rng) -> np.ndarray:
    """A chair or stool: thin legs, a seat, a back of slats."""
    light, wood, cloth = draw_light(rng), natural_colour(rng), natural_colour(rng)
    lean, top, width = rng.uniform(0.02, 0.12), rng.uniform(-0.92, -0.75), rng.uniform(0.04, 0.075)
    front, back, deep = rng.uniform(0.42, 0.55), rng.uniform(0.34, 0.42), rng.uniform(0.12, 0.24)
    seat_y, foot = 0.12, 0.92
    rear = [np.array([(s * back, seat_y - deep), (s * (back + lean), foot - deep)]) for s in (-1, 1)]
    posts = [np.array([(s * back, seat_y), (s * (back - lean * 0.5), top)]) for s in (-1, 1)]
    legs = [np.array([(s * front, seat_y + 0.05), (s * (front + lean), foot)]) for s in (-1, 1)]
    slats = int(rng.integers(2, 6))
    if rng.random() < 0.5:
        bars = [np.array([(-back, y), (back, y)]) for y in np.linspace(top + 0.06, seat_y - 0.25, slats)]
    else:
        bars = [np.array([(x, seat_y), (x, top + 0.04)]) for x in np.linspace(-back, back, slats + 3)[1:-1]]
        bars.append(np.array([(-back, top + 0.04), (back, top + 0.04)]))
    brace = [np.array([(-front - lean * 0.5, 0.55), (front + lean * 0.5, 0.55)])]
    seat = spline([(-front, seat_y + 0.08), (-back, seat_y - deep), (back, seat_y - deep), (front, seat_y + 0.08)], 120)
    layer = np.zeros((side, side, 4), np.float32)
    for paths, scale, tone in ((rear, 0.85, 0.6), (bars, 0.7, 0.92), (posts, 0.95, 1.0), (brace, 0.6, 0.8)):
        sticks = tube_coverage(paths, [width * scale] * len(paths), side)
        layer = over(round_part(sticks, rng, light, wood * tone, bump=0.5), layer)
    layer = over(round_part(coverage([seat], side), rng, light, cloth, gloss=0.1, puff=0.35, weave=0.6), layer)
    return over(round_part(tube_coverage(legs, [width] * 2, side), rng, light, wood, bump=0.5), layer)


def fruit(side: int, rng) -> np.ndarray:
    """An apple, pear, lemon, potato or stone, or a little heap of them."""
    light = draw_light(rng)
    first = rng.choice(SKINS)
    count = int(rng.choice([1, 1, 3, 5]))
    radius = 0.8 if count == 1 else 0.42
    layer = np.zeros((side, side, 4), np.float32)
    turn = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    for item in range(count):
        centre = np.array([(item - (count - 1) / 2) * 1.15 / count, rng.uniform(0, 0.35) * (count > 1)])
        shape = (1 + rng.normal(0, 0.045, (10, 1))) * polar(turn) * (rng.uniform(0.8, 1), 0.92)
        stem = np.array([(0, -0.75), (0.03, -0.95), (0.1, -1.08)]) * radius + centre
        layer = over(round_part(tube_coverage([stem], [0.03], side), rng, light, np.array([0.3, 0.22, 0.12])), layer)
        flesh = coverage([spline(shape * radius * 0.92 + centre, 120)], side)
        style = {"gloss": rng.uniform(0.05, 0.6), "puff": 0.95, "bump": rng.choice([0, 0.6])}
        layer = over(round_part(flesh, rng, light, first * rng.uniform(0.85, 1.15, 3), **style), layer)
    return layer


def spectacles(side: int, rng) -> np.ndarray:
    """Spectacles from the front: a thin frame and clear or tinted lenses."""
    light, tint = draw_light(rng), natural_colour(rng)
    shape = (rng.uniform(0.3, 0.37), rng.uniform(0.2, 0.34))
    power = rng.uniform(2, 3.5)
    turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    lens = np.stack([np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / power) * shape[0],
                     np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (2 / power) * shape[1]], -1)
    lenses = [lens + (sign * 0.45, 0) for sign in (-1, 1)]
    rings = [closed(shape_) for shape_ in lenses]
    width = rng.uniform(0.025, 0.08)
    bridge = spline([(-0.45 + shape[0], -0.06), (0, -0.13), (0.45 - shape[0], -0.06)], 30, loop=False)
    arms = [np.array([(s * (0.43 + shape[0]), -0.08), (s * 0.93, -0.13)]) for s in (-1, 1)]
    _, y = grid(side)
    strength = rng.choice([0.08, 0.5, 0.8]) * (0.75 - 0.5 * y / shape[1]).clip(0.4, 1.2)
    glass = paint(natural_colour(rng) * 0.4, coverage(lenses, side) * strength)
    frame = tube_coverage([*rings, bridge, *arms], [width] * 2 + [width * 0.8] + [width] * 2, side)
    return over(round_part(frame, rng, light, tint, gloss=0.8, shine=80), glass)


def hardware(side: int, rng) -> np.ndarray:
    """Metal or plastic things with holes: a gear, a ring or a key, standing or lying."""
    light, kind = draw_light(rng), rng.integers(3)
    metal = rng.choice([(0.74, 0.74, 0.76), (0.8, 0.65, 0.36), (0.66, 0.42, 0.3), (0.2, 0.2, 0.22)])
    turn = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    if kind == 0:
        teeth = 1 + 0.09 * np.tanh(6 * np.sin(turn * rng.integers(9, 22)))
        alpha = coverage([polar(turn) * 0.8 * teeth[:, None]], side)
        holes = [ellipse((0, 0), (0.2, 0.2))]
        holes += [ellipse(0.47 * np.array([np.cos(a), np.sin(a)]), (0.13, 0.13)) for a in np.arange(6) * np.pi / 3]
        alpha = alpha * (1 - coverage(holes[: rng.choice([1, 7])], side))
    elif kind == 1:
        loop = ellipse((0, 0), (0.72, 0.72 * rng.uniform(0.4, 1)), rng.uniform(0, 3), count=300)
        alpha = tube_coverage([closed(loop)], [rng.uniform(0.06, 0.3)], side)
    else:
        bow = ellipse((0, -0.55), (0.3, 0.27))
        teeth = [np.array([(0, y), (rng.uniform(0.14, 0.24), y)]) for y in (0.55, 0.66, 0.78)]
        paths = [closed(bow), np.array([(0, -0.28), (0, 0.85)]), *teeth]
        alpha = tube_coverage([rotate(p, 0.4) for p in paths], [0.1, 0.09, 0.075, 0.075, 0.075], side)
    return round_part(alpha, rng, light, metal, gloss=1.0, shine=50, puff=0.6, bump=0.35)


def cushion(side: int, rng) -> np.ndarray:
    """A cushion or folded piece of cloth with a seam."""
    light, colour = draw_light(rng), natural_colour(rng)
    bulge = rng.uniform(0.66, 0.78)
    shape = [(-0.85, -0.7), (0, -bulge), (0.85, -0.7), (0.78, 0), (0.85, 0.7), (0, bulge), (-0.85, 0.7), (-0.78, 0)]
    outline = rotate(spline(shape, 200), rng.uniform(-0.15, 0.15)) * 0.95
    alpha = coverage([outline], side)
    layer = round_part(alpha, rng, light, colour, gloss=0.02, puff=0.5, weave=1.0, folds=0.3)
    seam = tube_coverage([closed(outline)], [0.035], side)
    return over(round_part(seam, rng, light, natural_colour(rng), puff=0.5), layer)
