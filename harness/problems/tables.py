"""Regression tables from CSV files, with errors that name row and column."""

import csv
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError, unknown

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
    header, rows = _read_rows(path)
    for column in (target, *categorical):
        if column not in header:
            raise UserError(f"{path}: {unknown('column', column, header)}")
    if target in categorical:
        raise UserError(f"{path}: the target column '{target}' must hold numbers, it cannot be categorical")
    columns = []
    for name in header:
        cells = [row[header.index(name)] for row in rows]
        if name in categorical:
            labels = sorted(set(cells))
            columns += [[float(cell == label) for cell in cells] for label in labels]
        elif name != target:
            columns.append(_numbers(path, name, cells))
    if not columns:
        raise UserError(f"{path}: no column is left to predict '{target}' from")
    targets = _numbers(path, target, [row[header.index(target)] for row in rows])
    return Table(np.array(columns).T, np.array(targets)[:, None])


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [row for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from None
    if len(lines) < 3:
        raise UserError(f"{path}: needs a header line and at least two rows, has {len(lines)} lines")
    header, rows = [name.strip() for name in lines[0]], lines[1:]
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise UserError(f"{path}: column names must differ, these occur twice: {', '.join(sorted(twice))}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}: row {number} has {len(row)} cells, the header has {len(header)}")
    return header, rows


def _numbers(path: Path, column: str, cells: list[str]) -> list[float]:
    numbers = []
    for row, cell in enumerate(cells, start=2):
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(
                f"{path}: row {row}, column '{column}': expected a finite number, found '{cell}'; "
                "list a column of labels under 'categorical'"
            )
        numbers.append(number)
    return numbers
