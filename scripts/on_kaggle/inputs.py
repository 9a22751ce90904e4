"""Finds what is attached to the kernel: names and folders under /kaggle/input differ from run to run.

    bundle = find_bundle(Path("/kaggle/input"), settings)
    images, sample = find_test_set(Path("/kaggle/input"), "a-competition", bundle)
"""
from pathlib import Path

from core.errors import OperationError, UserError
from core.files import file_sha256
from imaging.pairs import split_by_name, write_splits
from submission.competition_files import find_pairs, find_samples, find_test_images, pairs_tables


def find_bundle(inputs: Path, settings: dict) -> Path:
    """The folder of this build's data set, with every file checked against SHA256SUMS."""
    folders = [path.parent for source in mounted(inputs) for path in sorted(source.rglob("SHA256SUMS"))]
    found = [folder for folder in folders if file_sha256(folder / "SHA256SUMS") == settings["sums"]]
    if not found:
        what = "is attached in another version than the one built with this kernel" if folders else "is not attached"
        raise UserError(f"{settings['dataset']}: the data set of weights and settings {what}; {attached(inputs)}")
    for line in (found[0] / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        expected, name = line.split("  ", 1)
        if not (found[0] / name).is_file() or file_sha256(found[0] / name) != expected:
            raise UserError(f"{found[0] / name}: missing or damaged; upload the data set again with `make kernel-push`")
    return found[0]


def find_test_set(inputs: Path, competition: str | None, bundle: Path) -> tuple[Path, Path | None]:
    """(folder of test images, sample submission or None), wherever the competition is mounted."""
    home = find_competition(inputs, competition, bundle)
    try:
        images, sample = find_test_images(home)
    except OperationError as error:
        raise UserError(f"{error}; {attached(inputs)}") from None
    return images[0].parent, sample


def find_competition(inputs: Path, competition: str | None, bundle: Path) -> Path:
    """The competition's folder: by name; else the one with a sample submission; else the only one without pairs."""
    others = [folder for folder in mounted(inputs) if not bundle.resolve().is_relative_to(folder.resolve())]
    for fits in (lambda folder: (folder.parent.name, folder.name) == ("competitions", competition),
                 lambda folder: folder.name == competition, find_samples, lambda folder: not pairs_tables(folder)):
        folders = list(filter(fits, others))
        if len(folders) == 1:
            return folders[0]
    raise UserError(f"the competition {competition or '(kaggle.competition is null)'} is not attached; "
                    f"add it to competition_sources; {attached(inputs)}")


def find_splits(inputs: Path, scratch: Path, val_share: float) -> tuple[Path, Path]:
    """(train.csv, val.csv): attached side by side; else the pairs of the one attached CSV, split by their names."""
    tables = [path for source in mounted(inputs) for path in pairs_tables(source)]
    for path in tables:
        if path.name == "train.csv" and path.with_name("val.csv") in tables:
            return path, path.with_name("val.csv")
    if not tables:
        raise UserError("no CSV with the columns image_path,alpha_path to train on; add a data set of pairs to "
                        f"dataset_sources in kernel-metadata.json; {attached(inputs)}")
    write_splits(scratch, [split_by_name(find_pairs(*mounted(inputs)), val_share)])
    return scratch / "splits/train.csv", scratch / "splits/val.csv"


def mounted(inputs: Path) -> list[Path]:
    """The attached sources' folders: directly in `inputs`, or under competitions/ or datasets/<owner>/.

    A source that is visible in two places is listed once, by its own path rather than by a link.
    """
    places = [*inputs.glob("*"), *inputs.glob("competitions/*"), *inputs.glob("datasets/*/*")]
    shelves = inputs / "competitions", inputs / "datasets"
    folders = sorted((path for path in places if path.is_dir() and path not in shelves), key=Path.is_symlink)
    unique = {(folder.stat().st_dev, folder.stat().st_ino): folder for folder in reversed(folders)}
    return sorted(unique.values())


def attached(inputs: Path) -> str:
    """The contents of `inputs`, for messages."""
    def size(folder: Path) -> str:
        return f"{folder.relative_to(inputs)} ({sum(path.is_file() for path in folder.rglob('*'))} files)"

    return f"attached in {inputs}: {', '.join(map(size, mounted(inputs))) or 'nothing'}"
