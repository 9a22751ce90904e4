"""Source magick: pairs from MAGICK (Burgert et al., CVPR 2024), 140 000 generated objects with their alpha.

    python scripts/get_data.py data.source=magick data.magick.limit=2000

Each RGBA image becomes an alpha and an rgb on a plain background; the download itself (200 GB for all) is not kept.
After an interruption run the same command again to resume. A larger limit adds to what is there.
"""
import contextlib
import csv
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from core.config import Config
from core.errors import OperationError, UserError
from core.files import discard, remove_folder, written_whole
from core.schema import Magick
from core.seeds import Purpose, generator
from imaging.images import write_image
from imaging.pairs import Split, hash_share, split_by_name
from sources.cutouts import Unusable, background, background_files, make_all, one_of, over, refuse_constant, soft_share
from sources.hub import Hub, NotThere

INDEX = "magick_index.tsv"
SIDE = 1024  # pixels
PAGE_ID = re.compile(r"[A-Za-z0-9_-]{3,}")  # it becomes part of a path
SAFE = {"0", "0.0", "False"}  # values of the index's column nsfw
MOST_UNUSABLE = 0.05  # share of unusable images above which this cannot be MAGICK
RAW = re.compile(r"images/[\w-]{2}/[\w-]+\.png|\.cache/.*")  # what the hub's client writes into the download folder
PART = re.compile(r"\.[\w-]+\.\w+\.\d{1,9}\.part\.png")     # a partial file of write_image()


def fetch(cfg: Config) -> Split:
    """The pairs of data.magick.limit images; fetches those that are missing."""
    wanted, folder = cfg.data.magick, cfg.data.root / "magick"
    backgrounds = background_files(cfg, wanted.background, "data.magick.background")
    keep_background(folder, f"{wanted.background} {cfg.data.backgrounds_dir or ''}".strip())
    hub = Hub(wanted.repo, INDEX)
    chosen = choose(hub.download(INDEX, folder), cfg.seed, wanted)
    left_out = fetch_missing(hub, folder, chosen, wanted, backgrounds)
    pairs = [pair_files(folder, page_id) for page_id in chosen if page_id not in left_out]
    if not pairs:
        raise OperationError(f"{wanted.repo}: no usable image among {len(chosen)}; {next(iter(left_out.values()))}")
    split = split_by_name(pairs, cfg.data.val_share)
    print(f"{folder}: {len(split['train'])} training and {len(split['val'])} validation pairs, {len(left_out)} images "
          f"left out; {soft_share(pairs):.1%} of the alphas' pixels are in (.05,.95)")
    return split


def keep_background(folder: Path, wanted: str) -> None:
    """Records the pairs' background. UserError if the existing pairs have another one."""
    note = folder / "background.txt"
    if note.exists() and (there := note.read_text(encoding="utf-8")) != wanted:
        raise UserError(f"{folder}: its pairs were made with data.magick.background={there}; delete the folder to make "
                        "them again")
    if not note.exists():
        with written_whole(note) as part:
            part.write_text(wanted, encoding="utf-8")


def choose(index: Path, seed: int, wanted: Magick) -> list[str]:
    """The page ids of `limit` images in an order that the seed alone decides, so that a larger limit only adds."""
    try:
        with index.open(newline="", encoding="utf-8") as file:
            page_ids = [row["page_id"] for row in csv.DictReader(file, delimiter="\t")
                        if PAGE_ID.fullmatch(row["page_id"] or "") and (wanted.nsfw or row["nsfw"] in SAFE)]
    except (KeyError, UnicodeDecodeError, csv.Error):
        page_ids = []
    if not page_ids:
        discard(index)
        raise OperationError(f"{index}: removed, not an index with columns page_id and nsfw; check data.magick.repo")
    return sorted(page_ids, key=lambda page_id: hash_share(f"{seed} {page_id}"))[:wanted.limit]


def fetch_missing(hub: Hub, folder: Path, chosen: Sequence[str], wanted: Magick, backgrounds: Sequence[Path]) -> dict:
    """Makes the missing pairs -> {page id: why} of those left out."""
    remove_leftovers(folder)
    missing = [page_id for page_id in chosen if not all(path.exists() for path in pair_files(folder, page_id))]
    jobs = {page_id: partial(make_pair, hub, folder, page_id, wanted.background, backgrounds) for page_id in missing}

    def notice_other_data(left_out: dict[str, str]) -> None:
        if len(left_out) > 5 + MOST_UNUSABLE * len(chosen):
            raise OperationError(f"{wanted.repo}: {len(left_out)} images are unusable, the last: "
                                 f"{list(left_out.values())[-1]}; check data.magick.repo")

    left_out = make_all(jobs, "fetching MAGICK", wanted.workers, notice_other_data)
    with contextlib.suppress(UserError):  # other files stay
        remove_folder(folder / "raw", RAW.fullmatch)
    return left_out


def remove_leftovers(folder: Path) -> None:
    """Removes partial files of a killed run; complete downloads stay and are used."""
    for pattern in ("raw/.cache/**/*.incomplete", "images/.*.part.*", "alphas/.*.part.*"):
        for path in folder.glob(pattern):
            if path.suffix == ".incomplete" or PART.fullmatch(path.name):
                discard(path)


def pair_files(folder: Path, page_id: str) -> tuple[Path, Path]:
    return folder / f"images/{page_id}.png", folder / f"alphas/{page_id}.png"


def make_pair(hub: Hub, folder: Path, page_id: str, kind: str, backgrounds: Sequence[Path]) -> None:
    """Downloads one image, writes its rgb and alpha, removes the download. Unusable says why there is no pair."""
    try:
        raw = hub.download(f"images/{page_id[:2]}/{page_id}.png", folder / "raw")
    except NotThere:
        raise Unusable("is in the index, but not on the hub") from None
    try:
        rgba = read_rgba(raw)
        rgb_path, alpha_path = pair_files(folder, page_id)
        if not alpha_path.exists():  # a run may have been killed between the two
            write_image(alpha_path, rgba[..., 3])
        if not rgb_path.exists():
            write_image(rgb_path, on_background(rgba, page_id, kind, backgrounds))
    finally:
        discard(raw)


def read_rgba(path: Path) -> np.ndarray:
    """(1024,1024,4) uint8. Unusable if the file is anything else, or its alpha is constant."""
    try:
        with Image.open(path) as image:
            if (image.format, image.mode, image.size) != ("PNG", "RGBA", (SIDE, SIDE)):
                raise Unusable(f"is {image.format} {image.mode} {image.width}×{image.height} instead of PNG RGBA "
                               f"{SIDE}×{SIDE}")
            rgba = np.asarray(image)
    except Unusable:
        raise
    except Exception as error:  # decoders raise anything from OSError to SyntaxError and struct.error on broken files
        raise Unusable(f"cannot be read as an image ({type(error).__name__})") from None
    refuse_constant(rgba[..., 3])
    return rgba


def on_background(rgba: np.ndarray, page_id: str, kind: str, backgrounds: Sequence[Path]) -> np.ndarray:
    """(H,W,3) uint8: the object on a background chosen by its page id; `none`: its colours as stored."""
    if kind == "none":
        return rgba[..., :3]
    rng = generator(Purpose.MAGICK_BACKGROUND, int(hash_share(page_id) * 2**48))
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return over(alpha * rgba[..., :3], alpha, background(one_of(kind, rng), backgrounds, SIDE, rng))
