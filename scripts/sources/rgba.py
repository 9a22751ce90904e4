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

import numpy as np

from core.config import Config
from core.errors import UserError
from core.files import remove
from core.schema import Rgba
from core.seeds import Purpose, generator
from imaging.images import SUFFIXES, dangling, natural_key, to_levels, write_image
from imaging.pairs import Split, hash_share, split_groups
from scenes.backgrounds import contact_shadow
from sources.cutouts import Unusable, background, background_files, make_all, one_of, over, soft_share
from sources.objects import cropped, defringed, placed, read_rgba, shrunk
from sources.variety import out_of_focus, photographed, rough, see_through, tilted, with_others_behind

TRANSPARENT = (".png", ".webp", ".tif", ".tiff")  # formats that can have transparency
SMALLER = (0.15, 0.6)  # longer side of an object behind, as a share of the image
CUT_OFF = 0.2          # how often a camera cuts off a part of the object
SHADOWS = 0.5          # how often an object on a catalogue background has a shadow, if a camera takes it
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
    wanted, rgba = cfg.data.rgba, read_rgba(cutout.path)
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
            rgba = cropped(read_rgba(path))
            colours, alpha = shrunk(rgba, cfg.data.rgba.size)
            found.append(placed(np.dstack([alpha[..., None] * colours, alpha]), cfg.data.rgba.size, SMALLER, rng))
    return found


@functools.cache  # a scan and a sort for each pair would take longer than the pair, in a large folder
def neighbours(folder: Path) -> tuple[Path, ...]:
    return tuple(path for path in sorted(folder.iterdir()) if path.suffix.lower() in TRANSPARENT)


def save(files: tuple[Path, Path], rgb: np.ndarray, alpha: np.ndarray) -> None:
    for path, image in zip(files, (rgb, alpha), strict=True):
        write_image(path, image)


def remove_others(folder: Path, pairs: Iterable[tuple[Path, Path]]) -> int:
    """Removes pairs of earlier settings and of files that are gone -> how many files."""
    wanted = {path for files in pairs for path in files}
    old = [path for part in ("images", "alphas") for path in (folder / part).iterdir()
           if path not in wanted and OURS.fullmatch(path.name)]
    for path in old:
        with contextlib.suppress(UserError):  # not ours: it stays
            remove(path)
    return len(old)
