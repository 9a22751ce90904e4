"""Source rgba: your own cut-outs and renders, pictures with transparency, put on backgrounds.

    python scripts/get_data.py data.source=rgba data.rgba_dir=cutouts
    python scripts/get_data.py data.source=rgba data.rgba_dir=cutouts data.rgba.background=folder data.backgrounds_dir=p

Each file gives data.rgba.per_object pairs in data.root/rgba. Run the same command again to resume, or after adding
files. Pairs whose file or settings have changed are made again.
"""
import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unicodedata import normalize

import cv2
import numpy as np

from core.config import Config
from core.errors import UserError
from core.files import remove
from core.schema import Rgba
from core.seeds import Purpose, generator
from imaging.foreground import estimate_foreground
from imaging.images import (
    SUFFIXES,
    dangling,
    is_text,
    natural_key,
    opened,
    resize_longer_side,
    to_levels,
    upright,
    write_image,
)
from imaging.pairs import Split, hash_share, split_groups
from scenes.backgrounds import contact_shadow
from sources.cutouts import Unusable, background, background_files, make_all, one_of, over, refuse_constant, soft_share
from sources.variety import out_of_focus, photographed, rough, see_through, tilted, with_others_behind

TRANSPARENT = (".png", ".webp", ".tif", ".tiff")  # formats that can have transparency
VISIBLE = 2          # levels of alpha; lossy encoders leave 1 around the object
MOST_ALPHA = 26      # levels; an object that nowhere reaches it is not one
SMALLEST = 32        # pixels of the object's longer side
MOST_ENLARGED = 2    # a further enlarged object is blurred beside its background
SMALLER = (0.15, 0.6)  # longer side of an object behind, as a share of the image
CUT_OFF, CUT = 0.2, (0.05, 0.4)  # how often a camera cuts off a part of the object, and how much of it
SHADOWS = 0.5        # how often an object on a catalogue background has a shadow, if a camera takes it
TRUSTED = 0.05       # alpha from which a stored colour says anything
OURS = re.compile(r"[\w.-]*-[0-9a-f]{12}-\d+\.png", re.ASCII)


@dataclass(frozen=True)
class Cutout:
    path: Path
    name: str  # its path below data.rgba_dir, which decides its split and its draws
    pairs: Sequence[tuple[Path, Path]]

    def missing(self) -> list[tuple[int, tuple[Path, Path]]]:
        return [(number, files) for number, files in enumerate(self.pairs) if not all(map(Path.exists, files))]


def fetch(cfg: Config) -> Split:
    """The pairs of all cut-outs; makes those that are missing. UserError on bad files unless data.on_error=skip."""
    wanted, folder = cfg.data.rgba, cfg.data.root / "rgba"
    backgrounds = background_files(cfg, wanted.background, "data.rgba.background")
    cutouts = [cutout_of(path, cfg) for path in cutout_files(cfg.data.rgba_dir, folder)]
    left_out = make_all({cutout.name: partial(make_pairs, cutout, cfg, backgrounds)
                         for cutout in cutouts if cutout.missing()}, "composing cut-outs")
    good = [cutout for cutout in cutouts if cutout.name not in left_out]
    if left_out and (cfg.data.on_error == "fail" or not good):
        raise UserError(f"{cfg.data.rgba_dir}/{next(iter(left_out.values()))} ({len(left_out)} files cannot become "
                        f"pairs, {len(good)} can; data.on_error=skip leaves them out)")
    pairs = [pair for cutout in good for pair in cutout.pairs]
    removed = remove_others(folder, pairs)
    split = split_groups([(cutout.name, [(*pair, "", cutout.name) for pair in cutout.pairs]) for cutout in good],
                         cfg.data.val_share)
    print(f"{folder}: {len(split['train'])} training and {len(split['val'])} validation pairs of {len(good)} cut-outs, "
          f"{len(left_out)} files left out; {soft_share(pairs):.1%} of the alphas' pixels are in (.05,.95)"
          + (f"; removed {removed} files of earlier pairs" if removed else ""))
    return split


def cutout_files(source: Path | None, folder: Path) -> list[Path]:
    """The visible files in `source` and its subfolders whose format can have transparency, in natural order."""
    if source is None:
        raise UserError("data.rgba_dir is not set; data.source=rgba needs a folder of pictures with transparency")
    if not source.is_dir():
        raise UserError(f"{source}: {dangling(source) or 'no such folder of pictures'}; check data.rgba_dir")
    refuse_overlap(source, folder)
    visible = [path for path in source.rglob("*")
               if not any(part.startswith(".") for part in path.relative_to(source).parts) and not path.is_dir()]
    files = [path for path in visible if path.suffix.lower() in TRANSPARENT]
    if not files:
        raise UserError(f"{source}: has no PNG, WebP or TIFF pictures, nor have its subfolders")
    opaque = sum(path.suffix.lower() in SUFFIXES for path in visible) - len(files)
    if opaque:
        print(f"note    {source}: skipping {opaque} pictures whose format has no transparency (JPEG, BMP)")
    return sorted(files, key=lambda path: natural_key(path.relative_to(source).as_posix()))


def refuse_overlap(source: Path, folder: Path) -> None:
    """UserError if pairs would be written among the cut-outs, where the next run would find them."""
    ours, theirs = Path(os.path.realpath(folder)), Path(os.path.realpath(source))
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise UserError(f"data.rgba_dir={source}: the pairs are written to {folder}, and one of the two is inside the "
                        "other; move the cut-outs or choose another data.root")


def cutout_of(path: Path, cfg: Config) -> Cutout:
    """Its pairs' names change with the file and with the settings that matter, so what exists is what is wanted."""
    wanted, status = cfg.data.rgba, path.stat() if path.exists() else path.lstat()  # a broken link
    name = normalize("NFC", path.relative_to(cfg.data.rgba_dir).as_posix())
    pictures = cfg.data.backgrounds_dir if wanted.background in ("folder", "mixed") else None
    placing = None if wanted.background == "none" else (cfg.seed, wanted.size, *wanted.scale, wanted.rough,
                                                        wanted.see_through, wanted.clutter, wanted.camera)
    identity = (name, status.st_size, status.st_mtime_ns, wanted.background, str(pictures), placing)
    digest = hashlib.sha256(os.fsencode(repr(identity))).hexdigest()[:12]
    stem = re.sub(r"[^\w.-]+", "_", path.stem, flags=re.ASCII).strip("._-")[:60]
    count = 1 if wanted.background == "none" else wanted.per_object
    home, names = cfg.data.root / "rgba", [f"{stem}-{digest}-{number}.png" for number in range(count)]
    return Cutout(path, name, tuple((home / "images" / file, home / "alphas" / file) for file in names))


def make_pairs(cutout: Cutout, cfg: Config, backgrounds: Sequence[Path]) -> None:
    """Writes the missing pairs of one cut-out. Unusable says why there are none."""
    wanted, rgba = cfg.data.rgba, read_rgba(cutout)
    if wanted.background == "none":
        save(cutout.pairs[0], rgba[..., :3], rgba[..., 3])
        return
    colours, alpha = defringed(*shrunk(cropped(rgba), wanted.size))
    premultiplied = np.dstack([alpha[..., None] * colours, alpha])
    for number, files in cutout.missing():
        rng = generator(cfg.seed, Purpose.RGBA, int(hash_share(cutout.name) * 2**48), number)
        taken = rng.random() < wanted.camera
        seen = varied(premultiplied, wanted, rng)
        canvas = placed(tilted(seen, rng) if taken else seen, wanted.size, wanted.scale, rng, CUT_OFF * taken)
        kind = one_of(wanted.background, rng)
        behind = background(kind, backgrounds, wanted.size, rng)
        if rng.random() < wanted.clutter:
            behind = with_others_behind(behind, others(cutout, cfg, rng), rng)
        if taken:
            behind = (contact_shadow(behind, canvas[..., 3], rng) if kind == "catalog" and rng.random() < SHADOWS
                      else out_of_focus(behind, rng))
        rgb = over(canvas[..., :3], canvas[..., 3:], behind)
        save(files, photographed(rgb, rng) if taken else rgb, to_levels(canvas[..., 3]))


def varied(premultiplied: np.ndarray, wanted: Rgba, rng) -> np.ndarray:
    """The object with its own surface or a rough one, solid or see-through."""
    if rng.random() < wanted.rough:
        premultiplied = rough(premultiplied, rng)
    return see_through(premultiplied, rng) if rng.random() < wanted.see_through else premultiplied


def others(cutout: Cutout, cfg: Config, rng) -> list[np.ndarray]:
    """One to three other objects of the folder, placed like this one but smaller; files that have none are left out."""
    folder, found = neighbours(cutout.path.parent), []
    for _ in range(rng.integers(1, 4)):
        path = folder[rng.integers(len(folder))]
        with contextlib.suppress(Unusable):
            rgba = cropped(read_rgba(Cutout(path, path.name, ())))
            colours, alpha = shrunk(rgba, cfg.data.rgba.size)
            found.append(placed(np.dstack([alpha[..., None] * colours, alpha]), cfg.data.rgba.size, SMALLER, rng))
    return found


@functools.cache  # a scan and a sort for each pair would take longer than the pair, in a large folder
def neighbours(folder: Path) -> tuple[Path, ...]:
    return tuple(path for path in sorted(folder.iterdir()) if path.suffix.lower() in TRANSPARENT)


def save(files: tuple[Path, Path], rgb: np.ndarray, alpha: np.ndarray) -> None:
    for path, image in zip(files, (rgb, alpha), strict=True):
        write_image(path, image)


def read_rgba(cutout: Cutout) -> np.ndarray:
    """(H,W,4) uint8, upright. Unusable if it cannot be read, or has no object."""
    if not is_text(cutout.name):
        raise Unusable("its name is not valid UTF-8; rename it")
    try:
        with opened(cutout.path) as image:
            image = upright(image)
            rgba = np.asarray(image.convert("RGBA")) if image.has_transparency_data else None
    except UserError as error:
        raise Unusable(str(error).removeprefix(f"{cutout.path}: ")) from None
    if rgba is None:
        raise Unusable("has no transparency")
    refuse_constant(rgba[..., 3])
    if rgba[..., 3].max() < MOST_ALPHA:
        raise Unusable(f"is almost transparent everywhere (its largest alpha is {rgba[..., 3].max()} of 255)")
    return rgba


def cropped(rgba: np.ndarray) -> np.ndarray:
    """The object's bounding box (h,w,4). Unusable if it is tiny."""
    visible = rgba[..., 3] >= VISIBLE
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    box = rgba[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    if max(box.shape[:2]) < SMALLEST:
        raise Unusable(f"its object is only {box.shape[1]}×{box.shape[0]} pixels large; {SMALLEST} is the least")
    return box


def shrunk(rgba: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(colours (h,w,3) uint8, alpha (h,w) float32), the longer side at most `side`."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    # averaged with alpha as weight: colours where alpha is 0 are undefined
    small = resize_longer_side(np.dstack([alpha * rgba[..., :3], alpha]), min(side, max(rgba.shape[:2])))
    return np.rint(small[..., :3] / np.maximum(small[..., 3:], 1e-6)).astype(np.uint8), small[..., 3]


def defringed(colours: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The object's own colours, without the white or black that many cut-outs have mixed into their soft edges.

    Around the object the colour of its faintest edge is filled in. So the estimate finds the old background if it was
    mixed in, and the object's own colour if it was not. (Black there, as many files have it, would be taken for an old
    background and the edges made too bright.)
    """
    unknown = (alpha < TRUSTED).astype(np.uint8)
    labels = cv2.distanceTransformWithLabels(unknown, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    known = np.flatnonzero(unknown == 0)
    nearest = np.zeros(labels.max() + 1, np.int64)  # label -> the known pixel that it belongs to
    nearest[labels.flat[known]] = known
    return estimate_foreground(colours.reshape(-1, 3)[nearest[labels]], alpha), alpha


def placed(premultiplied: np.ndarray, side: int, scale: tuple[float, float], rng, cut_off: float = 0) -> np.ndarray:
    """The object (h,w,4) at a random size and place in an empty (side,side,4).

    cut_off: how often a border cuts off a part of it, 0 to 1.
    """
    most = MOST_ENLARGED * max(premultiplied.shape[:2]) / side
    sized = resize_longer_side(premultiplied, max(1, round(side * rng.uniform(*np.minimum(scale, most)))))
    height, width = sized.shape[:2]
    top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
    if rng.random() < cut_off:
        beyond = rng.uniform(*CUT)
        top, left = ((top, round(-beyond * width)), (top, round(side - (1 - beyond) * width)),
                     (round(side - (1 - beyond) * height), left))[rng.integers(3)]
    shift = np.array([[1, 0, left], [0, 1, top]], np.float32)
    return cv2.warpAffine(sized, shift, (side, side), flags=cv2.INTER_NEAREST)


def remove_others(folder: Path, pairs: Iterable[tuple[Path, Path]]) -> int:
    """Removes pairs of earlier settings and of files that are gone -> how many files."""
    wanted = {path for files in pairs for path in files}
    old = [path for part in ("images", "alphas") for path in (folder / part).iterdir()
           if path not in wanted and OURS.fullmatch(path.name)]
    for path in old:
        with contextlib.suppress(UserError):  # not ours: it stays
            remove(path)
    return len(old)
