"""The tables of RSNA Bone Age: one for each part, with columns of their own, as .csv or .xlsx."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from .listing import Part

__all__ = ["COLUMNS", "LabelTable", "read_tables"]

# Where a table has the image's number and the bone age in months; in any case.
COLUMNS: dict[Part, tuple[str, str]] = {
    "train": ("id", "boneage"),
    "validation": ("image id", "bone age (months)"),
    "test": ("case id", "ground truth bone age (months)"),
}

Rows = Iterable[tuple[str, ...]]


@dataclass(frozen=True)
class LabelTable:
    """The labels of a part.

    Attributes:
        part: Told by the columns.
        labels: Number of an image, and bone age in months.
        unreadable: Places of rows without a whole number and a bone age.
    """

    part: Part
    labels: tuple[tuple[int, float], ...]
    unreadable: tuple[str, ...]


def read_tables(path: Path) -> list[LabelTable]:
    """Reads the tables of a file that have the columns of a part: none, one, or several sheets.

    Raises:
        UserError: The file cannot be read, or openpyxl is needed and not installed.
    """
    try:
        sheets = _sheets(path) if path.suffix.lower() == ".xlsx" else {"line": _lines(path)}
    except ImportError:
        raise UserError(
            f"{path}: openpyxl is needed to read it: save it beside as {path.stem}.csv, or pip install "
            "'gram-gauss-newton[images]'"
        ) from None
    except Exception as error:  # openpyxl passes on whatever a broken file makes zipfile and the XML parser raise
        raise UserError(f"{path}: cannot be read as a table: {error}") from None
    return [table for place, rows in sheets.items() if (table := _label_table(place, iter(rows))) is not None]


def _lines(path: Path) -> list[tuple[str, ...]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        # Where the decimal mark is a comma, Excel puts semicolons between cells.
        return [tuple(cells) for cells in csv.reader(file, delimiter=";" if ";" in header else ",")]


def _sheets(path: Path) -> dict[str, list[tuple[str, ...]]]:
    import openpyxl

    with path.open("rb") as file:
        workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
        return {
            f"{sheet.title} row": [
                tuple("" if cell is None else str(cell) for cell in cells)
                for cells in sheet.iter_rows(values_only=True)
            ]
            for sheet in workbook.worksheets
        }


def _label_table(place: str, rows: Iterator[tuple[str, ...]]) -> LabelTable | None:
    header = [" ".join(cell.split()).lower() for cell in next(rows, ())]
    part = next((part for part, columns in COLUMNS.items() if set(columns) <= set(header)), None)
    if part is None:
        return None
    number_at, months_at = (header.index(column) for column in COLUMNS[part])
    labels, unreadable = [], []
    for row, cells in enumerate(rows, start=2):
        if any(cells):
            try:
                labels.append((_whole(cells[number_at]), _number(cells[months_at])))
            except (ValueError, IndexError):
                unreadable.append(f"{place} {row}")
    return LabelTable(part, tuple(labels), tuple(unreadable))


def _number(cell: str) -> float:
    return float(cell.replace(",", "."))


def _whole(cell: str) -> int:
    number = _number(cell)  # a spreadsheet's 1377 may have become 1377.0
    if not number.is_integer():
        raise ValueError(cell)
    return int(number)
