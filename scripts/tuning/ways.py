"""Ways to see the pictures: sizes of the network's input, mirroring, tiles, and means of several sizes."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from core.config import Config
from imaging.images import read_shape
from inference.prediction import Prediction
from training import metrics
from tuning.measuring import in_threads, truths
from tuning.nested import Division
from tuning.pictures import Pictures
from tuning.recordings import Recordings, View, mixed

SIZES = (256, 320, 384, 512, 768, 1024)  # longer side of the network's input, pixels
TILED = (320, 512)  # also with tiles of this size at native resolution


class Way(NamedTuple):
    """The mean over these sizes, and with `flip` over each picture and its mirror image."""
    sizes: tuple[int | None, ...]  # None: each checkpoint's own
    flip: bool
    tile_over: int | None

    def __str__(self) -> str:
        sizes = " + ".join("own size" if size is None else f"{size} px" for size in self.sizes)
        return f"{sizes}{', flip' if self.flip else ''}" + (
            f", tiles over {self.tile_over} px" if self.tile_over else "")

    @property
    def views(self) -> list[View]:
        return [View(size, self.tile_over, mirrored) for size in self.sizes
                for mirrored in ((False, True) if self.flip else (False,))]


    @property
    def settings(self) -> dict[str, object]:
        """As inference.tuned.Tuned."""
        flips = ("flip",) * self.flip
        if len(self.sizes) > 1:
            return {"tta": (*flips, *self.sizes), "tile_over": self.tile_over}
        return {"size": self.sizes[0], "tta": "flip" if self.flip else "none", "tile_over": self.tile_over}


class Measured(NamedTuple):
    """One way on the pictures."""
    way: Way
    errors: np.ndarray  # (images,) MSE against the truth that decides
    seconds: float      # per image, in the network


class Base(NamedTuple):
    """What predictions are made with."""
    way: Way
    shares: tuple[float, ...]  # of the members; sum 1


class Ways:
    """All ways but the first, which is the present one, as nested.Candidates."""

    def __init__(self, measured: Sequence[Measured], division: Division):
        present, *others = measured
        self.names, self.division = [str(each.way) for each in others], division
        self.ways = {str(each.way): each.way for each in others}
        self._changes = {str(each.way): each.errors - present.errors for each in others}

    def changes(self, name: str, without: frozenset[int], part: int) -> np.ndarray:
        return self._changes[name][self.division.parts == part]


def ways_to_try(cfg: Config, own_sizes: set[int], largest: int) -> list[Way]:
    """The present way first. own_sizes: the members'; largest: the longest side of a picture.

    Sizes beyond it, and tiles not smaller than it, would change nothing.
    """
    flip, tile_over = cfg.infer.flips == "flip", cfg.infer.tile_over
    own = cfg.infer.tta_sizes or (tuple(own_sizes) if len(own_sizes) == 1 else (None,))
    known = cfg.infer.tta_sizes or own_sizes
    smaller = [size for size in SIZES if size < min(known)][-1:]
    larger = [size for size in SIZES if max(known) < size <= largest][:1]
    means = [] if own == (None,) else [(*own, *larger), (*smaller, *own), (*smaller, *own, *larger)]
    ways = [Way(own, flip, tile_over), Way(own, not flip, tile_over),
            *(Way((size,), flip, tile_over) for size in SIZES if size <= largest),
            *(Way(sizes, True, tile_over) for sizes in means if len(sizes) > len(own)),
            *(Way((size,), flip, size) for size in TILED if size < largest)]
    return list(dict.fromkeys(ways))


def largest_side(pictures: Pictures, cfg: Config) -> int:
    """In pixels, from the files' headers."""
    return cfg.data.size or max(max(read_shape(pair.image_path)) for pair in pictures.pairs)


def recordings_for(cfg: Config, pictures: Pictures, ways: Sequence[Way]) -> Recordings:
    """Which keep what several ways need, and the first way's, which the next step may need again."""
    views = [view for way in ways for view in way.views]
    kept = {view for view in views if views.count(view) > 1 or view in ways[0].views}
    return Recordings(cfg, pictures, set(views), kept)


class Outputs:
    """What the members' networks make of all pictures in one way, for any shares."""

    def __init__(self, recordings: Recordings, way: Way):
        self._views = [recordings.outputs(view) for view in way.views]

    def prediction(self, image: int, rgb: np.ndarray, shares: Sequence[float]) -> Prediction:
        """The members' mean; rgb: the picture at index `image`."""
        chosen = [(view[member][image], share / len(self._views))
                  for member, share in enumerate(shares) for view in self._views]
        return mixed(rgb, *zip(*chosen, strict=True))


def measure_way(recordings: Recordings, base: Base, metric: str) -> Measured:
    samples, outputs = recordings.pictures.samples, Outputs(recordings, base.way)

    def error(image: int) -> float:
        sample = samples[image]
        return metrics.mse(outputs.prediction(image, sample[0], base.shares).dense, truths(sample, metric)[0])

    errors = in_threads(error, len(samples), str(base.way))
    return Measured(base.way, np.array(errors), sum(recordings.seconds[view] for view in base.way.views))
