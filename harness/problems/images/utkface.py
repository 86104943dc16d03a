"""UTKFace: faces whose age, gender, ethnicity and time of collection stand in the file's name."""

import re
from pathlib import Path

from .listing import Listing, Search

__all__ = ["FOLDERS", "list_utkface"]

FOLDERS = ("utkface",)
OLDEST = 120

# 39_0_1_20170116174525125.jpg; .chip.jpg stands behind it once aligned and cropped. A few lack gender or race, or have
# the first .jpg misspelled: their age can be read all the same.
IMAGE = re.compile(
    r"(?:^|/)(?P<photo>(?P<age>\d{1,3})_(?P<fields>(?:\d?_){1,2})\d{17})(?P<ending>[^/\d]*\.jpe?g)$", re.IGNORECASE
)
FIELDS = re.compile("[01]_[0-4]_")
ENDING = re.compile(r"\.jpe?g(?:\.chip\.jpg)?", re.IGNORECASE)


def list_utkface(folder: Path) -> Listing:
    """Lists ``<age>_<gender>_<race>_<time>.jpg``, with or without ``.chip.jpg``, at any depth. No official split.

    Names without gender or race, or with a misspelled ending, are used and remarked. A photograph that is there twice,
    as in distributions that repeat a part of it in another folder, is used once.

    Args:
        folder: The images, or a folder that holds them.

    Returns:
        Images with ages in years.

    Raises:
        UserError: There is no such folder, or it holds no images.
    """
    search = Search(folder, "utkface", FOLDERS, "<age>_<gender>_<race>_<time>.jpg or .jpg.chip.jpg")
    used = []
    photos = set()
    for file in search.take(".jpg", ".jpeg"):
        match = IMAGE.search(file.path)
        if match is None:
            search.left_out.add("image not named <age>_<gender>_<race>_<time>.jpg", file.path)
        elif int(match["age"]) > OLDEST:
            search.left_out.add(f"age above {OLDEST}", file.path)
        elif match["photo"] in photos:
            search.left_out.add("the same photograph again", file.path)
        else:
            photos.add(match["photo"])
            if not FIELDS.fullmatch(match["fields"]):
                search.remarks.add("name without gender or race, used", file.path)
            if not ENDING.fullmatch(match["ending"]):
                search.remarks.add("name with a misspelled ending, used", file.path)
            used.append((file, file.path[: match.start()], float(match["age"]), None))
    return search.listing(used)
