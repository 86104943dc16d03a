"""Decoded images: their pixels, and a cache that is whole and right whatever happens around it."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from image_trees import RSNA, afad_tree, image_file, rsna_tree
from PIL import Image

from harness.errors import UserError
from harness.problems.images import Images, cache, cache_folder, cached_images, list_afad, list_rsna
from harness.problems.images.decode import DecodeError, decode

Pixels = np.ndarray


def _bytes(folder: Path, pixels: Pixels, ending: str = ".png") -> bytes:
    path = folder / f"image{ending}"
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


# Pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_size_wanted_stays_as_it_is(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 7, channels)).astype(np.uint8)
    decoded = decode(_bytes(tmp_path, pixels.squeeze()), 7, channels)
    np.testing.assert_array_equal(decoded, np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("size", [(400, 200), (40, 20), (4, 2)])  # reduced by averaging, resampled, enlarged
@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_wide_image_lies_in_the_middle_of_black(tmp_path: Path, size: tuple[int, int], ending: str) -> None:
    image_file(tmp_path / f"wide{ending}", 200, size)
    decoded = decode((tmp_path / f"wide{ending}").read_bytes(), 8, 3)
    expected = np.zeros((3, 8, 8))
    expected[:, 2:6] = 200
    np.testing.assert_array_equal(decoded, expected)


def test_a_thin_line_keeps_a_pixel(tmp_path: Path) -> None:
    image_file(tmp_path / "line.png", 90, (1, 300))
    decoded = decode((tmp_path / "line.png").read_bytes(), 5, 1)
    np.testing.assert_array_equal(decoded[0], np.outer(np.ones(5), [0, 0, 90, 0, 0]))


@pytest.mark.parametrize("factor", [2, 5, 16])
def test_a_ramp_stays_a_ramp(tmp_path: Path, factor: int) -> None:
    # A symmetric filter of weights that sum to one takes a straight line to its value at the pixel's centre.
    side = 12
    ramp = np.arange(side * factor)
    slope = 255 / len(ramp)
    decoded = decode(_bytes(tmp_path, np.tile(np.round(ramp * slope).astype(np.uint8), (len(ramp), 1))), side, 1)
    centres = (np.arange(side) + 0.5) * factor - 0.5
    np.testing.assert_allclose(decoded[0, :, 3:-3], np.tile(centres * slope, (side, 1))[:, 3:-3], atol=1.5)


def test_fine_stripes_average_out(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (320, 160))
    decoded = decode(_bytes(tmp_path, stripes), 8, 1)
    assert np.abs(decoded.astype(float) - 100).max() <= 1


def test_sixteen_bits_of_grey_become_eight(tmp_path: Path) -> None:
    levels = np.array([[0, 128, 129], [257, 257 * 77, 257 * 77 + 128], [257 * 200 + 129, 65534, 65535]], np.uint16)
    decoded = decode(_bytes(tmp_path, levels), 3, 1)
    np.testing.assert_array_equal(decoded[0], np.round(levels / 65535 * 255))
    np.testing.assert_array_equal(decode(_bytes(tmp_path, levels), 3, 3), np.repeat(decoded, 3, axis=0))


def test_colours_become_luma(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8)
    expected = np.round(colours @ [0.299, 0.587, 0.114])  # ITU-R 601-2
    np.testing.assert_allclose(decode(_bytes(tmp_path, colours), 2, 1)[0], expected, atol=0.5)


@pytest.mark.filterwarnings("error")
def test_palettes_and_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((4, 4, 4), (9, 8, 7, 0), np.uint8))
    for mode in ("RGBA", "P"):
        image.convert(mode).save(tmp_path / "image.png")
        decoded = decode((tmp_path / "image.png").read_bytes(), 4, 3)
        np.testing.assert_array_equal(decoded[:, 0, 0], [9, 8, 7])


def test_an_orientation_beside_the_pixels_is_ignored(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), (50, 50, 50))
    turned = image.getexif()
    turned[0x0112] = 6  # to be turned by 90° for show
    image.save(tmp_path / "image.jpg", exif=turned)
    decoded = decode((tmp_path / "image.jpg").read_bytes(), 4, 1)
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 50, 50, 0])


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_files_that_are_no_whole_image(tmp_path: Path, ending: str) -> None:
    whole = _bytes(tmp_path, np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8), ending)
    for content in (whole[: len(whole) // 2], whole[:20], b"", b"no image"):
        with pytest.raises(DecodeError):
            decode(content, 8, 3)


# The cache


def _images(tree: Path, root: Path, **options: object) -> tuple[Images, int]:
    """The images of an RSNA tree, and how many were decoded for it."""
    done = [0]
    images = cached_images(list_rsna(tree), 8, 3, root, progress=lambda now, total: done.append(now), **options)
    return images, done[-1]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    rsna_tree(tmp_path / "rsna")
    return tmp_path / "rsna"


def _expected() -> Pixels:
    """What becomes of the tree's images, 6 × 4 and each of one brightness, as squares of 8 × 8."""
    pixels = np.zeros((len(RSNA), 3, 8, 8), np.uint8)
    pixels[:, :, 1:6] = np.arange(0, 10 * len(RSNA), 10)[:, None, None, None]
    return pixels


def test_images_targets_and_parts_in_the_listings_order(tree: Path, tmp_path: Path) -> None:
    images, decoded = _images(tree, tmp_path / "cache")
    assert decoded == len(RSNA)
    np.testing.assert_array_equal(images.pixels, _expected())
    assert images.targets.tolist() == [[target] for target, _ in RSNA.values()]
    assert images.parts.tolist() == [part for _, part in RSNA.values()]
    assert images.digest == hashlib.sha256(_expected().tobytes() + images.targets.tobytes()).hexdigest()
    assert images.report["label without an image"] == 1
    assert isinstance(images.pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images.pixels[0] = 1


def test_images_without_a_split(tmp_path: Path) -> None:
    afad_tree(tmp_path)
    assert cached_images(list_afad(tmp_path), 4, 1, tmp_path).parts.tolist() == [""] * 4


def test_decoded_once_for_each_size(tree: Path, tmp_path: Path) -> None:
    first, _ = _images(tree, tmp_path / "cache")
    again, decoded = _images(tree, tmp_path / "cache")
    assert decoded == 0
    assert again.digest == first.digest
    np.testing.assert_array_equal(again.pixels, _expected())
    assert cached_images(list_rsna(tree), 8, 1, tmp_path / "cache").pixels.shape == (5, 1, 8, 8)
    assert cached_images(list_rsna(tree), 4, 3, tmp_path / "cache").pixels.shape == (5, 3, 4, 4)
    assert _images(tree, tmp_path / "cache")[1] == 0


def test_a_moved_folder_is_known_again(tree: Path, tmp_path: Path) -> None:
    _images(tree, tmp_path / "cache")
    shutil.move(tree, tmp_path / "elsewhere")
    images, decoded = _images(tmp_path / "elsewhere", tmp_path / "cache")
    assert decoded == 0
    np.testing.assert_array_equal(images.pixels, _expected())


def test_a_file_changed_to_another_of_equal_size(tree: Path, tmp_path: Path) -> None:
    image = tree / min(RSNA)
    Image.new("RGB", (6, 4), (1, 1, 1)).save(image, format="BMP")
    before, _ = _images(tree, tmp_path / "cache")
    stamp = list_rsna(tree).stamp
    written = image.stat().st_mtime_ns
    Image.new("RGB", (6, 4), (77, 77, 77)).save(image, format="BMP")
    os.utime(image, ns=(written, written + 1))
    assert list_rsna(tree).stamp == stamp
    after, decoded = _images(tree, tmp_path / "cache")
    assert decoded == len(RSNA)
    assert after.pixels.max() == 77
    assert before.pixels.max() == 40  # who has the old ones mapped keeps them
    assert before.digest != after.digest


def test_another_label_makes_other_images(tree: Path, tmp_path: Path) -> None:
    before, _ = _images(tree, tmp_path / "cache")
    table = tree / "boneage-training-dataset.csv"
    table.write_text(table.read_text().replace("1377,180", "1377,181"))
    after, _ = _images(tree, tmp_path / "cache")
    assert after.targets[1] == 181
    assert before.digest != after.digest


def test_another_decoder_decodes_anew(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _images(tree, tmp_path / "cache")
    monkeypatch.setattr(cache, "DECODER", "1, Pillow of tomorrow")
    assert _images(tree, tmp_path / "cache")[1] == len(RSNA)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("ending", "harm"),
    [
        ("pixels", _flip),
        ("pixels", lambda path: os.truncate(path, path.stat().st_size - 1)),
        ("pixels", lambda path: os.truncate(path, 0)),
        ("pixels", Path.unlink),
        ("json", Path.unlink),
        ("json", lambda path: path.write_bytes(b"\xff")),
        ("json", lambda path: path.write_text("[]")),
        ("json", lambda path: _edit(path, damaged=None)),
        ("json", lambda path: _edit(path, damaged=[min(RSNA)])),
        ("json", lambda path: _edit(path, digest="0")),
        ("json", lambda path: _edit(path, more=1)),
    ],
)
def test_what_is_damaged_is_made_anew(tree: Path, tmp_path: Path, ending: str, harm: object) -> None:
    assert callable(harm)
    before, _ = _images(tree, tmp_path / "cache")
    [file] = (tmp_path / "cache").glob(f"*.{ending}")
    harm(file)
    after, decoded = _images(tree, tmp_path / "cache")
    assert decoded == len(RSNA)
    assert after.digest == before.digest
    np.testing.assert_array_equal(after.pixels, _expected())
    assert _images(tree, tmp_path / "cache")[1] == 0


def test_damaged_images(tree: Path, tmp_path: Path) -> None:
    image = tree / min(RSNA)
    whole = image.read_bytes()
    image.write_bytes(whole[:-30])
    with pytest.raises(UserError) as caught:
        _images(tree, tmp_path / "cache")
    for words in (f"{tree}: 1 of 5 images cannot be decoded: {min(RSNA)}; replace them", "'damaged: skip'"):
        assert words in str(caught.value)
    images, decoded = _images(tree, tmp_path / "cache", damaged="skip")
    assert decoded == 0  # they were decoded before the refusal
    assert images.report["damaged image"] == 1
    np.testing.assert_array_equal(images.pixels, _expected()[1:])
    assert images.targets.tolist() == [[target] for target, _ in list(RSNA.values())[1:]]
    assert images.parts.tolist() == [part for _, part in list(RSNA.values())[1:]]
    image.write_bytes(whole)
    images, _ = _images(tree, tmp_path / "cache")
    np.testing.assert_array_equal(images.pixels, _expected())
    assert "damaged image" not in images.report


def test_no_image_can_be_decoded(tree: Path, tmp_path: Path) -> None:
    for path in RSNA:
        (tree / path).write_bytes(b"")
    with pytest.raises(UserError, match=r"5 of 5 images cannot be decoded: .*; replace them$"):
        _images(tree, tmp_path / "cache", damaged="skip")
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_a_file_that_goes_away(tree: Path, tmp_path: Path) -> None:
    listing = list_rsna(tree)
    (tree / min(RSNA)).unlink()
    with pytest.raises(UserError, match=rf"{min(RSNA)}: cannot be read: No such file"):
        cached_images(listing, 8, 3, tmp_path / "cache")


# Says that it asks and, with nothing written yet, that it has decoded; then waits for a line before it goes on.
ASKING = """
import sys
from pathlib import Path
from harness.problems.images import cached_images, list_rsna

def progress(done, total):
    print("decoded", flush=True)
    sys.stdin.readline()

listing = list_rsna(Path(sys.argv[1]))
print("asks", flush=True)
print(cached_images(listing, 8, 3, Path(sys.argv[2]), progress=progress).digest)
"""


@contextmanager
def _asking(tree: Path, root: Path) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-c", ASKING, str(tree), str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _says(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_two_processes_one_decodes_and_the_other_waits(tree: Path, tmp_path: Path) -> None:
    with _asking(tree, tmp_path / "cache") as first:
        assert [_says(first), _says(first)] == ["asks", "decoded"]
        with _asking(tree, tmp_path / "cache") as second:
            assert _says(second) == "asks"
            time.sleep(0.5)  # in which it would decode, were it not waiting
            told, _ = first.communicate("go on\n", timeout=60)
            found, _ = second.communicate("go on\n", timeout=60)
    assert told == found
    assert told.strip() == _images(tree, tmp_path / "cache")[0].digest


def test_a_process_that_is_killed_leaves_its_work_to_the_next(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    with _asking(tree, root) as first:
        assert [_says(first), _says(first)] == ["asks", "decoded"]
        with _asking(tree, root) as second:
            assert _says(second) == "asks"
            first.send_signal(signal.SIGKILL)
            first.wait(60)
            assert _says(second) == "decoded"
            second.kill()
    assert {path.suffix for path in root.iterdir()} == {".lock", ".draft"}
    images, decoded = _images(tree, root)
    assert decoded == len(RSNA)
    np.testing.assert_array_equal(images.pixels, _expected())
    assert {path.suffix for path in root.iterdir()} == {".lock", ".pixels", ".json"}


def test_a_disk_without_room(small_disk: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CHUNK", 1)
    with pytest.raises(UserError) as caught:
        cached_images(list_rsna(tree), 2048, 3, small_disk / "cache", progress=lambda *done: pytest.fail("decoded"))
    for words in (f"{small_disk}/cache: 60.0 MiB of decoded images", "No space left", "make room", "GGN_CACHE"):
        assert words in str(caught.value)


def test_a_disk_that_fills_up(tree: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cache: 0\.3 MiB of decoded images cannot be kept there: File too large"):
            cached_images(list_rsna(tree), 150, 3, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_a_cache_that_cannot_be_made(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="GGN_CACHE"):
        _images(tree, tmp_path / "file" / "cache")


def test_long_decodings_are_told_of(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cached_images(list_rsna(tree), 8, 3, tmp_path / "short")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cache, "SILENCE", 0.0)
    monkeypatch.setattr(cache, "CHUNK", 3)
    cached_images(list_rsna(tree), 8, 3, tmp_path / "long")
    line = f"decoding 5 images into {tmp_path / 'long'}: "
    assert capsys.readouterr().err == f"{line}3 done\n{line}5 done\n"
    np.testing.assert_array_equal(_images(tree, tmp_path / "long")[0].pixels, _expected())


def test_where_decoded_images_are_kept(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("GGN_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "ggn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "ggn"
    monkeypatch.setenv("GGN_CACHE", "~/own")
    cached_images(list_rsna(tree), 8, 3)
    assert len(list((tmp_path / "own").glob("rsna-8x8x3-*.pixels"))) == 1
