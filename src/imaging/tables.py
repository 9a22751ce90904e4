"""CSV files as people save them: any of the common separators, UTF-8 or UTF-16, capitals in the first line.

    for line, row in read_table("train.csv", ("image_path", "alpha_path")): row["image_path"]
"""
import codecs
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from core.errors import UserError

SEPARATORS = ",;\t|"
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
         codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}  # UTF-16's mark begins UTF-32's


def read_table(path: str | Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """[(line number, row)] by the names of the first line, in small letters; rows of blanks alone are left out.

    UserError where one of `columns` is missing, a row has too many cells, or the file is no text that can be told.
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
    """A text file in UTF-8, or in UTF-16 or UTF-32 as its mark says. UserError names the line of another encoding."""
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
    """UTF-16 also without its mark: every other byte of the first line is 0 there."""
    if data[1:16:2].strip(b"\0") == b"" and len(data) > 15:
        return "utf-16-le"
    return "utf-16-be" if data[:16:2].strip(b"\0") == b"" and len(data) > 15 else "utf-8"


def _without_hint(text: str) -> tuple[str, int]:
    """The text without blank lines before its first one and Excel's `sep=;`, and how many lines that were."""
    lines = text.splitlines(keepends=True)
    count = next((i for i, line in enumerate(lines) if line.strip()), 0)
    if count < len(lines) and lines[count].strip(" \t\r\n\"").lower().startswith("sep="):
        count += 1
    return "".join(lines[count:]), count


def _separator(text: str, columns: Sequence[str]) -> str:
    """The one that splits the first line into `columns`; a comma where none does, or more than one."""
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
                        f"separated by commas, semicolons, tabs or |; it is {','.join(names)[:80]!r}")
    twice = [column for column in columns if names.count(column) > 1]
    if twice:
        raise UserError(f"{path}: has {names.count(twice[0])} columns {twice[0]}; rename all but one")


def _row(names: Sequence[str], cells: list[str], where: str, separator: str) -> dict[str, str]:
    if any(cell.strip() for cell in cells[len(names):]):
        raise UserError(f"{where}: has {len(cells)} cells, the first line {len(names)}; put values with {separator!r} "
                        "in them into quotes")
    return dict(zip(names, cells, strict=False))
