"""Regression on images that users bring as folders: what a folder holds, and its images decoded and kept.

Knows nothing of suites or training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import afad, rsna, utkface
from .afad import list_afad
from .cache import Images, cache_folder, cached_images
from .listing import Entry, Finding, Listing, Part
from .rsna import list_rsna
from .utkface import list_utkface

__all__ = [
    "IMAGE_SETS", "Entry", "Finding", "ImageSet", "Images", "Listing", "Part", "cache_folder", "cached_images",
    "list_afad", "list_rsna", "list_utkface",
]  # fmt: skip


@dataclass(frozen=True)
class ImageSet:
    """A data set of images.

    Attributes:
        title: What people call it.
        listing: Reads a folder that is the data set, or holds it.
        folders: Names under which it is looked for inside a folder, in any case, with "_" or " " for "-".
        target: What is predicted.
        unit: Of the target.
        source: Where users get it, and on what terms.
    """

    title: str
    listing: Callable[[Path], Listing]
    folders: tuple[str, ...]
    target: str
    unit: str
    source: str


IMAGE_SETS = {
    "afad": ImageSet(
        "AFAD", list_afad, afad.FOLDERS, "age", "years",
        "Asian Face Age Dataset (Niu et al., CVPR 2016), github.com/afad-dataset, on its authors' terms; "
        "not shipped, users bring its files",
    ),
    "rsna": ImageSet(
        "RSNA Bone Age", list_rsna, rsna.FOLDERS, "bone age", "months",
        "RSNA Pediatric Bone Age Challenge 2017 (Halabi et al., Radiology 2019), rsna.org; for non-commercial use; "
        "not shipped, users bring its files",
    ),
    "utkface": ImageSet(
        "UTKFace", list_utkface, utkface.FOLDERS, "age", "years",
        "UTKFace (Zhang, Song, Qi, CVPR 2017), susanqq.github.io/UTKFace; for non-commercial research; "
        "not shipped, users bring its files",
    ),
}  # fmt: skip
