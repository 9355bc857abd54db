"""The class priors of one recipe on disk: a folder a batch, which appears whole, is checked when read, and counts as absent when broken."""

import json
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mudi.augment import Segment
from mudi.dataset import file_sha256

MANIFEST = "batch.json"


def store_batch(
    folder: Path, index: int, images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None], facts: Mapping, owner: str = "",
) -> None:  # fmt: skip
    """Keeps the pictures of a batch that have a mask, as ROW.png and ROW-mask.png, and a manifest written last.

    images: uint8 (S, S, 3); masks: bool (S, S), None for a picture that was refused. `facts` are noted in the
    manifest. The batch is made beside its place and renamed: killed anywhere, it is there in full or not at all. One
    that is there already stays, since another process that drew the same recipe made the same. `owner`, a run's name,
    is in the name that it has while it is made, so that `clear_staged` can tell whose a part is that was left.
    """
    target = folder / _name(index)
    staged = folder / f".{target.name}.{owner}.{uuid.uuid4().hex}"
    staged.mkdir(parents=True)
    kept = [row for row, mask in enumerate(masks) if mask is not None]
    for row in kept:
        Image.fromarray(images[row]).save(staged / f"{row:02d}.png", compress_level=1)
        Image.fromarray(masks[row].astype(np.uint8) * 255).save(staged / f"{row:02d}-mask.png")
    digests = {path.name: file_sha256(path) for path in sorted(staged.iterdir())}
    (staged / MANIFEST).write_text(json.dumps({"drawn": len(images), "kept": kept, "sha256": digests, **facts}, indent=1))
    if find_batch(folder, index) is None:
        shutil.rmtree(target, ignore_errors=True)
        try:
            staged.rename(target)
        except OSError:
            # Another process was there between the look and the rename; anything else is an error.
            if find_batch(folder, index) is None:
                raise
    shutil.rmtree(staged, ignore_errors=True)


def clear_staged(folder: Path, owner: str) -> None:
    """Take away the parts of batches that killed processes of `owner` left in `folder`; call it while none of them runs.

    Finished batches stay, and parts of other owners, who may be making them now.
    """
    part = re.compile(rf"\.batch-\d+\.{re.escape(owner)}\.[0-9a-f]{{32}}")
    for path in folder.glob(".batch-*"):
        if part.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def find_batch(folder: Path, index: int) -> dict | None:
    """The manifest of a batch whose files all are what was stored; None if it is not there or broken."""
    place = folder / _name(index)
    try:
        manifest = json.loads((place / MANIFEST).read_text())
        intact = all(file_sha256(place / name) == digest for name, digest in manifest["sha256"].items())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return manifest if intact else None


def kept_by_batch(folder: Path, most: int) -> dict[int, int]:
    """Of the first `most` batches those that are stored, each with how many of its pictures were kept."""
    found = {index: find_batch(folder, index) for index in range(most)}
    return {index: len(manifest["kept"]) for index, manifest in found.items() if manifest is not None}


def load_kept(folder: Path, count: int) -> list[Segment]:
    """The first `count` kept pictures in the order drawn, with their masks; fewer where a batch is missing."""
    segments: list[Segment] = []
    index = 0
    while len(segments) < count and (manifest := find_batch(folder, index)) is not None:
        place = folder / _name(index)
        for row in manifest["kept"]:
            image = np.array(Image.open(place / f"{row:02d}.png").convert("RGB"))
            segments.append(Segment(image, np.array(Image.open(place / f"{row:02d}-mask.png")) > 127))
        index += 1
    return segments[:count]


def _name(index: int) -> str:
    return f"batch-{index:04d}"
