"""Source csv: your own photographs and alphas, two folders of files that have the same names.

    python scripts/get_data.py data.source=csv data.images_dir=photos data.alphas_dir=mattes --check   # only looks
    python scripts/get_data.py data.source=csv data.images_dir=photos data.alphas_dir=mattes           # writes splits
"""
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

from core.config import Config
from core.errors import UserError
from core.files import file_sha256
from imaging.images import image_files, is_text
from imaging.pair_checks import doubts
from imaging.pairs import Pair, Split, check_pairs, memory_file, split_by_name


def fetch(cfg: Config) -> Split:
    """The good pairs, where they lie. UserError on the first problem unless data.on_error=skip."""
    good, findings, problems = examine(cfg, memory_file(cfg))
    if problems and (cfg.data.on_error == "fail" or not good):
        raise UserError(f"{problems[0]} ({len(problems)} problems, {len(good)} good pairs; --check lists all, "
                        "data.on_error=skip leaves them out)")
    for line in doubts(str(cfg.data.alphas_dir), [alpha.name for _, alpha in good], findings):
        print(f"note    {line}")
    split = split_by_name(good, cfg.data.val_share)
    print(f"{cfg.data.images_dir}: {len(split['train'])} training and {len(split['val'])} validation pairs"
          + (f"; left out {len(problems)} (data.on_error=skip), the first: {problems[0]}" if problems else ""))
    return split


def check(cfg: Config) -> None:
    """Prints every problem and writes nothing. UserError when there are any."""
    good, findings, problems = examine(cfg)
    for problem in problems:
        print(problem)
    for line in [*doubts(str(cfg.data.alphas_dir), [alpha.name for _, alpha in good], findings), *copies(good)]:
        print(f"note    {line}")
    if problems:
        raise UserError(f"{cfg.data.images_dir}: {len(problems)} problems, listed above; {len(good)} good pairs")
    print(f"{cfg.data.images_dir}: {len(good)} pairs, all good")


def examine(cfg: Config, memory: Path | None = None) -> tuple[list[tuple[Path, Path]], list[list], list[str]]:
    """(good pairs, their findings, problems): each image is decoded once with the alpha of the same stem."""
    for setting, folder in (("data.images_dir", cfg.data.images_dir), ("data.alphas_dir", cfg.data.alphas_dir)):
        if folder is None:
            raise UserError(f"{setting} is not set; data.source=csv needs data.images_dir and data.alphas_dir")
    images, problems = by_stem(cfg.data.images_dir)
    alphas, more = by_stem(cfg.data.alphas_dir)
    problems += more
    problems += [f"{images[stem]}: has no alpha in {cfg.data.alphas_dir}" for stem in images if stem not in alphas]
    problems += [f"{alphas[stem]}: has no image in {cfg.data.images_dir}" for stem in alphas if stem not in images]
    pairs = [(path, alphas[stem]) for stem, path in images.items() if stem in alphas]
    faults, findings = check_pairs([Pair(*files, row=files[0].stem) for files in pairs], str(cfg.data.images_dir),
                                   memory=memory)
    problems += faults.values()
    return [pair for index, pair in enumerate(pairs) if index not in faults], findings, problems


def by_stem(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """({stem: file}, problems): the first of several files of one stem counts; é is one letter or two (macOS)."""
    files, problems = {}, []
    for path in image_files(folder)[0]:
        if not is_text(path.name):
            problems.append(f"{path}: its name is not valid UTF-8, which a pairs CSV must be; rename it")
            continue
        stem = normalize("NFC", path.stem)
        if stem in files:
            problems.append(f"{path}: {files[stem].name} has the same name; rename one")
        files.setdefault(stem, path)
    return files, problems


def copies(pairs: Sequence[tuple[Path, Path]]) -> list[str]:
    """A line when photographs are the same file under several names: some may train and others validate."""
    sizes, twice = Counter(image.stat().st_size for image, _ in pairs), defaultdict(list)
    for image, _ in pairs:
        if sizes[image.stat().st_size] > 1:
            twice[file_sha256(image)].append(image.name)
    found = [names for names in twice.values() if len(names) > 1]
    if not found:
        return []
    return [f"{len(found)} photographs are there more than once ({' and '.join(found[0][:2])}, for example); training "
            "and validation may share them"]
