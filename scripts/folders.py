"""Source csv: your own photographs and alphas, two folders of files that have the same names.

    python scripts/get_data.py data.source=csv data.images_dir=photos data.alphas_dir=mattes --check   # only looks
    python scripts/get_data.py data.source=csv data.images_dir=photos data.alphas_dir=mattes           # writes splits
"""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from cli import UserError
from config import Config
from dataset import Pair, fault
from images import is_text, list_images
from pairs import Split, split_by_name


def fetch(cfg: Config) -> Split:
    """The good pairs, where they lie. UserError on the first problem unless data.on_error=skip."""
    good, problems = examine(cfg)
    if problems and (cfg.data.on_error == "fail" or not good):
        raise UserError(f"{problems[0]} ({len(problems)} problems, {len(good)} good pairs; --check lists all, "
                        "data.on_error=skip leaves them out)")
    split = split_by_name(good, cfg.data.val_share)
    print(f"{cfg.data.images_dir}: {len(split['train'])} training and {len(split['val'])} validation pairs"
          + (f"; left out {len(problems)} (data.on_error=skip), the first: {problems[0]}" if problems else ""))
    return split


def check(cfg: Config) -> None:
    """Prints every problem and writes nothing. UserError when there are any."""
    good, problems = examine(cfg)
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(f"{cfg.data.images_dir}: {len(problems)} problems, listed above; {len(good)} good pairs")
    print(f"{cfg.data.images_dir}: {len(good)} pairs, all good")


def examine(cfg: Config) -> tuple[list[tuple[Path, Path]], list[str]]:
    """(good pairs, problems): each image is decoded once with the alpha of the same stem."""
    for key, folder in (("data.images_dir", cfg.data.images_dir), ("data.alphas_dir", cfg.data.alphas_dir)):
        if folder is None:
            raise UserError(f"{key} is not set; data.source=csv needs data.images_dir and data.alphas_dir")
    images, problems = by_stem(cfg.data.images_dir)
    alphas, more = by_stem(cfg.data.alphas_dir)
    problems += more
    problems += [f"{images[stem]}: has no alpha in {cfg.data.alphas_dir}" for stem in images if stem not in alphas]
    problems += [f"{alphas[stem]}: has no image in {cfg.data.images_dir}" for stem in alphas if stem not in images]
    pairs = [(path, alphas[stem]) for stem, path in images.items() if stem in alphas]
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        found = pool.map(fault, [Pair(*files, row=files[0].stem) for files in pairs])
        faults = list(tqdm(found, "checking pairs", len(pairs), disable=None, leave=False))
    problems += [text for text in faults if text]
    return [pair for pair, text in zip(pairs, faults, strict=True) if not text], problems


def by_stem(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """({stem: file}, problems): the first of several files of one stem counts."""
    files, problems = {}, []
    for path in list_images(folder)[0]:
        if not is_text(path.name):
            problems.append(f"{path}: its name is not valid UTF-8, which a pairs CSV must be; rename it")
            continue
        if path.stem in files:
            problems.append(f"{path}: {files[path.stem].name} has the same name; rename one")
        files.setdefault(path.stem, path)
    return files, problems
