"""What is attached to the kernel, found by looking: names and places under /kaggle/input differ from run to run.

    bundle = find_bundle(Path("/kaggle/input"), settings)
    images, sample = find_test_set(Path("/kaggle/input"), "a-competition", bundle)
"""
from pathlib import Path

from cli import OperationError, UserError
from files import file_sha256
from findings import find_pairs, find_sample, find_test_images, pairs_tables
from images import TEST_SHAPE
from pairs import split_by_name, write_splits


def find_bundle(inputs: Path, settings: dict) -> Path:
    """The folder of this build's data set, every file held against SHA256SUMS."""
    folders = [path.parent for path in sorted(inputs.rglob("SHA256SUMS"))]
    found = [folder for folder in folders if file_sha256(folder / "SHA256SUMS") == settings["sums"]]
    if not found:
        what = "is attached in another version than this kernel was built with" if folders else "is not attached"
        raise UserError(f"{settings['dataset']}: the data set of weights and settings {what}; {attached(inputs)}")
    for line in (found[0] / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        expected, name = line.split("  ", 1)
        if not (found[0] / name).is_file() or file_sha256(found[0] / name) != expected:
            raise UserError(f"{found[0] / name}: missing or damaged; upload the data set again (make kernel-push)")
    return found[0]


def find_test_set(inputs: Path, competition: str | None, bundle: Path) -> tuple[Path, Path | None]:
    """(folder of test images, sample submission or None), wherever the competition is mounted."""
    home = find_competition(inputs, competition, bundle)
    sample = find_sample(home)
    # A hidden test set may come with the public one's sample submission, or in other sizes.
    for order, shape in dict.fromkeys([(sample, TEST_SHAPE), (None, TEST_SHAPE), (sample, None), (None, None)]):
        try:
            folder = find_test_images(home, order, shape)[0].parent
        except OperationError as error:
            reason = error
            continue
        if sample and not order:
            print(f"note    {sample} names other images than {folder} holds: they go in natural order")
        return folder, order
    raise UserError(f"{reason}; {attached(inputs)}")


def find_competition(inputs: Path, competition: str | None, bundle: Path) -> Path:
    """The competition's folder: by its name; else the one with a sample submission; else the only one."""
    others = [folder for folder in mounted(inputs) if not bundle.is_relative_to(folder)]
    choices = ([folder for folder in others if folder.name == competition],
               [folder for folder in others if find_sample(folder)],
               [folder for folder in others if not pairs_tables(folder)])
    for folders in choices:
        if len(folders) == 1:
            return folders[0]
    raise UserError(f"the competition {competition or '(kaggle.competition is null)'} is not attached; "
                    f"add it to competition_sources; {attached(inputs)}")


def find_splits(inputs: Path, scratch: Path, val_share: float) -> tuple[Path, Path]:
    """(train.csv, val.csv): attached side by side; else the pairs of the one attached CSV, split by their names."""
    tables = pairs_tables(inputs)
    for path in tables:
        if path.name == "train.csv" and path.with_name("val.csv") in tables:
            return path, path.with_name("val.csv")
    if not tables:
        raise UserError("no CSV with the columns image_path,alpha_path to train on; add a data set of pairs to "
                        f"kernel-metadata.json's dataset_sources; {attached(inputs)}")
    write_splits(scratch, [split_by_name(find_pairs(inputs), val_share)])
    return scratch / "splits/train.csv", scratch / "splits/val.csv"


def mounted(inputs: Path) -> list[Path]:
    """The attached sources' folders; Kaggle mounts them at the top or under competitions/ and datasets/<owner>/."""
    places = [*inputs.glob("*"), *inputs.glob("competitions/*"), *inputs.glob("datasets/*/*")]
    shelves = inputs / "competitions", inputs / "datasets"
    return sorted(path for path in places if path.is_dir() and path not in shelves)


def attached(inputs: Path) -> str:
    """What lies in `inputs`, for messages."""
    def size(folder: Path) -> str:
        return f"{folder.relative_to(inputs)} ({sum(path.is_file() for path in folder.rglob('*'))} files)"

    return f"attached in {inputs}: {', '.join(map(size, mounted(inputs))) or 'nothing'}"
