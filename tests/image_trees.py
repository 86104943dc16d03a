"""Small folders with the layouts and the oddities of the image data sets, and what a reader must make of them."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = [
    "AFAD", "RSNA", "RSNA_TABLES", "UTKFACE", "afad_tree", "image_file", "rsna_tree", "save_table", "utkface_tree",
]  # fmt: skip

# Each image that is to be used, relative to the innermost folder that has them all: target, and part.
AFAD = {
    "18/111/474596-0.jpg": (18.0, None),
    "18/112/474596-1.jpg": (18.0, None),
    "39/112/1-12.JPG": (39.0, None),
    "7/111/8-0.jpeg": (7.0, None),
}
UTKFACE = {
    "0_1_4_20161219140623097.jpg": (0.0, None),
    "116_0_0_20170117195420803.jpg.chip.jpg": (116.0, None),
    "24_0_1_20170116220224657 .jpg.chip.jpg": (24.0, None),
    "39_1_20170116174525125.jpg": (39.0, None),
    "53__0_20170116184028385.jpg": (53.0, None),
    "55_0_0_20170116232725357jpg.chip.jpg": (55.0, None),
    "61_1_20170109142408075.jpg.chip.jpg": (61.0, None),
    "61_1_20170109150557335.jpg.chip.jpg": (61.0, None),
}
RSNA = {
    "boneage-test-dataset/4360.png": (168.9, "test"),
    "boneage-training-dataset/boneage-training-dataset/1377.png": (180.0, "train"),
    "boneage-training-dataset/boneage-training-dataset/1378.png": (12.0, "train"),
    "boneage-validation-dataset-1/1386.png": (30.0, "validation"),
    "boneage-validation-dataset-2/1392.PNG": (162.0, "validation"),
}
RSNA_TABLES = {
    "boneage-training-dataset": [("id", "boneage", "male"), (1377, 180, "False"), (1378, 12, "True")],
    "Validation/Validation Dataset": [
        ("Image ID", "male", "Bone Age (months)"),
        (1386, "TRUE", 30),
        (1392, "FALSE", 162),
    ],
    "Bone age ground truth": [
        ("Case ID", "Sex", "Ground truth bone age (months)"),
        (4360, "M", 168.9),
    ],
}


def image_file(path: Path, brightness: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    """An image of one brightness in the format that the name ends with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), brightness, np.uint8)).save(path)


def afad_tree(folder: Path) -> dict[str, int]:
    """Writes AFAD into ``folder``, and tells what is to be left out of it."""
    for number, path in enumerate(AFAD):
        image_file(folder / path, 10 * number)
    for name in ("18/113/9-0.jpg", "18/9-0.jpg", "18/111/copy of 9.jpg", "loose-0.jpg"):
        image_file(folder / name)
    image_file(folder / "121/111/9-0.jpg")
    for name in ("18/111/Thumbs.db", "18/112/9-0.txt", ".DS_Store"):
        (folder / name).write_bytes(b"no image")
    (folder / "18/111/._474596-0.jpg").write_bytes(b"a resource fork")
    (folder / "18/112/gone-0.jpg").symlink_to("nowhere")
    return {
        "image not at <age>/<111 or 112>/<id>-<k>.jpg": 4,
        "age above 120": 1,
        "file of another kind": 3,
        "hidden file": 1,
        "broken link": 1,
    }


def utkface_tree(folder: Path) -> dict[str, int]:
    """Writes UTKFace into ``folder``, and tells what is to be left out of it."""
    for number, path in enumerate(UTKFACE):
        image_file(folder / path, 10 * number)
    image_file(folder / "crop_part1" / "0_1_4_20161219140623097.jpg.chip.jpg")
    for name in ("121_0_0_20170117195420804.jpg", "x_0_0_20170117195420803.jpg", "1_0_0_20161219140623097 (1).jpg"):
        image_file(folder / name)
    (folder / "landmark_list_part1.txt").write_text("1_0_0_20161219140623097.jpg 1 2 3")
    return {
        "the same photograph again": 1,
        "age above 120": 1,
        "image not named <age>_<gender>_<race>_<time>.jpg": 2,
        "file of another kind": 1,
    }


def rsna_tree(folder: Path, ending: str = ".csv") -> dict[str, int]:
    """Writes RSNA Bone Age into ``folder``, its test table with this ending, and tells what is to be left out of it."""
    for number, path in enumerate(RSNA):
        image_file(folder / path, 10 * number)
    for name in ("boneage-test-dataset/4361.png", "copies/1377.png", "boneage-training-dataset/left hand.png"):
        image_file(folder / name)
    image_file(folder / "boneage-test-dataset/7.png")
    (folder / "readme.txt").write_text("RSNA")
    save_table(folder / "boneage-test-dataset.csv", [("Case ID", "Sex"), (4361, "F")])
    tables = {name: list(rows) for name, rows in RSNA_TABLES.items()}
    tables["boneage-training-dataset"] += [(1379, 90, "True"), (1380, 0, ""), (1381, "", ""), ("x", 3, "")]
    tables["boneage-training-dataset"] += [("1378.5", 12, ""), (), (7, 24, "")]
    tables["Validation/Validation Dataset"] += [(7, "TRUE", 36)]
    *others, test = tables
    for name in others:
        save_table(folder / f"{name}.csv", tables[name])
    save_table(folder / f"{test}{ending}", tables[test])
    return {
        "image without a label": 1,
        "image with contradictory labels": 1,
        "image not named <id>.png": 1,
        "a second image of the same id": 1,
        "label without an image": 1,
        "bone age not in 1 … 240 months": 1,
        "row without a number and a bone age": 3,
        "table without bone ages": 1,
        "file of another kind": 1,
    }


def save_table(path: Path, rows: list[tuple[object, ...]]) -> None:
    """Writes rows as .csv or as .xlsx."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    else:
        import openpyxl

        workbook = openpyxl.Workbook()
        for row in rows:
            workbook.active.append(row)
        workbook.save(path)
