"""What inference checks before it computes anything: images that can be read, results that replace nothing."""
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.config import Config, sample_submission
from core.distributed import World
from core.errors import UserError
from core.outputs import check_file, check_folder, may_write, no_input, same_place
from imaging.images import read_rgb, read_shape
from submission.submission_csv import is_submission

NAMED = 3  # bad images that a message lists


def check_outputs(cfg: Config) -> None:
    """UserError if the results could not be written."""
    check_file(cfg.infer.submission, "infer.submission")
    for key, folder in picture_folders(cfg).items():
        check_folder(folder, f"choose another {key}")


def picture_folders(cfg: Config) -> dict[str, Path]:
    """The settings of the folders for mattes and cut-outs, if set."""
    folders = {"infer.png_dir": cfg.infer.png_dir, "infer.cutout_dir": cfg.infer.cutout_dir}
    return {key: folder for key, folder in folders.items() if folder}


def check_overwrites(cfg: Config, paths: list[Path]) -> None:
    """UserError if the results for these images would replace an input, one another or a file of the user's."""
    check_submission_place(cfg, paths)
    folders = picture_folders(cfg)
    if len(folders) == 2 and same_place(*folders.values()):
        raise UserError(f"infer.cutout_dir={cfg.infer.cutout_dir}: is the same folder as infer.png_dir, and both get "
                        "files of the same names; choose another folder for one of them")
    inputs = {os.path.realpath(path): path for path in paths}
    for key, folder in folders.items():
        no_input(key, folder, [cfg.infer.images])
        for path in paths:
            target = may_write(folder / f"{path.stem}.png")
            no_input(key, target, [inputs.get(str(target))])


def check_submission_place(cfg: Config, paths: list[Path]) -> None:
    data, target = cfg.data, cfg.infer.submission
    no_input("infer.submission", target, [*paths, *cfg.infer.checkpoints, sample_submission(cfg), data.solution_csv,
                                          data.train_csv, data.val_csv])
    may_write(target)
    if target.exists() and not is_submission(target):
        raise UserError(f"infer.submission={target}: exists already and is not a submission; move it, or choose "
                        "another name")


def readable_images(cfg: Config, paths: list[Path], world: World) -> tuple[list[Path], int]:
    """(images that can be read, number of those that cannot). UserError if any cannot, unless data.on_error=skip and
    mattes or cut-outs are wanted.

    Checks the headers, which takes seconds. With skip it decodes the images, since the bad ones must be known before
    anything is written; the good ones are decoded again later.
    """
    skip = cfg.data.on_error == "skip" and bool(picture_folders(cfg))
    faults = find_faults(read_rgb if skip else read_shape, paths, world)
    bad = [fault for fault in faults if fault]
    if not bad:
        return paths, 0
    more = "; …" if len(bad) > NAMED else ""
    found = f"{len(bad)} of {len(paths)} images cannot be read: {'; '.join(bad[:NAMED])}{more}"
    if not skip or len(bad) == len(paths):
        raise UserError(f"{found}. A submission needs every image; fix these, or set data.on_error=skip to write only "
                        "the mattes and cut-outs (infer.png_dir, infer.cutout_dir) of the others")
    print(f"{found}. Skipping them (data.on_error=skip); no submission will be written")
    return [path for path, fault in zip(paths, faults, strict=True) if not fault], len(bad)


def find_faults(read: Callable, paths: list[Path], world: World) -> list[str | None]:
    """What is wrong with each image, None where read(path) succeeds; the processes share the work."""
    def fault(index: int) -> str | None:
        try:
            read(paths[index])
        except UserError as error:
            return str(error)

    mine = world.deal(range(len(paths)))
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        return list(world.merge(dict(zip(mine, pool.map(fault, mine), strict=True))).values())


def agreed_block(world: World, paths: list[Path], batch_size: int) -> int:
    """How many consecutive images a process gets: the smallest batch, as each process chooses its own by free memory.

    UserError if the processes see different images.
    """
    names, sizes = zip(*world.gather(([path.name for path in paths], batch_size)), strict=True)
    if any(other != names[0] for other in names):
        raise UserError(f"{paths[0].parent}: holds different images on different machines; give every machine the same "
                        "infer.images")
    return min(sizes)
