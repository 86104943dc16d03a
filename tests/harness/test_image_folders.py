"""Folders of images: what is used, with which target, what is left out, and what is refused."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from image_trees import AFAD, RSNA, RSNA_TABLES, UTKFACE, afad_tree, image_file, rsna_tree, save_table, utkface_tree

from harness.errors import UserError
from harness.problems.images import IMAGE_SETS, Listing, list_afad, list_rsna, list_utkface

Targets = dict[str, tuple[float, str | None]]

SETS = pytest.mark.parametrize(
    ("name", "tree", "targets"),
    [("AFAD-Lite", afad_tree, AFAD), ("UTKFace", utkface_tree, UTKFACE), ("RSNA Bone Age", rsna_tree, RSNA)],
)


def _listed(name: str, folder: Path) -> Listing:
    return IMAGE_SETS[name.partition("-")[0].partition(" ")[0].lower()].listing(folder)


def _targets(listing: Listing) -> Targets:
    return {entry.path: (entry.target, entry.part) for entry in listing.entries}


@SETS
def test_images_targets_and_what_is_left_out(
    tmp_path: Path, name: str, tree: Callable[[Path], dict[str, int]], targets: Targets
) -> None:
    left_out = tree(tmp_path)
    listing = _listed(name, tmp_path)
    assert _targets(listing) == targets
    assert [entry.path for entry in listing.entries] == sorted(targets)
    assert {finding.reason: finding.count for finding in listing.left_out} == left_out
    sizes = {entry.path: entry.size for entry in listing.entries}
    assert sizes == {path: (tmp_path / path).stat().st_size for path in targets}


@SETS
def test_the_folder_its_parent_and_one_nested_twice_are_the_same(
    tmp_path: Path, name: str, tree: Callable[[Path], dict[str, int]], targets: Targets
) -> None:
    tree(tmp_path / "parent" / name)
    tree(tmp_path / "nested" / name / name)
    tree(tmp_path / "called" / "otherwise")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / name.lower()).symlink_to(tmp_path / "parent" / name)
    image_file(tmp_path / "parent" / "holiday.png")
    folders = ["parent", f"parent/{name}", "nested", f"nested/{name}", f"nested/{name}/{name}", "linked", "called"]
    listings = [_listed(name, tmp_path / folder) for folder in folders]
    left_out = [(found.reason, found.count) for found in listings[0].left_out]
    assert {listing.stamp for listing in listings} == {listings[0].stamp}
    for listing in listings:
        assert _targets(listing) == targets
        assert all((listing.root / entry.path).is_file() for entry in listing.entries)
        assert [(found.reason, found.count) for found in listing.left_out] == left_out


@SETS
def test_the_stamp_is_that_of_the_content(
    tmp_path: Path, name: str, tree: Callable[[Path], dict[str, int]], targets: Targets
) -> None:
    tree(tmp_path / "here")
    here = _listed(name, tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile, symlinks=True)
    image = tmp_path / "there" / min(targets)
    os.utime(image, ns=(1, 1))
    there = _listed(name, tmp_path / "there")
    assert there.stamp == here.stamp
    assert there.state != here.state
    with image.open("ab") as file:
        file.write(b"\0")
    assert _listed(name, tmp_path / "there").stamp != here.stamp
    image.unlink()
    shutil.copy(tmp_path / "here" / min(targets), image)
    assert _listed(name, tmp_path / "there").stamp == here.stamp
    image.rename(image.with_name("unnamed"))
    assert _listed(name, tmp_path / "there").stamp != here.stamp


def test_names_of_utkface_that_lack_a_field_or_a_dot_are_used_and_remarked(tmp_path: Path) -> None:
    utkface_tree(tmp_path)
    assert {finding.reason: finding.examples for finding in list_utkface(tmp_path).remarks} == {
        "name with a misspelled ending, used": (
            "24_0_1_20170116220224657 .jpg.chip.jpg",
            "55_0_0_20170116232725357jpg.chip.jpg",
        ),
        "name without gender or race, used": (
            "39_1_20170116174525125.jpg",
            "53__0_20170116184028385.jpg",
            "61_1_20170109142408075.jpg.chip.jpg",
            "61_1_20170109150557335.jpg.chip.jpg",
        ),
    }


def test_a_listing_in_words(tmp_path: Path) -> None:
    rsna_tree(tmp_path)
    for number in range(1234):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / os.fsdecode(b"\xff.txt")).touch()
    (tmp_path / "Bone age ground truth.csv").unlink()
    first, *others = list_rsna(tmp_path).lines()
    assert first == f"{tmp_path}: 4 images (2 train, 2 validation)"
    assert "left out: file of another kind: 1,236 (0.txt, 1.txt, 10.txt, 100.txt, 1000.txt, …)" in others
    assert "left out: bone age not in 1 … 240 months: 1 (boneage-training-dataset.csv id 1380)" in others
    assert (
        "left out: row without a number and a bone age: 3 "
        "(boneage-training-dataset.csv line 6, boneage-training-dataset.csv line 7, "
        "boneage-training-dataset.csv line 8)"
    ) in others
    assert others[-1] == "remarked: part without a table of bone ages, absent: 1 (test)"


def test_bytes_in_names_that_are_no_text_can_be_shown(tmp_path: Path) -> None:
    image_file(tmp_path / "18" / "111" / "1-0.jpg")
    (tmp_path / os.fsdecode(b"\xff.txt")).touch()
    listing = list_afad(tmp_path)
    assert listing.left_out[0].examples == ("\\udcff.txt",)
    assert "\\udcff.txt" in listing.lines()[-1].encode().decode()


@pytest.mark.parametrize("ending", [".csv", ".xlsx"])
def test_the_training_part_alone_is_enough(tmp_path: Path, ending: str) -> None:
    if ending == ".xlsx":
        pytest.importorskip("openpyxl")
    image_file(tmp_path / "1377.png")
    save_table(tmp_path / f"train{ending}", RSNA_TABLES["boneage-training-dataset"][:2])
    listing = list_rsna(tmp_path)
    assert _targets(listing) == {"1377.png": (180.0, "train")}
    assert [str(finding) for finding in listing.remarks] == [
        "part without a table of bone ages, absent: 2 (validation, test)"
    ]


def test_rsna_with_its_test_part_in_a_spreadsheet(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    left_out = rsna_tree(tmp_path, ".xlsx")
    (tmp_path / "~$Bone age ground truth.xlsx").write_bytes(b"Excel has it open")
    listing = list_rsna(tmp_path)
    assert _targets(listing) == RSNA
    assert {finding.reason: finding.count for finding in listing.left_out} == left_out | {"hidden file": 1}


def test_a_spreadsheet_without_openpyxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    rsna_tree(tmp_path)
    table = tmp_path / "Bone age ground truth.csv"
    table.with_suffix(".xlsx").write_bytes(b"a spreadsheet, not to be opened")
    assert _targets(list_rsna(tmp_path)) == RSNA  # saved as .csv beside, as the error advises
    table.unlink()
    with pytest.raises(UserError) as caught:
        list_rsna(tmp_path)
    for words in ("ground truth.xlsx: openpyxl is needed", "save it beside as Bone age ground truth.csv", "[images]"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffid,boneage,male\r\n1377,180,False\r\n\r\n",
        "ID; Boneage ;male\n1377;180;FALSCH\n",
        "\ufeffid;boneage\n1377;180,0\n",
        "male,boneage,id\nTrue,180.0,1377.0\n",
        "id,boneage\n1377,180\n1377,180\n",
    ],
)
def test_tables_as_programs_write_them(tmp_path: Path, text: str) -> None:
    image_file(tmp_path / "1377.png")
    (tmp_path / "train.csv").write_bytes(text.encode())
    assert _targets(list_rsna(tmp_path)) == {"1377.png": (180.0, "train")}


def test_a_changed_label_changes_the_stamp(tmp_path: Path) -> None:
    rsna_tree(tmp_path)
    before = list_rsna(tmp_path)
    table = tmp_path / "boneage-training-dataset.csv"
    table.write_text(table.read_text().replace("1378,12", "1378,13"))
    assert list_rsna(tmp_path).stamp != before.stamp
    assert list_rsna(tmp_path).state == before.state


@pytest.mark.parametrize("listing", [list_afad, list_rsna, list_utkface])
def test_no_folder(tmp_path: Path, listing: Callable[[Path], Listing]) -> None:
    with pytest.raises(UserError, match=r"none: no such folder"):
        listing(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: not a folder"):
        listing(tmp_path / "file")


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        list_afad(tmp_path)
    layout = "<age>/<111 or 112>/<id>-<k>.jpg"
    assert str(caught.value) == f"{tmp_path}: no images of afad: looked for {layout}; found no files"
    utkface_tree(tmp_path / "faces")
    (tmp_path / "AFAD-Lite.tar.xz").touch()
    with pytest.raises(UserError) as caught:
        list_afad(tmp_path)
    for words in (layout, f"image not at {layout}: 12 (faces/0_1_4_2016", "another kind: 2 (AFAD-Lite.tar.xz, faces/"):
        assert words in str(caught.value)
    with pytest.raises(UserError, match=r"no images of utkface: looked for .*; found no files"):
        list_utkface(_made(tmp_path / "empty"))


def test_two_of_them_in_one_folder(tmp_path: Path) -> None:
    afad_tree(tmp_path / "AFAD-Lite")
    afad_tree(tmp_path / "AFAD-Full")
    with pytest.raises(UserError, match=r"holds AFAD-Full and AFAD-Lite: name one of them"):
        list_afad(tmp_path)


def test_tables_that_are_missing_or_cannot_be_read(tmp_path: Path) -> None:
    image_file(tmp_path / "1377.png")
    with pytest.raises(UserError, match=r"no labels of the training part: .*'id' and 'boneage'; found no tables"):
        list_rsna(tmp_path)
    table = tmp_path / "train.csv"
    save_table(table, [("id", "age"), (1377, 180)])
    with pytest.raises(UserError, match=r"found table without bone ages: 1 \(train\.csv\)"):
        list_rsna(tmp_path)
    table.write_bytes("id,boneage".encode("utf-16"))
    with pytest.raises(UserError, match=r"train\.csv: cannot be read as a table: .*utf-8"):
        list_rsna(tmp_path)
    save_table(table, [("id", "boneage"), (1378, 180)])
    with pytest.raises(UserError, match=r"no images of rsna: .*image without a label: 1 \(1377\.png\); label without"):
        list_rsna(tmp_path)
    save_table(tmp_path / "validation.csv", [("Image ID", "Bone Age (months)"), (1377, 180)])
    with pytest.raises(UserError, match=r"no image of the training part; label without an image: 1 \(train 1378\)"):
        list_rsna(tmp_path)


def test_a_spreadsheet_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    (tmp_path / "train.xlsx").write_bytes(b"PK, and then nothing")
    with pytest.raises(UserError, match=r"train\.xlsx: cannot be read as a table: "):
        list_rsna(tmp_path)


def test_folders_that_are_linked_in_a_circle(tmp_path: Path) -> None:
    afad_tree(tmp_path)
    (tmp_path / "18" / "again").symlink_to(tmp_path)
    assert _targets(list_afad(tmp_path)) == AFAD


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
