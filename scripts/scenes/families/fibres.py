"""Families made of fibres: hair, fur and feather."""

# ruff: noqa: RUF005 - outline + (x, y) is a sum of vectors, not a concatenation

from dataclasses import dataclass, replace

import numpy as np

from scenes.families.drawing import (
    blank,
    coverage,
    draw_polygons,
    draw_strands,
    ellipse,
    fit,
    over,
    paint,
    polar,
    reduce,
    rotate,
    spline,
)
from scenes.families.solids import round_part
from scenes.families.strands import TONES, pick_colour, strand_tone, to_index
from scenes.families.textures import draw_light, fractal, natural_colour, smoothstep, tones

HAIR_COLOURS = (
    (26, 21, 20), (44, 32, 26), (74, 50, 36), (108, 74, 48), (142, 100, 62), (186, 146, 96), (218, 190, 146),
    (128, 60, 34), (166, 84, 46), (150, 148, 146), (214, 212, 208), (90, 84, 82),
)
FUR_COLOURS = (*HAIR_COLOURS, (236, 230, 220), (240, 222, 190), (200, 150, 100), (246, 246, 244), (96, 94, 98))


def waves(count: int, steps: int, rng, amplitude: float, cycles: float, clumps: int = 40) -> np.ndarray:
    """Sideways offsets (count, steps): strands of one clump wave together, with small differences."""
    t = np.linspace(0, 1, steps)
    clump = rng.integers(clumps, size=count)
    phase = rng.uniform(0, 2 * np.pi, clumps)[clump] + rng.normal(0, 0.25, count)
    frequency = rng.uniform(0.7, 1.3, clumps)[clump] * cycles
    size = rng.uniform(0.5, 1.3, clumps)[clump] * amplitude
    wander = np.cumsum(rng.normal(0, 1, (count, steps)), 1) / np.sqrt(steps)
    swing = size[:, None] * np.sin(phase[:, None] + 2 * np.pi * frequency[:, None] * t)
    return (swing + 0.15 * amplitude * wander) * t


@dataclass(frozen=True)
class HairCut:
    """Properties shared by all strands of a head; lengths in the unit frame."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    length: float
    curl: float
    parting: float
    flare: float
    wind: float


def draw_haircut(curly: bool, rng) -> HairCut:
    """Short to long, straight to wavy (or curly), calm or blown by the wind."""
    radius = rng.uniform(0.27, 0.34)
    return HairCut(
        centre=(rng.uniform(-0.06, 0.06), rng.uniform(-0.36, -0.24)),
        radii=(radius, radius * rng.uniform(1.12, 1.25)),
        length=rng.uniform(0.16, 0.34) if curly else rng.uniform(0.3, 0.95),
        curl=rng.uniform(0.5, 1.0) if curly else rng.uniform(0, 0.9) ** 2,
        parting=rng.uniform(-0.1, 0.1),
        flare=rng.uniform(-0.25, 0.55),
        wind=rng.normal(0, 0.8) if rng.random() < 0.6 else 0.0,
    )


def long_hair(count: int, rng, cut: HairCut) -> np.ndarray:
    """Strands (count, 30, 3) that start at the crown, follow the skull's meridians and then fall."""
    steps = 30
    (cx, cy), (rx, ry) = cut.centre, cut.radii
    azimuth = rng.uniform(-1.55, 1.55, (count, 1))
    depth = np.sort(rng.uniform(0.9, 1.06, count))[:, None]  # the outermost strands cover the others
    leave = rng.uniform(0.5, 0.68, (count, 1)) * np.pi
    fall = cut.length * rng.uniform(0.6, 1.05, (count, 1))
    s = np.linspace(0, 1, steps)[None] * (leave * ry + fall)
    theta = np.minimum(s / ry, leave)
    down = np.maximum(s - leave * ry, 0)
    spread = 1 + cut.flare * down / max(cut.length, 0.1) + rng.normal(0, 0.05, (count, 1)) * down / 0.4
    # The crown is a little to one side; rolling the fan of meridians keeps them on the skull.
    roll = (cut.parting + rng.normal(0, 0.04, (count, 1))) / rx
    skull = rotate(np.stack([np.sin(theta) * np.sin(azimuth), -np.cos(theta)], -1), roll)
    blown = cut.wind * rng.uniform(0.2, 1.4, (count, 1)) * down**1.5
    x = cx + rx * depth * skull[..., 0] * spread + blown
    y = cy + ry * depth * skull[..., 1] + down - 0.35 * np.abs(blown)
    z = rx * depth * np.sin(theta) * np.cos(azimuth)
    x = x + waves(count, steps, rng, 0.012 + cut.curl * 0.05, 1.5 + 3 * cut.curl) * np.minimum(s / 0.5, 1)
    return np.stack([x, y, z], -1)


def curly_hair(count: int, rng, cut: HairCut) -> np.ndarray:
    """Strands (count, 26, 3) that leave the scalp outwards as helices."""
    steps = 26
    (cx, cy), (rx, ry) = cut.centre, cut.radii
    normal = rng.normal(0, 1, (count, 3)) + np.array([0, -0.75, 0.25])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = normal[np.argsort(normal[:, 2])]  # those that point at the camera last
    t = np.linspace(0, 1, steps)[None, :, None]
    spread = normal + rng.normal(0, 0.28, (count, 3))
    reach = cut.length * rng.uniform(0.35, 1, (count, 1, 1)) ** 0.7
    points = np.array([cx, cy, 0]) + normal[:, None] * np.array([rx, ry, rx]) + spread[:, None] * reach * t
    points[..., 1] += (0.2 + 0.6 * cut.flare) * reach[..., 0] * t[..., 0] ** 2
    turns = rng.uniform(1.5, 3.5, (count, 1)) * (0.4 + cut.curl)
    turn = 2 * np.pi * (t[..., 0] * turns + rng.random((count, 1)))
    radius = cut.length * 0.11 * cut.curl * np.minimum(t[..., 0] * 3, 1)
    return points + np.stack([radius * np.cos(turn), radius * np.sin(turn), radius * np.sin(turn + 1)], -1)


def bust(side: int, rng, light, cut: HairCut) -> np.ndarray:
    """Neck and clothed shoulders seen from behind, down to the lower edge of the frame."""
    (cx, cy), (rx, ry) = cut.centre, cut.radii
    low, slope = cy + ry, rng.uniform(0.1, 0.2)
    skin = np.array([0.88, 0.68, 0.56]) * rng.uniform(0.42, 1.05)
    neck = np.array([(-0.42, -0.3), (0.42, -0.3), (0.5, 0.25), (-0.5, 0.25)]) * (rx, 1) + (cx, low)
    half = np.array([(0.14, 0.06), (0.24, 0.08), (0.46, 0.08 + slope), (0.62, 0.3 + slope), (0.68, 1.1 - low)])
    outline = np.concatenate([half, half[::-1] * (-1, 1)]) + (cx, low)
    shoulders = spline(outline, 160, loop=False)
    layer = round_part(coverage([neck], side), rng, light, skin, gloss=0.08)
    cloth = round_part(coverage([shoulders], side), rng, light, natural_colour(rng), gloss=0.03, weave=0.4, folds=0.25)
    return over(cloth, layer)


def hair(side: int, rng) -> np.ndarray:
    """A head of hair from behind, long or curly, with fly-away strands; on shoulders, or as a wig."""
    light, curly = draw_light(rng), rng.random() < 0.35
    cut, grow = draw_haircut(curly, rng), curly_hair if curly else long_hair
    colour = pick_colour(HAIR_COLOURS, rng)
    palette = np.concatenate([tones(colour * factor, TONES) for factor in (1.0, 0.8, 1.18)])
    # Loose strands: the same cut, but a little longer, curlier and out of place.
    body, loose = grow(4200, rng, cut), grow(420, rng, replace(cut, length=cut.length * 1.1, curl=cut.curl + 0.25))
    steps = loose.shape[1]
    stray = np.cumsum(np.cumsum(rng.normal(0, 1, (len(loose), steps, 2)), 1), 1) / steps**1.5
    loose[..., :2] += 0.2 * stray * np.linspace(0, 1, steps)[None, :, None]
    scale = min(1, 0.96 / max(np.abs(body[..., :2]).max(), np.abs(loose[..., :2]).max()))

    def draw(strands, width):
        canvas = blank(side)
        tone = strand_tone(strands, light) * rng.uniform(0.65, 1.25, (len(strands), 1))
        tone *= np.clip(0.7 + 1.3 * strands[:, 1:, 2], 0.45, 1.15)  # the flanks of the head are turned away
        index = to_index(tone, rng.integers(3, size=(len(strands), 1)))
        taper = width * (1 - 0.75 * np.linspace(0, 1, strands.shape[1] - 1) ** 2)[None]
        draw_strands(canvas, strands[..., :2] * scale, index, np.repeat(taper, len(strands), 0), palette)
        return reduce(canvas, side)

    cut = replace(cut, centre=tuple(np.array(cut.centre) * scale), radii=tuple(np.array(cut.radii) * scale))
    layer = coverage([ellipse(cut.centre, np.array(cut.radii) * 0.97)], side)
    layer = paint(colour * 0.3, layer)
    if rng.random() < 0.75:
        layer = over(layer, bust(side, rng, light, cut))
    layer = over(draw(body, 0.0034), layer)
    return over(draw(loose, 0.0015) * np.float32(rng.uniform(0.55, 0.9)), layer)


def animal(rng) -> tuple[list[np.ndarray], np.ndarray, float]:
    """A small animal, sitting or on four legs: outlines back to front, eye positions (2, 2) and eye radius."""
    size, flip = rng.uniform(0.26, 0.34), rng.choice([-1, 1])
    if rng.random() < 0.6:
        head = np.array([0, rng.uniform(-0.38, -0.3)])
        waist = rng.uniform(0.34, 0.46)
        trunk = [ellipse((flip * (waist + 0.06), 0.46), (0.1, 0.3), rng.uniform(-0.5, 0.5)),
                 ellipse((0, 0.28), (waist, rng.uniform(0.4, 0.48)))]
        paws = [ellipse((sign * 0.2, 0.68), (0.13, 0.12)) for sign in (-1, 1)]
    else:
        size *= 0.85
        head = np.array([flip * 0.5, rng.uniform(-0.4, -0.2)])
        legs = [ellipse((flip * x, 0.52), (0.085, 0.3)) for x in (-0.52, 0.22, -0.36, 0.38)]
        tail = spline([(-0.55, 0.1), (-0.86, -0.1), (-0.84, -0.42), (-0.74, -0.4), (-0.72, -0.08), (-0.5, 0.0)], 70)
        barrel = ellipse((flip * -0.06, 0.18), (0.6, rng.uniform(0.25, 0.33)), flip * -0.1)
        trunk, paws = [tail * (flip, 1), *legs, barrel], []
    pointed = spline([(0.12, -0.3), (0.22, 0.12), (0.0, 0.16), (-0.16, 0.1)], 48) * 2.2
    ear = pointed if rng.random() < 0.5 else ellipse((0.1, 0), (0.42, 0.42))
    ears = [(ear + (0.66, -0.72)) * (sign, 1) * size + head for sign in (-1, 1)]
    skull = ellipse(head, (size * rng.uniform(1.05, 1.25), size))
    eyes = head + np.array([(-0.42 * size, 0.02), (0.42 * size, 0.02)])
    return [*trunk, *ears, skull, *paws], eyes, size * rng.uniform(0.13, 0.19)


def face(side: int, eyes: np.ndarray, radius: float) -> np.ndarray:
    """Two dark glossy eyes and a nose."""
    canvas = blank(side)
    for eye in eyes:
        discs = [ellipse(eye, (radius * k, radius * k)) for k in (1.15, 1.0, 0.62)]
        glint = ellipse(eye + radius * np.array([-0.3, -0.35]), (radius * 0.24, radius * 0.2))
        draw_polygons(canvas, [*discs, glint], [(0.05, 0.04, 0.04), (0.3, 0.17, 0.07), (0.02, 0.02, 0.02), (0.95,) * 3])
    middle = eyes.mean(0) + (0, radius * 3)
    nose = spline(middle + radius * np.array([(-1.2, -0.5), (1.2, -0.5), (0.5, 0.5), (-0.5, 0.5)]), 40)
    shine = ellipse(middle + (0, -0.35 * radius), (0.5 * radius, 0.14 * radius))
    draw_polygons(canvas, [nose, shine], [(0.09, 0.07, 0.07), (0.5, 0.46, 0.45)])
    return reduce(canvas, side)


def pelt(outline: np.ndarray, rng, length: float, comb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strands (N, 7, 2) covering an outline, tips outwards and down, and the surface normals (N, 3) at their roots."""
    centre = outline.mean(0)
    spoke = outline[rng.integers(len(outline), size=int(12000 * np.ptp(outline, 0).prod() ** 0.75))] - centre
    radius = np.sqrt(rng.random(len(spoke)))
    radius = np.sort(radius)[::-1]  # the rim is drawn first, the middle of the body over it
    root = centre + spoke * radius[:, None]
    outward = spoke / np.maximum(np.linalg.norm(spoke, axis=1, keepdims=True), 1e-6)
    normal = np.concatenate([outward * radius[:, None], np.sqrt(1 - radius**2 * 0.98)[:, None]], 1)
    pixel = np.clip((root + 1) / 2 * len(comb), 0, len(comb) - 1).astype(int)
    heading = outward * (0.25 + radius[:, None]) + np.array([0, 0.45])
    heading = rotate(heading, 0.55 * comb[pixel[:, 1], pixel[:, 0]] + rng.normal(0, 0.25, len(root)))
    reach = length * rng.uniform(0.5, 1.15, len(root))
    t = np.linspace(-0.15, 1, 7)
    curve = rotate(heading[:, None] * t[None, :, None], rng.normal(0, 0.5, (len(root), 1)) * t)
    return fit(root[:, None] + curve * reach[:, None, None]), normal / np.linalg.norm(normal, axis=1, keepdims=True)


def fur(side: int, rng) -> np.ndarray:
    """A furry animal, pompon or piece of pelt: dense short strands along a flow field, soft all along its outline."""
    light = draw_light(rng)
    is_animal = rng.random() < 0.65
    if is_animal:
        parts, eyes, eye_radius = animal(rng)
    else:
        turn = np.linspace(0, 2 * np.pi, 9, endpoint=False)
        wobble = rng.uniform(0.42, 0.72, 9) if rng.random() < 0.6 else np.full(9, rng.uniform(0.5, 0.68))
        parts, eyes, eye_radius = [spline(polar(turn) * wobble[:, None])], None, 0.0
    base, second = pick_colour(FUR_COLOURS, rng), pick_colour(FUR_COLOURS, rng)
    palette = np.concatenate([tones(base, TONES), tones(base * 0.78, TONES), tones(second, TONES)])
    length = rng.uniform(0.05, 0.11) if is_animal else rng.uniform(0.07, 0.2)
    coarse = 128
    stains = fractal((coarse, coarse), rng, cells=rng.choice([2, 4, 7]), octaves=3)
    comb = fractal((coarse, coarse), rng, cells=3, octaves=3)
    under, canvas = blank(side), blank(side)
    draw_polygons(under, parts, [base * 0.5] * len(parts))
    for part in parts:
        strands, slope = pelt(part, rng, length, comb)
        pixel = tuple(np.clip((strands[:, 0].T + 1) / 2 * coarse, 0, coarse - 1).astype(int))
        material = np.where(stains[pixel[::-1]] > 0.7, 2, rng.integers(2, size=len(strands)))
        along = np.linspace(0.55, 1, strands.shape[1] - 1)
        lambert = np.clip(slope @ light.direction * 0.55 + 0.5, 0.12, 1)
        tone = 0.9 * along * lambert[:, None] * rng.uniform(0.6, 1.25, (len(strands), 1))
        width = np.broadcast_to(0.0044 * (1 - 0.75 * np.linspace(0, 1, tone.shape[1]) ** 2), tone.shape)
        draw_strands(canvas, strands, to_index(tone, material[:, None]), width, palette)
    layer = over(reduce(canvas, side), reduce(under, side))
    return over(face(side, eyes, eye_radius), layer) if eyes is not None else layer


def one_feather(side: int, rng) -> np.ndarray:
    """A single feather that fills the frame along a random direction."""
    count, steps, looseness = 900, 12, rng.uniform(0, 1) ** 1.5
    bend, breadth, turn = rng.normal(0, 0.25), rng.uniform(0.2, 0.42), rng.uniform(0, 2 * np.pi)
    t = np.linspace(0, 1, count)

    def quill(at):
        return np.stack([bend * (at**2 - at), 0.92 - 1.84 * at], -1)

    def barbs(sign):
        # Barbs of one clump lean together; between clumps the vane splits open.
        clump = np.sort(rng.uniform(0, 1, rng.integers(8, 22)))
        member = np.searchsorted(clump, t)
        lean = rng.normal(0, 0.05 + 0.08 * looseness, len(clump) + 1)[member]
        lean += rng.normal(0, 0.012 + 0.06 * looseness, count)
        downy = smoothstep(0.3, 0.12, t) + 0.35 * looseness
        shape = smoothstep(0.05, 0.3, t) * np.sqrt(np.clip(1 - t**3.5, 0, 1)) * (1 - 0.3 * downy)
        reach = breadth * shape * rng.uniform(0.93, 1.03, count) * (1 if sign > 0 else asymmetry) + 0.015
        s = np.linspace(0, 1, steps)[None]
        angle = np.pi / 2 - (0.62 - 0.3 * t[:, None] * 0.4 + lean[:, None]) - 0.35 * s + downy[:, None] * 0.6 * s
        step = reach[:, None] / (steps - 1)
        fuzz = downy[:, None] * np.cumsum(rng.normal(0, 0.35, (count, steps)), 1)
        path = np.stack([np.sin(angle + fuzz) * step * sign, -np.cos(angle + fuzz) * step], -1)
        path[:, 0] = 0
        return quill(0.1 + 0.88 * t)[:, None] + np.cumsum(path, 1)

    asymmetry = rng.uniform(0.45, 1)
    kind = rng.integers(3)
    base, second = natural_colour(rng), natural_colour(rng)
    palette = np.concatenate([tones(base, TONES), tones(second, TONES)])
    bands, phase = rng.uniform(4, 9), rng.uniform(0, 6)
    canvas = blank(side)
    s = np.linspace(0, 1, steps - 1)[None]
    for sign in (-1, 1):
        wave = np.sin(2 * np.pi * bands * (t[:, None] - 0.12 * s) + phase) + rng.normal(0, 0.25, (count, 1))
        spot = (t[:, None] - 0.75) ** 2 / 0.02 + (s - 0.2) ** 2 / 0.3 + rng.normal(0, 0.05, (count, 1)) < 1
        material = ((wave > 0.5) if kind == 0 else spot if kind == 1 else np.zeros_like(wave, bool)).astype(int)
        shadow = 0.62 + 0.2 * sign * np.cos(s * 2.5) - 0.12 * s
        tone = shadow * (1 + 0.12 * np.sin(t[:, None] * 420)) * rng.uniform(0.88, 1.1, (count, 1))
        width = 0.0044 * (1 - 0.5 * looseness) * (1 - 0.55 * s) * (1 - 0.5 * smoothstep(0.3, 0.1, t[:, None]))
        draw_strands(canvas, rotate(fit(barbs(sign)), turn), to_index(tone, material), width, palette)
    stem = rotate(fit(quill(np.linspace(0.0, 0.98, 60))), turn)[None]
    horn = np.concatenate([tones(np.array([0.86, 0.8, 0.68]), TONES)])
    for share, tone in ((1.0, 0.45), (0.6, 0.7), (0.25, 0.95)):
        taper = 0.017 * share * (1 - 0.9 * np.linspace(0, 1, 59))[None]
        draw_strands(canvas, stem, to_index(np.full((1, 59), tone)), taper, horn, slices=1)
    return reduce(canvas, side)


def feather(side: int, rng) -> np.ndarray:
    """One to three feathers: a quill, two vanes of barbs with splits, loose down at the base, banded or plain."""
    layer = np.zeros((side, side, 4), np.float32)
    for _ in range(rng.choice([1, 1, 2, 3])):
        layer = over(one_feather(side, rng), layer)
    return layer
