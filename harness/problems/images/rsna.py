"""RSNA Bone Age: X-rays of hands named by a number, and a table of bone ages for each part of the official split."""

import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import UserError
from .listing import PARTS, File, Listing, Part, Search
from .rsna_tables import COLUMNS, LabelTable, read_tables

__all__ = ["FOLDERS", "list_rsna"]

FOLDERS = ("rsna-bone-age", "rsna-boneage", "rsna", "bone-age", "boneage")
OLDEST = 240  # months

IMAGE = re.compile(r"(?:^|/)(?P<id>\d+)\.png$", re.IGNORECASE)

Label = tuple[float, Part]


def list_rsna(folder: Path) -> Listing:
    """Lists every ``<id>.png``, at any depth, to which a table gives a bone age. Tables are known by their columns.

    Args:
        folder: Images and tables, in whatever folders inside it.

    Returns:
        Images with bone ages in months, and the part of the table they stand in. Validation and test may be absent.

    Raises:
        UserError: There is no such folder, no table or no image of the training part, a table cannot be read, or it is
            an .xlsx and openpyxl is not installed.
    """
    search = Search(folder, "rsna", FOLDERS, "<id>.png, and tables of their bone ages")
    labels = _labels(search)
    used: dict[int, tuple[File, str, float, Part | None]] = {}
    for file in search.take(".png"):
        match = IMAGE.search(file.path)
        if match is None:
            search.left_out.add("image not named <id>.png", file.path)
        elif (number := int(match["id"])) not in labels:
            search.left_out.add("image without a label", file.path)
        elif (label := labels[number]) is None:
            search.left_out.add("image with contradictory labels", file.path)
        elif number in used:
            search.left_out.add("a second image of the same id", file.path)
        else:
            used[number] = (file, file.path[: match.start()], *label)
    for number, label in sorted(labels.items()):
        if number not in used and label is not None:
            search.left_out.add("label without an image", f"{label[1]} {number}")
    listing = search.listing(list(used.values()))
    if "train" not in listing.parts:
        raise UserError(f"{search.folder}: no image of the training part; {'; '.join(map(str, listing.left_out))}")
    return listing


def _labels(search: Search) -> dict[int, Label | None]:
    """Bone age and part of each id, or None where tables contradict each other."""
    labels: dict[int, Label | None] = {}
    parts = set()
    for path, table in _tables(search):
        parts.add(table.part)
        search.left_out.add("row without a number and a bone age", *(f"{path} {row}" for row in table.unreadable))
        for number, months in table.labels:
            label = (months, table.part)
            if not 0 < months <= OLDEST:
                search.left_out.add(f"bone age not in 1 … {OLDEST} months", f"{path} id {number}")
            elif labels.setdefault(number, label) != label:
                labels[number] = None
    if "train" not in parts:
        columns = "' and '".join(COLUMNS["train"])
        found = "; ".join(map(str, search.left_out.findings())) or "no tables"
        raise UserError(
            f"{search.folder}: no labels of the training part: looked for a .csv or .xlsx with the columns "
            f"'{columns}'; found {found}"
        )
    search.remarks.add("part without a table of bone ages, absent", *(part for part in PARTS if part not in parts))
    return labels


def _tables(search: Search) -> Iterator[tuple[str, LabelTable]]:
    """Every table of a part, with its file. A spreadsheet that was saved as .csv beside is not needed."""
    files = [file.path for file in search.take(".csv", ".xlsx")]
    as_csv = {path[: -len(".csv")] for path in files if path.lower().endswith(".csv")}
    for path in files:
        if path.lower().endswith(".xlsx") and path[: -len(".xlsx")] in as_csv:
            continue
        tables = read_tables(search.folder / path)
        if not tables:
            search.left_out.add("table without bone ages", path)
        for table in tables:
            yield path, table
