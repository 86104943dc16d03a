"""Images decoded once and kept on disk: a file of pixels that is mapped into memory, and a record beside it.

The file's name is a digest of all that its pixels depend on. What is mapped has been checked against its record: files
that were written since, a broken-off or damaged copy, or another decoder, and the images are decoded anew. A process
that decodes holds a lock, goes with it however it ends, and moves what it wrote into place at its end, so that one that
waits finds all of it or nothing.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from ...errors import UserError
from .decode import DECODER, DecodeError, Pixels, decode
from .listing import EXAMPLES, Entry, Listing, shortened

__all__ = ["Images", "cache_folder", "cached_images"]

CHUNK = 256  # images that wait to be written
SILENCE = 5.0  # seconds between two lines about a long decoding

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Images:
    """Images of one size with their targets, in the order of their listing.

    Attributes:
        pixels: (n, channels, side, side), 0 to 255; mapped from disk, read only.
        targets: (n, 1), in the data set's unit.
        parts: (n,): "train", "validation" or "test", or "" without an official split.
        digest: SHA-256 of pixels and targets.
        report: What was left out, by reason, and how often.
    """

    pixels: Pixels
    targets: FloatArray
    parts: np.ndarray[tuple[int], np.dtype[np.str_]]
    digest: str
    report: dict[str, int]


@dataclass(frozen=True)
class _Record:
    """What is known of a file of pixels: the state of the images it was made from, which are missing, its digest."""

    state: str
    damaged: list[str]
    digest: str


def cache_folder() -> Path:
    """``$GGN_CACHE``, or ``ggn`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    if own := os.environ.get("GGN_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ggn"


def cached_images(
    listing: Listing,
    side: int,
    channels: Literal[1, 3],
    cache_root: Path | None = None,
    damaged: Literal["error", "skip"] = "error",
    progress: Progress | None = None,
) -> Images:
    """The images of a listing as squares of pixels, decoded by the first process that asks for them.

    Args:
        listing: What to decode.
        side: Of the squares, in pixels.
        channels: 1 for grey, 3 for red, green and blue.
        cache_root: Where decoded images are kept; ``cache_folder()`` unless given.
        damaged: What to do about images that cannot be decoded: refuse them, or skip and count them.
        progress: Told of (images done, all images); unless given, long decodings write a line to stderr now and then.

    Raises:
        UserError: Images are damaged, a file cannot be read, or the cache has no room or cannot be written.
    """
    root = cache_folder() if cache_root is None else cache_root
    shape = (channels, side, side)
    key = hashlib.sha256(f"{listing.stamp} {shape} {DECODER}".encode()).hexdigest()[:16]
    stem = root / f"{listing.name}-{side}x{side}x{channels}-{key}"
    with _advice(root, len(listing.entries) * math.prod(shape)):
        root.mkdir(parents=True, exist_ok=True)
        kept = _kept(stem, listing, shape)
        if kept is None:
            with stem.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Whoever held the lock may have decoded them.
                kept = _kept(stem, listing, shape) or _decoded(stem, listing, shape, progress or _lines_to_stderr(root))
    pixels, record = kept
    if record.damaged and damaged == "error":
        raise UserError(_refusal(listing, record.damaged) + ", or let 'damaged: skip' leave them out")
    entries = _without(listing, record.damaged)
    report = {finding.reason: finding.count for finding in listing.left_out}
    return Images(
        pixels=pixels,
        targets=_targets(entries),
        parts=np.array([entry.part or "" for entry in entries]),
        digest=record.digest,
        report=report | ({"damaged image": len(record.damaged)} if record.damaged else {}),
    )


def _kept(stem: Path, listing: Listing, shape: tuple[int, ...]) -> tuple[Pixels, _Record] | None:
    """What is kept, if it is whole and the images are as they were."""
    try:
        record = _Record(**json.loads(stem.with_suffix(".json").read_bytes()))
        entries = _without(listing, record.damaged)
        pixels = np.memmap(stem.with_suffix(".pixels"), np.uint8, "r", shape=(len(entries), *shape))
    except (OSError, ValueError, TypeError):
        return None
    if record.state != listing.state:
        return None
    digest = hashlib.sha256(pixels.reshape(-1).data)  # the whole file, at GB/s: damage has no other way to be seen
    digest.update(_targets(entries).tobytes())
    return (pixels, record) if digest.hexdigest() == record.digest else None


def _decoded(stem: Path, listing: Listing, shape: tuple[int, ...], progress: Progress) -> tuple[Pixels, _Record]:
    """Decodes all images and keeps them."""
    file, draft = stem.with_suffix(".pixels"), stem.with_suffix(".draft")
    for old in (file, draft):  # to make room; a process that has them mapped keeps them
        old.unlink(missing_ok=True)
    total = len(listing.entries)
    if shutil.disk_usage(stem.parent).free < total * math.prod(shape):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    damaged = []
    digest = hashlib.sha256()
    try:
        with draft.open("wb") as written, ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the GIL
            for start in range(0, total, CHUNK):
                chunk = listing.entries[start : start + CHUNK]
                for entry, pixels in zip(chunk, pool.map(partial(_pixels, listing.root, shape), chunk), strict=True):
                    if pixels is None:
                        damaged.append(entry.path)
                    else:
                        written.write(pixels)
                        digest.update(pixels)
                progress(start + len(chunk), total)
            written.flush()
            os.fsync(written.fileno())
        if len(damaged) == total:
            raise UserError(_refusal(listing, damaged))
        entries = _without(listing, damaged)
        digest.update(_targets(entries).tobytes())
        record = _Record(listing.state, damaged, digest.hexdigest())
        draft.replace(file)
        draft.write_text(json.dumps(asdict(record)))
        draft.replace(stem.with_suffix(".json"))
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return np.memmap(file, np.uint8, "r", shape=(len(entries), *shape)), record


def _pixels(root: Path, shape: tuple[int, ...], entry: Entry) -> bytes | None:
    """The image's pixels, or None if it is damaged."""
    path = root / entry.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return decode(content, side=shape[1], channels=shape[0]).tobytes()
    except DecodeError:
        return None


def _without(listing: Listing, damaged: Sequence[str]) -> list[Entry]:
    left_out = set(damaged)
    return [entry for entry in listing.entries if entry.path not in left_out]


def _targets(entries: Sequence[Entry]) -> FloatArray:
    return np.array([entry.target for entry in entries])[:, None]  # (n, 1)


def _refusal(listing: Listing, damaged: Sequence[str]) -> str:
    return (
        f"{listing.root}: {len(damaged):,} of {len(listing.entries):,} images cannot be decoded: "
        f"{shortened(damaged[:EXAMPLES], len(damaged))}; replace them"
    )


@contextmanager
def _advice(root: Path, size: int) -> Iterator[None]:
    """Tells what to do where the cache cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{root}: {size / 2**20:,.1f} MiB of decoded images cannot be kept there: {error.strerror}; make room, or "
            "let GGN_CACHE name a folder on another disk"
        ) from None


def _lines_to_stderr(root: Path) -> Progress:
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > SILENCE:
            last = time.monotonic()
            print(f"decoding {total:,} images into {root}: {done:,} done", file=sys.stderr, flush=True)

    return tell
