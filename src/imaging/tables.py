"""CSV files as people save them: any common separator, UTF-8, UTF-16 or UTF-32, capitals in the header.

    for line, row in read_table("train.csv", ("image_path", "alpha_path")): row["image_path"]
"""
import codecs
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from core.errors import UserError

SEPARATORS = ",;\t|"
# byte order marks; UTF-32's come first, as they begin with UTF-16's
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
         codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def read_table(path: str | Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """[(line number, {column in lower case: cell})]; blank rows are skipped.

    UserError if one of `columns` is missing, a row has too many cells, or the encoding is unknown.
    """
    text, skipped = _without_hint(read_text(path))
    try:
        separator = _separator(text, columns)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        names = [_plain(name) for name in next(reader, [])]
        _refuse_names(path, names, columns)
        return [(reader.line_num + skipped, _row(names, cells, f"{path} line {reader.line_num + skipped}", separator))
                for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as a CSV ({error})") from None


def read_text(path: str | Path) -> str:
    """Text in UTF-8, UTF-16 or UTF-32. UserError names the first line that is in another encoding."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a CSV ({error.strerror})") from None
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding = MARKS.get(mark) or _unmarked(data)
    try:
        return data[len(mark):].decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line}: cannot be read as {encoding.upper()} text; save the file as UTF-8 (in "
                        "Excel: CSV UTF-8)") from None


def _unmarked(data: bytes) -> str:
    """Detects UTF-16 without a byte order mark: every other byte of the first line is 0."""
    if data[1:16:2].strip(b"\0") == b"" and len(data) > 15:
        return "utf-16-le"
    return "utf-16-be" if data[:16:2].strip(b"\0") == b"" and len(data) > 15 else "utf-8"


def _without_hint(text: str) -> tuple[str, int]:
    """The text without leading blank lines and Excel's `sep=;`, and the number of lines removed."""
    lines = text.splitlines(keepends=True)
    count = next((i for i, line in enumerate(lines) if line.strip()), 0)
    if count < len(lines) and lines[count].strip(" \t\r\n\"").lower().startswith("sep="):
        count += 1
    return "".join(lines[count:]), count


def _separator(text: str, columns: Sequence[str]) -> str:
    """The first separator that splits the header into `columns`, else a comma."""
    first = text.split("\n", 1)[0]

    def names(separator: str) -> set[str]:
        return {_plain(name) for name in next(csv.reader([first], delimiter=separator), [])}

    fitting = [separator for separator in SEPARATORS if set(columns) <= names(separator)]
    return fitting[0] if fitting else ","


def _plain(name: str) -> str:
    return name.strip(" \t\"").lower()


def _refuse_names(path: str | Path, names: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in names]
    if missing:
        raise UserError(f"{path}: no column {' and '.join(missing)}; the first line must be {','.join(columns)}, "
                        f"separated by commas, semicolons, tabs or |, but is {','.join(names)[:80]!r}")
    twice = [column for column in columns if names.count(column) > 1]
    if twice:
        raise UserError(f"{path}: has {names.count(twice[0])} columns named {twice[0]}; rename all but one")


def _row(names: Sequence[str], cells: list[str], where: str, separator: str) -> dict[str, str]:
    if any(cell.strip() for cell in cells[len(names):]):
        raise UserError(f"{where}: has {len(cells)} cells, the first line {len(names)}; quote values that "
                        f"contain {separator!r}")
    return dict(zip(names, cells, strict=False))
