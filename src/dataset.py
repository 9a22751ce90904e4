"""Training and validation samples: pairs, augmented and with dense targets.

rgb is (H,W,3) uint8, alpha and target are (H,W) float32 in [0,1].
"""
import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from augment import augment_pair, sample_xray_params, xray_alpha_dense
from core.config import Config, in_epoch
from core.errors import OperationError, UserError
from core.seeds import Purpose, generator
from imaging.cache import Cache
from imaging.foreground import cached_foreground
from imaging.images import read_rgb, readable_images, resize_longer_side
from imaging.pair_cache import DecodedFiles
from imaging.pairs import Pair, read_pair


class TrainSet(Dataset):
    """[(epoch, index)] -> rgb (3,crop,crop) uint8, target (1,crop,crop) float32, index.

    Randomness is keyed by epoch and index, so a sample does not depend on worker or time.
    """

    def __init__(self, pairs: Sequence[Pair], cfg: Config):
        self.pairs, self.cfg, self._unread = pairs, cfg, set()
        folder = cfg.data.backgrounds_dir
        self.backgrounds = (readable_images(folder, cfg.data.on_error) if folder
                            else [pair.image_path for pair in pairs])
        files = [(pair.image_path, pair.alpha_path) for pair in pairs]
        self.decoded = DecodedFiles(cfg.data.root / "cache/decoded", cfg.data.cache_gb * 1e9, files,
                                    recipe=cfg.data.size) if cfg.data.cache_gb else None
        self.foregrounds = Cache(cfg.data.root / "cache/foregrounds")

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, key):
        epoch, index = key
        cfg, pair = self.cfg, self.pairs[index]
        sources = pair.image_path, pair.alpha_path

        def decode():
            return read_pair(pair, cfg.data.size)

        def foreground(rgb, alpha):
            return cached_foreground(self.foregrounds, sources, rgb, alpha)

        def background(rng):
            return resize_longer_side(self._background(rng.integers(len(self.backgrounds))), cfg.data.size)

        rng = generator(cfg.seed, Purpose.TRAINING, epoch, index)
        augment = in_epoch(cfg, epoch).augment
        if cfg.model.predicts == "alpha":
            augment = augment.model_copy(update={"xray_p": 0.0})
        with still_there(pair):
            rgb, alpha = self.decoded.get(sources, decode) if self.decoded else decode()
        rgb, target = augment_pair(rgb, alpha, augment, rng, foreground, background)
        # uint8 until the network: a quarter of the bytes to pass on
        return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))), torch.from_numpy(target)[None], index

    def _background(self, index: int) -> np.ndarray:
        """The picture at this index; if it can no longer be read, the next one that can."""
        for path in (*self.backgrounds[index:], *self.backgrounds[:index]):
            try:
                return read_rgb(path)
            except UserError as error:
                if path not in self._unread:
                    print(f"note    {error}; using another background", flush=True)
                    self._unread.add(path)
        raise OperationError(f"{self.backgrounds[0].parent}: none of the backgrounds can be read any more")


@contextlib.contextmanager
def still_there(pair: Pair) -> Iterator[None]:
    """OperationError with the pair's row if its files, which were good at the start, no longer are."""
    try:
        yield
    except (UserError, FileNotFoundError) as error:
        reason = error if isinstance(error, UserError) else f"{pair.row}: {error.filename}: no such file"
        raise OperationError(f"{reason}; it was good when this run started; put it back, then run the same command "
                             "again to resume") from None


class ValidationSet(Dataset):
    """[index] -> rgb (H,W,3) uint8, alpha (H,W), target (H,W): its dense alpha, always the same."""

    def __init__(self, pairs: Sequence[Pair], cfg: Config):
        self.pairs, self.cfg = pairs, cfg

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        with still_there(self.pairs[index]):
            rgb, alpha = read_pair(self.pairs[index], self.cfg.data.size)
        rng = generator(self.cfg.seed, Purpose.VALIDATION, index)
        params = sample_xray_params(self.cfg.augment.xray, rng)
        return rgb, alpha, xray_alpha_dense(rgb, alpha, params, rng)
