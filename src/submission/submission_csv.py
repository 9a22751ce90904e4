"""submission.csv: alpha <-> base64 PNG <-> CSV, written and read.

Header `filename,image_utf`; one row per test image: its name without the last extension, and the base64 of an 8-bit
single-channel PNG of the image's size. Rows are streamed both ways, so memory does not grow with their number.
"""
import base64
import binascii
import contextlib
import csv
import io
import itertools
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from core.errors import UserError
from core.files import remove, written_whole
from imaging.images import MOST_PIXELS, to_levels

if TYPE_CHECKING:  # loads torch, which most commands do not need
    from core.distributed import World

HEADER = ["filename", "image_utf"]
COLOR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


def encode_alpha(alpha: np.ndarray) -> str:
    """alpha (H,W) float in [0,1] -> base64 text of its 8-bit grey PNG."""
    return base64.b64encode(cv2.imencode(".png", to_levels(alpha))[1]).decode("ascii")


def decode_alpha(text: str) -> np.ndarray:
    """base64 text -> (H,W) uint8. UserError if it is not an intact 8-bit single-channel PNG."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("is not base64") from None
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33:
        raise UserError("is not a PNG")
    depth, color_type = data[24:26]
    if (depth, COLOR_TYPES.get(color_type)) != (8, "grey"):
        raise UserError(f"is not an 8-bit single-channel PNG ({depth} bit, {COLOR_TYPES.get(color_type, 'unknown')})")
    width, height = struct.unpack(">II", data[16:24])
    if width * height > MOST_PIXELS:
        raise UserError(f"claims {width}×{height} pixels, more than any image here has")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return np.array(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything from OSError to SyntaxError and struct.error on broken files
        raise UserError(f"is a damaged PNG ({' '.join(str(error).split())})") from None


def is_submission(path: Path) -> bool:
    """Whether a file begins like a submission, or is empty."""
    with path.open("rb") as file:
        return file.read(len(",".join(HEADER))) in (b"", ",".join(HEADER).encode())


class SubmissionWriter:
    """with SubmissionWriter(path) as writer: writer.write(name, alpha) …; the file appears at the end."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._names = set()
        self._open = contextlib.ExitStack()

    def __enter__(self):
        part = self._open.enter_context(written_whole(self.path))
        self._rows = csv.writer(self._open.enter_context(part.open("w", newline="", encoding="utf-8")))
        self._rows.writerow(HEADER)
        return self

    def __exit__(self, *error):
        return self._open.__exit__(*error)

    def write(self, name: str, alpha: np.ndarray) -> None:
        self.write_encoded(name, encode_alpha(alpha))

    def write_encoded(self, name: str, text: str) -> None:
        """text: encode_alpha()'s result, perhaps from another thread."""
        if name in self._names:
            raise UserError(f"two test images are named {name}; rename one: a submission lists each name once")
        self._names.add(name)
        self._rows.writerow([name, text])


@contextlib.contextmanager
def shared_out(path: Path, world: "World", block: int) -> Iterator[Path]:
    """The CSV for this process to write, with the rows that world.deal(rows, block) gives it.

    At the end process 0 merges these CSVs, which are beside `path`, into it and removes them.
    """
    if world.size == 1:
        yield path
        return
    parts = [path.with_name(f".{path.stem}.{rank}of{world.size}{path.suffix}") for rank in range(world.size)]
    try:
        yield parts[world.rank]
        world.wait()
        if world.main:
            merge(parts, path, block)
        world.wait()
    finally:
        for part in parts if world.main else [parts[world.rank]]:
            remove(part)


def merge(parts: Sequence[Path], path: Path, block: int) -> None:
    """Merges the processes' CSVs, `block` rows of each in turn; keeps one block in memory."""
    missing = next((part for part in parts if not part.exists()), None)
    if missing:
        raise UserError(f"{missing}: missing; with several machines infer.submission must be in a folder that all of "
                        "them share")
    sources = [read_rows(part) for part in parts]
    with written_whole(path) as whole, whole.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(HEADER)
        for source in itertools.cycle(sources):
            turn = [row[1:] for row in itertools.islice(source, block)]
            if not turn:  # if one process has no row left, none of the next has
                break
            rows.writerows(turn)


def read_rows(path: str | Path) -> Iterator[tuple[int, str, str]]:
    """(line number, filename, image_utf) of each row of a submission; both as text."""
    rows = _table(path)
    _, header = next(rows, (0, []))
    if header != HEADER:
        raise UserError(f"{path}: the first line must be {','.join(HEADER)}")
    for line, row in rows:
        if len(row) != len(HEADER):
            raise UserError(f"{path} line {line}: {len(row)} columns instead of {len(HEADER)}")
        yield line, *row


def read_hosted(path: str | Path) -> Iterator[tuple[int, str, str]]:
    """read_rows for a sample submission or a solution, in the variants that hosts write.

    The names are in the column `filename`, else in the first one; without a column `image_utf` its text is empty.
    Further columns, such as Kaggle's `Usage`, are ignored. Columns may be separated by semicolons or tabs.
    """
    rows = _table(path, ",;\t")
    header = [column.strip().lower() for column in next(rows, (0, []))[1]]
    if not header:
        raise UserError(f"{path}: is empty; its first line must name the columns, {','.join(HEADER)}")
    name = header.index("filename") if "filename" in header else 0
    text = header.index("image_utf") if "image_utf" in header else len(header)
    for line, row in rows:
        if any(row):  # spreadsheets leave lines with only separators
            yield line, *(row[place].strip() if place < len(row) else "" for place in (name, text))


def _table(path: str | Path, separators: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of each line that is not blank; the first of `separators` in the first line is used."""
    csv.field_size_limit(sys.maxsize)  # the default, 128 KiB, is less than one 1024² alpha
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            separator = next((each for each in separators if each in first), ",")
            reader = csv.reader(itertools.chain([first], file), delimiter=separator)
            yield from ((reader.line_num, row) for row in reader if len(row) > 1 or "".join(row).strip())
    except FileNotFoundError:
        raise UserError(f"{path}: no such CSV; `make infer` writes submission.csv, `make data` solution.csv "
                        "where the true alphas are known") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a CSV") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV ({error})") from None


def read_alphas(path: str | Path, rows: Callable = read_rows) -> Iterator[tuple[int, str, np.ndarray]]:
    """(line number, filename, alpha (H,W) uint8) of each row. UserError names the row that cannot be decoded.

    rows: read_rows, or read_hosted for a solution.
    """
    for line, name, text in rows(path):
        yield line, name, decode_row(text, f"{path} line {line} ({name})")


def decode_row(text: str, where: str) -> np.ndarray:
    """decode_alpha() of a row; `where` names it in the UserError."""
    if not text:
        raise UserError(f"{where}: has no image_utf")
    try:
        return decode_alpha(text)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
