"""Regression tables from CSV files, with errors that name row and column."""

import csv
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError, unknown_name

if TYPE_CHECKING:
    import _csv

__all__ = ["Table", "digest", "read_table"]

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Table:
    """Features (n, d) and targets (n, 1), as they stand in the file; categorical columns are one-hot."""

    features: FloatArray
    targets: FloatArray


def digest(path: Path) -> str:
    """SHA-256 of the file's bytes, shortened to 16 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def read_table(path: Path, target: str, categorical: tuple[str, ...] = ()) -> Table:
    """Reads a CSV file with a header line.

    Args:
        path: The file, UTF-8.
        target: Column to predict.
        categorical: Columns of labels; each becomes one column a label, in sorted order. All others must hold numbers.

    Raises:
        UserError: No such file or column, text where a number belongs, a missing value, or fewer than two rows.
    """
    header, lines = _read_lines(path)
    if len(header) == 1 and (other := next((mark for mark in ";\t|" if mark in header[0]), None)) is not None:
        raise UserError(f"{path}: the columns must be separated by commas, not by {other!r}")
    for column in (target, *categorical):
        if column not in header:
            raise UserError(f"{path}: {unknown_name('column', column, header)}")
    if target in categorical:
        raise UserError(f"{path}: the target column '{target}' must hold numbers, it cannot be categorical")
    columns = []
    for place, name in enumerate(header):
        cells = {number: cells[place] for number, cells in lines.items()}
        if name in categorical:
            labels = sorted(set(cells.values()))
            columns += [[float(cell == label) for cell in cells.values()] for label in labels]
        elif name != target:
            columns.append(_numbers(path, name, cells))
    if not columns:
        raise UserError(f"{path}: no column is left to predict '{target}' from")
    targets = _numbers(path, target, {number: cells[header.index(target)] for number, cells in lines.items()})
    return Table(np.array(columns).T, np.array(targets)[:, None])


def _read_lines(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """The header, and the cells of every other line that is not blank, by line number."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = dict(_numbered(reader))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from None
    if len(lines) < 3:
        raise UserError(f"{path}: needs a header line and at least two rows, has {len(lines)} lines")
    header = [name.strip() for name in lines.pop(next(iter(lines)))]
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise UserError(f"{path}: column names must differ, these occur twice: {', '.join(sorted(twice))}")
    for number, cells in lines.items():
        if len(cells) != len(header):
            raise UserError(f"{path}: line {number} has {len(cells)} cells, the header has {len(header)}")
    return header, lines


def _numbered(reader: "_csv.Reader") -> Iterator[tuple[int, list[str]]]:
    for cells in reader:
        if cells:
            yield reader.line_num, cells


def _numbers(path: Path, column: str, cells: dict[int, str]) -> list[float]:
    numbers = []
    for line, cell in cells.items():
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            advice = "list a column of labels under 'categorical'" if cell.strip() else "fill it in, or drop the line"
            raise UserError(
                f"{path}: line {line}, column '{column}': expected a finite number, found '{cell}'; {advice}"
            )
        numbers.append(number)
    return numbers
