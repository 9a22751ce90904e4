"""The pictures that settings are judged on, and which network predicts which: none that it was trained on.

For a run these are its validation pictures. For a folder of folds they are all pictures; each is predicted by the
network of its own fold, which has not seen it.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import ConcatDataset

from core.config import Config, load_config
from core.errors import UserError
from core.folds import fold_folder, fold_weights, saved_progress
from dataset import ValidationSet
from imaging.pairs import Pair, configured_pairs, fold_of, pairs_source
from inference.weights import run_with_weights
from training.run_state import order_identity


class Source(NamedTuple):
    """A checkpoint, and the indices of the pictures that it predicts."""
    weights: Path
    images: list[int]


class Pictures(NamedTuple):
    """samples[i]: (rgb, alpha, target) of pairs[i], as a ValidationSet's."""
    pairs: list[Pair]
    samples: ValidationSet | ConcatDataset
    folds: int | None            # that the pairs are divided into; None: the pictures are a run's validation set
    members: list[list[Source]]  # for each entry of infer.weights; each predicts each picture once
    where: str                   # for messages


def run_config(path: str | Path, overrides: Sequence[str]) -> Config:
    """The settings of the run that infer.weights are from (of several the first's, of folds fold 0's), plus overrides.

    path, overrides: as in load_config(). A single checkpoint's run is train.out_dir. Of several, each network sees
    images as infer.py would show them to it, so infer is not that of any run.
    """
    cfg = load_config(path, overrides)
    first, *more = cfg.infer.checkpoints
    if not first.is_dir() and not more:
        return run_with_weights(path, overrides)
    saved = (fold_folder(first, 0) if first.is_dir() else first.parent) / "config.yaml"
    run = load_config(saved if saved.exists() else path, overrides)
    train = run.train.model_copy(update={"out_dir": cfg.train.out_dir})
    return run.model_copy(update={"infer": cfg.infer, "train": train})


def pictures(cfg: Config) -> Pictures:
    """UserError if a network has been trained on pictures that it is to predict, or if a fold is unfinished."""
    entries = cfg.infer.checkpoints
    folders = [entry for entry in entries if entry.is_dir()]
    if folders and len(folders) < len(entries):
        other = next(entry for entry in entries if entry not in folders)
        raise UserError(f"infer.weights: {folders[0]} is a folder of folds, {other} is not; they have no pictures in "
                        "common that none of their networks was trained on; tune folders alone, or checkpoints alone")
    return out_of_fold(cfg, folders) if folders else validation(cfg, entries)


def validation(cfg: Config, entries: Sequence[Path]) -> Pictures:
    pairs = configured_pairs(cfg, "val")
    for entry in entries:
        check_unseen(cfg, entry, pairs)
    members = [[Source(path, list(range(len(pairs))))] for path in entries]
    return Pictures(pairs, ValidationSet(pairs, cfg), None, members, pairs_source(cfg, "val"))


def check_unseen(cfg: Config, weights: Path, pairs: Sequence[Pair]) -> None:
    """UserError if the checkpoint's run has another split than cfg, and was trained on some of the pairs."""
    saved = weights.with_name("config.yaml")
    own = load_config(saved) if saved.exists() else cfg
    if split(own) != split(cfg) and (seen := shared_images(configured_pairs(own, "train"), pairs)):
        raise UserError(f"{weights}: was trained on {len(seen)} of the {len(pairs)} pictures to judge on, such as "
                        f"{seen[0].image_path.name}; set data.val_csv to pictures that none of infer.weights has seen")


def split(cfg: Config) -> tuple:
    return cfg.data.train_csv, cfg.data.val_csv, cfg.data.folds, cfg.data.fold


def shared_images(train: Sequence[Pair], pairs: Sequence[Pair]) -> list[Pair]:
    known = {pair.image_path.resolve() for pair in train}
    return [pair for pair in pairs if pair.image_path.resolve() in known]


def out_of_fold(cfg: Config, folders: Sequence[Path]) -> Pictures:
    """In the order of the first folder's folds."""
    weights = [fold_weights(folder) for folder in folders]
    for paths in weights:
        for fold, path in enumerate(paths):
            check_held_out(with_fold(cfg, len(paths), fold), path.parent)
    folds = len(weights[0])
    sets = [ValidationSet(configured_pairs(own, "val"), own) for own in
            (with_fold(cfg, folds, fold) for fold in range(folds))]
    pairs = [pair for each in sets for pair in each.pairs]
    members = [[Source(path, [index for index, pair in enumerate(pairs) if fold_of(pair, len(paths)) == fold])
                for fold, path in enumerate(paths)] for paths in weights]
    return Pictures(pairs, ConcatDataset(sets), folds, members, f"{folds} folds (each by the network that has not seen "
                    "it)")


def with_fold(cfg: Config, folds: int, fold: int) -> Config:
    return cfg.model_copy(update={"data": cfg.data.model_copy(update={"folds": folds, "fold": fold})})


def check_held_out(cfg: Config, run: Path) -> None:
    """UserError if a fold's run was trained on other pairs than cfg says: it may have seen its own fold."""
    seed = load_config(run / "config.yaml").seed
    if saved_progress(run).get("order") != order_identity(seed, configured_pairs(cfg, "train")):
        raise UserError(f"{run}: was trained on other pairs than {cfg.data.train_csv} and {cfg.data.val_csv} now give, "
                        "and may have seen what it would be judged on; name the pairs it was trained on, or train the "
                        "folds again")
