"""Which images each training step sees, and whether BatchNorm can work with that many."""
import math

import torch

from core.config import Config, in_epoch
from core.distributed import World
from core.errors import UserError
from core.seeds import Purpose, generator
from u2net import SHRUNK


def epoch_batches(cfg: Config, epoch: int, count: int, done: int = 0) -> list[list[tuple[int, int]]]:
    """The epoch's batches of TrainSet keys (epoch, index), shuffled by seed and epoch, after its first `done` images.

    An incomplete last batch is left out (its images come in other epochs): BatchNorm learns little from one image.
    It stays if the batches so far had another size, so that changing the size leaves out no image.
    """
    order = generator(cfg.seed, Purpose.SHUFFLE, epoch).permutation(count).tolist()[done:]
    size = min(cfg.train.batch_size, count)
    batches = [[(epoch, index) for index in order[start:start + size]] for start in range(0, len(order), size)]
    return [batch for batch in batches if len(batch) == size or done % size]


def check_batches(cfg: Config, world: World, images: int, device: torch.device) -> None:
    """UserError if batches of `images` would end training at the first step, in its first or its final phase."""
    world.passes(range(images), cfg.train.micro_batch)  # does each process get an image?
    for phase in in_epoch(cfg, 0), in_epoch(cfg, cfg.train.epochs - 1):
        crop = phase.augment.crop
        if values_per_channel(phase, world, images, device) < 2:
            key = "augment.crop" if crop == cfg.augment.crop else "augment.final_crop"
            raise UserError(f"{key}={crop} with one image per forward pass: BatchNorm needs two values per channel, "
                            f"but the deepest layer has one pixel; raise {key} above {SHRUNK}, or get two images into "
                            "each pass with train.batch_size, train.micro_batch, fewer processes or more pairs")


def values_per_channel(phase: Config, world: World, images: int, device: torch.device) -> float:
    """The fewest values that BatchNorm gets per channel of the network's deepest layer, in batches of `images`.

    Infinite if it is frozen, since it needs none.
    """
    if phase.train.batchnorm == "frozen":
        return math.inf
    together = world.size if synchronised(phase, world, device) else 1
    return world.fewest(images, phase.train.micro_batch) * together * math.ceil(phase.augment.crop / SHRUNK) ** 2


def synchronised(cfg: Config, world: World, device: torch.device) -> bool:
    """Whether BatchNorm's statistics are those of all processes' images together."""
    return world.size > 1 and cfg.train.sync_bn and cfg.train.batchnorm == "trained" and device.type == "cuda"
