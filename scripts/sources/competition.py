"""Source competition: downloads the files of kaggle.competition; test images go to data/test_dataset/orig_1024.

    python scripts/get_data.py data.source=competition kaggle.competition=<slug>

The archive stays in data/competition/, so an interrupted download resumes and an unchanged one is not repeated.
"""
import filecmp
import shutil
from pathlib import Path

from tqdm import tqdm

from core.config import Config
from core.errors import OperationError, UserError
from core.files import written_folder, written_whole
from imaging.pairs import Split, split_by_name
from sources.archive import unpack
from submission.competition_files import find_pairs, find_test_images, sample_kind
from submission.kaggle_client import read_kaggle


def fetch(cfg: Config) -> Split:
    """Downloads, unpacks, lays out the test images -> the training pairs among the competition's files, if any."""
    slug = cfg.kaggle.competition
    if slug is None:
        raise UserError("kaggle.competition is not set: give the last part of the competition's address, "
                        "kaggle.competition=<slug>, or use another source: SOURCE=magick, or SOURCE=synthetic, "
                        "which needs no network")
    if cfg.data.solution_csv.exists():
        raise UserError(f"{cfg.data.test_dir.parent}: holds a synthetic test set; remove it or change data.root")
    home = cfg.data.root / "competition"
    archive, fetched = download(slug, home)
    unpack(archive, home / slug, fetched)
    images, sample = find_test_images(home / slug)
    lay_out(images, cfg.data.test_dir)
    if sample:
        copy(sample, cfg.data.test_dir.parent / f"{sample_kind(sample)}_submission.csv")
    split = split_by_name(find_pairs(home / slug), cfg.data.val_share)
    beside = f"with {sample.name}" if sample else "no sample submission"
    found = (f"{len(split['train'])} training and {len(split['val'])} validation pairs" if split["train"] else
             "no training pairs among the competition's files; get some from magick or csv")
    print(f"{cfg.data.test_dir}: {len(images)} test images, {beside}; {found}")
    return split


def download(slug: str, folder: Path) -> tuple[Path, bool]:
    """Fetches the competition's archive with the Kaggle client, which resumes -> (archive, whether it was fetched).

    An archive that was already there may be the user's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{slug}.zip"
    before = archive.stat() if archive.exists() else None
    with tqdm(desc=archive.name, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        def progress():
            size = archive.stat().st_size if archive.exists() else 0
            bar.update(size - bar.n)
            return size

        read_kaggle("competitions", "download", slug, "--path", str(folder), "--quiet", progress=progress)
    if not archive.exists():
        raise OperationError(f"{folder}: the Kaggle client did not download {archive.name}; run the same command again")
    now = archive.stat()
    return archive, before is None or (before.st_mtime_ns, before.st_size) != (now.st_mtime_ns, now.st_size)


def lay_out(images: list[Path], test_dir: Path) -> None:
    """Copies the images to `test_dir`, all or none. UserError if other images would be lost."""
    foreign = {path.name for path in test_dir.glob("*")} - {path.name for path in images}
    if foreign:
        raise UserError(f"{test_dir / min(foreign)}: does not belong to this competition; move it or choose "
                        "another data.root")
    sources = {path.name: path for path in images}
    with written_folder(test_dir, lambda name: filecmp.cmp(sources[name], test_dir / name, shallow=False)) as part:
        for path in images:
            shutil.copyfile(path, part / path.name)


def copy(source: Path, target: Path) -> None:
    if not (target.exists() and filecmp.cmp(source, target, shallow=False)):
        with written_whole(target) as part:
            shutil.copyfile(source, part)
