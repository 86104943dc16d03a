"""AFAD-Lite and AFAD-Full: faces in a folder for each age, with one for men (111) and one for women (112) inside."""

import re
from pathlib import Path

from .listing import Listing, Search

__all__ = ["FOLDERS", "list_afad"]

FOLDERS = ("afad-lite", "afad-full", "afad")
OLDEST = 120

IMAGE = re.compile(r"(?:^|/)(?P<age>\d{1,3})/(?:111|112)/\w+-\d+\.jpe?g$", re.IGNORECASE)


def list_afad(folder: Path) -> Listing:
    """Lists ``<age>/<111|112>/<id>-<k>.jpg`` at any depth. There is no official split.

    Args:
        folder: AFAD-Lite or AFAD-Full, or a folder that holds one of them.

    Returns:
        Images with ages in years.

    Raises:
        UserError: There is no such folder, it holds both, or no images.
    """
    search = Search(folder, "afad", FOLDERS, "<age>/<111 or 112>/<id>-<k>.jpg")
    used = []
    for file in search.take(".jpg", ".jpeg"):
        match = IMAGE.search(file.path)
        if match is None:
            search.left_out.add("image not at <age>/<111 or 112>/<id>-<k>.jpg", file.path)
        elif int(match["age"]) > OLDEST:
            search.left_out.add(f"age above {OLDEST}", file.path)
        else:
            used.append((file, file.path[: match.start()], float(match["age"]), None))
    return search.listing(used)
