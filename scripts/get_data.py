"""Fills data.root from the sources in data.source: splits/train.csv, splits/val.csv, test_dataset/orig_1024/.

    python scripts/get_data.py data.source=competition,magick kaggle.competition=<slug> data.magick.limit=2000
    python scripts/get_data.py data.source=csv data.images_dir=photos data.alphas_dir=mattes [--check]
    python scripts/get_data.py data.source=rgba data.rgba_dir=cutouts
    python scripts/get_data.py data.source=synthetic

The splits join the pairs of all sources. After an interruption run the same command again to resume.
"""
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from core import cli
from core.config import Config, load_config
from core.errors import OperationError, UserError
from core.files import alone_in, room_for
from core.outputs import check_file, check_folder, may_write
from imaging.pairs import Split, write_splits

# Loaded on demand, since each needs its own libraries. Each has fetch(cfg) -> pairs by side.
MODULES = {"competition": "competition", "magick": "magick", "rgba": "rgba", "csv": "folders", "synthetic": "synthetic"}


def fetch(cfg: Config, source: str) -> Split:
    """The pairs of one source. OperationError names it and the source that needs no network."""
    try:
        return importlib.import_module(f"sources.{MODULES[source]}").fetch(cfg)
    except OperationError as error:
        raise OperationError(f"source {source}: {error}; SOURCE=synthetic needs no network") from None


def check_outputs(cfg: Config, sources: list[str]) -> None:
    """UserError, before anything is fetched, if an output could not be written."""
    check_folder(cfg.data.root, "choose another data.root")
    if {"competition", "synthetic"} & set(sources):
        check_folder(cfg.data.test_dir, "choose another data.test_dir")
    if "synthetic" in sources:
        check_file(cfg.data.solution_csv, "data.solution_csv")


def main() -> None:
    args = cli.parse(__doc__, options={
        "check": (False, "data.source=csv: list what is wrong with the pairs, write nothing")})
    cfg = load_config(args.config, args.overrides)
    if args.check:
        if cfg.data.source != "csv":
            raise UserError(f"--check: works with data.source=csv only, not with {cfg.data.source}")
        from sources import folders
        folders.check(cfg)
        return
    sources = cfg.data.source.split(",")
    check_outputs(cfg, sources)
    for side in ("train", "val"):
        may_write(cfg.data.root / f"splits/{side}.csv")
    alone_in(cfg.data.root)
    with room_for(cfg.data.root):
        splits = [fetch(cfg, source) for source in sources]
        if any(split["train"] or split["val"] for split in splits):
            write_splits(cfg.data.root, splits)


if __name__ == "__main__":
    cli.run(main)
