"""What networks make of the pictures, computed once: an ensemble of any sizes and shares then needs no network.

    recordings = Recordings(cfg, pictures, kept)
    pred = mixed(rgb, recordings.outputs(view)[member][image] …)
"""
import contextlib
import glob
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from augment import XrayParams
from core.config import Config, with_infer
from core.files import remove
from imaging.images import read_rgb, resize_longer_side
from inference.ensemble import ensemble
from inference.prediction import Prediction, Raw
from inference.predictor import Network, Predictor, load_model, single_predictor
from inference.tiling import batches
from tuning.pictures import Pictures, Source


class View(NamedTuple):
    """How a network sees a picture."""
    size: int | None       # longer side, pixels; None: the checkpoint's own
    tile_over: int | None
    mirrored: bool = False


class Output(NamedTuple):
    """A network's output for one picture; size, tile_over and density as of its Predictor."""
    raw: Raw  # float16
    size: int
    tile_over: int | None
    density: XrayParams | None


class Recorded(Predictor):
    """A predictor whose network has run already, for one picture."""
    def __init__(self, output: Output):
        raw, *way = output
        super().__init__(SimpleNamespace(batch_size=1, tta="none", description="recorded"), *way)
        self.raw = Raw(*(each if each is None else each.astype(np.float32) for each in raw))

    def run(self, rgbs: list[np.ndarray], squares: list[np.ndarray]) -> list[Raw]:
        return [self.raw]


class Mirrored:
    """A Network that sees each picture mirrored."""
    def __init__(self, network: Network):
        self.network, self.tta, self.batch_size = network, "none", network.batch_size
        self.description = f"{network.description}, mirrored"

    def __call__(self, squares: np.ndarray) -> np.ndarray:
        return self.network(np.ascontiguousarray(squares[:, :, ::-1]))[:, :, ::-1]


def mixed(rgb: np.ndarray, outputs: Sequence[Output], shares: Sequence[float]) -> Prediction:
    """What an ensemble of these networks with these shares makes of a picture."""
    return ensemble([Recorded(output) for output in outputs], shares).predictions([rgb])[0]


class Recordings:
    """The outputs of all members of infer.weights for all pictures.

    Those of views in `kept` stay in memory: at 1024² at most 2 MB per view, picture and member, at 320 px 0.2 MB.
    """

    def __init__(self, cfg: Config, pictures: Pictures, views: Collection[View], kept: Collection[View]):
        """views: all that will be asked for; a network that is loaded makes both the plain and the mirrored one."""
        self.cfg, self.pictures, self.views, self.kept = with_infer(cfg, tta="none", shares=None), pictures, views, kept
        self.seconds = {}  # per picture and view, in the networks of all members
        self._known = {}

    def outputs(self, view: View) -> list[list[Output]]:
        """[member][picture]"""
        if view not in self._known:
            twin = view._replace(mirrored=not view.mirrored)
            self._record([view, twin] if twin in self.views else [view])
        return self._known[view] if view in self.kept else self._known.pop(view)

    def _record(self, views: Sequence[View]) -> None:
        """views: the same but for `mirrored`."""
        for view in views:
            self.seconds[view], self._known[view] = 0.0, []
        for sources in self.pictures.members:
            rows = [{} for _ in views]
            for source in sources:
                for view, row, predict in zip(views, rows, self._predictors(source, views), strict=True):
                    row |= zip(source.images, self._run(predict, source), strict=True)
                    self.seconds[view] += predict.seconds / len(self.pictures.pairs)
            for view, row in zip(views, rows, strict=True):
                self._known[view].append([row[index] for index in range(len(row))])

    def _predictors(self, source: Source, views: Sequence[View]) -> list[Predictor]:
        cfg = with_infer(self.cfg, weights=source.weights, tile_over=views[0].tile_over)
        loaded = load_model(cfg)
        plain = single_predictor(cfg, loaded._replace(size=views[0].size or loaded.size))
        mirrored = Predictor(Mirrored(plain.network), plain.size, plain.tile_over, plain.density)
        return [mirrored if view.mirrored else plain for view in views]

    def _run(self, predict: Predictor, source: Source) -> Iterator[Output]:
        name = f"{source.weights.parent.name} {predict.size} px"
        for indices in tqdm(list(batches(source.images, predict.batch_size)), name, disable=None, leave=False):
            rgbs = [self.rgb(index) for index in indices]
            for raw in predict.run(rgbs, [predict.prepare(rgb) for rgb in rgbs]):
                yield Output(Raw(*(each if each is None else each.astype(np.float16) for each in raw)), *predict.way)

    def rgb(self, index: int) -> np.ndarray:
        """As in pictures.samples, without its alpha."""
        return resize_longer_side(read_rgb(self.pictures.pairs[index].image_path), self.cfg.data.size)


@contextlib.contextmanager
def without_new_caches(weights: Sequence[Path]) -> Iterator[set[int]]:
    """Removes the compiled networks that the block leaves beside the weights, but those of sizes in the set that it
    yields."""
    before, used = set(caches(weights)), set()
    try:
        yield used
    finally:
        for path, size in caches(weights).items():
            if path not in before and size not in used:
                remove(path)


def caches(weights: Sequence[Path]) -> dict[Path, int]:
    """The compiled networks beside the weights, and their sizes; see openvino_backend.cache_path()."""
    found = (Path(name) for path in weights for name in
             glob.glob(f"{glob.escape(str(path.parent))}/.{glob.escape(path.stem)}.*.openvino"))
    return {path: int(path.name.split(".")[-3]) for path in found}
