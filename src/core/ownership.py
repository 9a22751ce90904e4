"""Which files this program wrote: no others are ever overwritten or removed.

A file is recognised by its first bytes, so copies and files of earlier versions are recognised too. A PNG names its
software, a checkpoint holds its run's config, a table has our header. If the content says nothing, a name that only
run folders use counts, in a folder that holds a run.
"""
import re
import struct
import zipfile
import zlib
from pathlib import Path

SOFTWARE = b"Software\0dense-matting"
PNG_HEADER = 33  # bytes of signature and IHDR, after which other chunks may come
HEAD = 1024      # bytes read to recognise a file
MOST_PICKLED = 2**26  # bytes of a checkpoint's structure, without its tensors
BEGINNINGS = (  # name, first bytes, what else is in the first KB
    ("*", b"filename,image_utf"), ("train.csv", b"image_path,alpha_path,family"),
    ("val.csv", b"image_path,alpha_path,family"), ("pairs.csv", b"image_path,alpha_path,family"),
    ("submissions.csv", b"reference,time,"),
    ("metrics.csv", b"epoch,train_loss,"), ("ablation.csv", b"cell,seed,image,"), ("folds.csv", b"fold,images,"),
    ("config.yaml", b"seed: "),
    ("postprocess.yaml", b"name: ", b"\nparameters:"), ("int8.yaml", b"weights:\n"),
    ("formats.yaml", b"weights:\n"), ("validation.json", b'{"epoch": '),
    ("levels*.json", b'{"identity": '), ("cache/checked.json", b""),
    ("*.json", b'{\n "machine": '), ("soak.json", b'{\n "verdict": '),
    ("cell.json", b'["--config"'), ("*.md", b"# u2netp_dense\n\nWritten by `make pretrain`"), ("*.openvino", b""),
    ("*", b"<!DOCTYPE html>\n<!-- Written by `make compare` of dense-matting. -->"),
    ("executed.ipynb", b"{"), ("synthetic/sheet.png", b"\x89PNG"))
PLOTS = ("curves.png", "ablation.png", "tune.png", "sizes.png", "soak.png")
PART_NAME = re.compile(r"\..*\.\w+\.\d+\.part/")  # torch.save stores the file's temporary name in it
CACHED = re.compile(r"[0-9a-f]{24}\.(png|npy)")  # in data.root's cache, named by a hash of the source files
RUN_FILES = ("last.pth", "last.prev.pth", "last.damaged.pth", "best.pth", "metrics.csv", "validation.json",
             "levels.json", "levels_official.json", "levels_photographs.json", "precision.json", "postprocess.yaml",
             "int8.yaml", "formats.yaml", "cell.json", "train.log", "curves.png", "tune.png", "sizes.png",
             "report.html", "report.png", "samples/epoch_*.png")


def is_ours(path: Path) -> bool:
    """Whether any version of this program wrote a file; an empty file counts, as nothing can be lost."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    return not head or bool(CACHED.fullmatch(path.name)) or has_our_content(path, head) or is_run_file(path, head)


def has_our_content(path: Path, head: bytes) -> bool:
    if SOFTWARE in head or (path.name in PLOTS and b"Matplotlib" in head):
        return True
    if path.name == "config.yaml" and re.search(rb"^\s*#|  #", head, re.MULTILINE):  # it has comments: written by hand
        return False
    return any(path.match(name) and head.startswith(begin) and all(word in head for word in further)
               for name, begin, *further in BEGINNINGS) or is_our_checkpoint(path)


def is_our_checkpoint(path: Path) -> bool:
    """Whether a file is one of our checkpoints: it holds a temporary name that files.py gave it, or a run's config."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next(member for member in archive.infolist() if member.filename.endswith("/data.pkl"))
            if PART_NAME.match(pickled.filename):
                return True
            content = archive.read(pickled) if pickled.file_size < MOST_PICKLED else b""
    except (OSError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error, StopIteration):
        return False
    return b"model_state" in content and b"out_dir" in content


def is_run_file(path: Path, head: bytes) -> bool:
    """Whether it has a name that training or a report uses, is in a run folder, and is not someone else's weights."""
    folder = path.parent.parent if path.parent.name == "samples" else path.parent
    if not any(path.match(name) for name in RUN_FILES) or not holds_run(folder, path):
        return False
    return path.suffix != ".pth" or damaged(path, head)


def damaged(path: Path, head: bytes) -> bool:
    """Whether it is a damaged zip archive (our checkpoints are zip archives) or all zeros."""
    if not head.startswith(b"PK"):
        return not head.strip(b"\0")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except (OSError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error):
        return True


def holds_run(folder: Path, apart_from: Path) -> bool:
    for name in ("config.yaml", "metrics.csv", "last.pth", "last.prev.pth", "best.pth"):
        path = folder / name
        if path != apart_from and path.is_file():
            with path.open("rb") as file:
                if has_our_content(path, file.read(HEAD)):
                    return True
    return False


def signed(png: bytes) -> bytes:
    """An encoded PNG that names this program as its software."""
    chunk = b"tEXt" + SOFTWARE
    return (png[:PNG_HEADER] + struct.pack(">I", len(SOFTWARE)) + chunk + struct.pack(">I", zlib.crc32(chunk))
            + png[PNG_HEADER:])
