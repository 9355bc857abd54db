"""Notes on photos that a run accepts; no note stops a run."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mudi.dataset import Examined
from mudi.records import Subject
from mudi.user_files.photos import MASK_THRESHOLD

SMALL_SIDE = 256  # a quarter of SDXL's resolution: photos enlarged more than fourfold are learnt as blurred
SMALL_SHARE = 0.01
# JPEG masks have speckles; a part of the subject's own is larger.
LEAST_PART = 0.01
SHOWN = 5
# The weights of other trainers' captions, "(corgi:1.3)"; here they are ordinary characters.
WEIGHT = re.compile(r"\([^()]*:\s*[\d.]+\s*\)")


def of_pictures(photo: Image.Image, levels: np.ndarray | None) -> tuple[str, ...]:
    """Notes on one upright photo and the grey levels of its mask, uint8 (H, W), None without a mask."""
    notes = []
    if min(photo.size) < SMALL_SIDE:
        notes.append(f"{photo.width}x{photo.height} pixels, a side below {SMALL_SIDE}; SDXL draws 1024, so a larger photo teaches more")
    extrema = photo.convert("RGB").getextrema()
    if all(low == high for low, high in extrema):
        notes.append(f"all one colour, {tuple(low for low, _ in extrema)}; is this the photo?")
    return (*notes, *(() if levels is None else of_mask(levels)))


def of_mask(levels: np.ndarray) -> list[str]:
    """Notes on the grey levels of a mask, uint8 (H, W): a tiny subject, several parts, or a lossy file."""
    # Loaded here: it takes longer than to look through a small folder's text.
    from scipy import ndimage

    notes = []
    subject = levels > MASK_THRESHOLD
    area = int(subject.sum())
    if area < SMALL_SHARE * subject.size:
        notes.append(f"its mask covers {100 * area / subject.size:.2f} % of the photo; is the subject in it?")
    parts = np.bincount(ndimage.label(subject)[0].ravel())[1:]
    if (count := int((parts >= LEAST_PART * area).sum())) > 1:
        notes.append(f"its mask is in {count} parts; right only if something stands in front of the subject")
    grey = np.bincount(levels.ravel(), minlength=256)
    if grey[1:255].any():
        notes.append(f"its mask has levels between black and white, cut at {MASK_THRESHOLD}; a PNG keeps its edges")
    return notes


def of_folder(looked: Mapping[Subject, Sequence[Examined]]) -> Iterator[str]:
    """Notes on the usable photos and on their number; a note on several photos is given once."""
    noted: dict[str, list[Path]] = {}
    seen: dict[str, tuple[str, str]] = {}
    for subject, examined in looked.items():
        usable = [one for one in examined if not one.mistake]
        if len(usable) == 1:
            yield f'only one photo of "{subject.key}", so its background and pose are learnt with it; add three or four others'
        for one in usable:
            for note in (*one.notes, *_of_caption(one.reference.caption), *_of_copy(subject, one, seen)):
                noted.setdefault(note, []).append(one.reference.image_path)
    for note, paths in noted.items():
        names = f"{', '.join(path.name for path in paths[:SHOWN])}{' ...' if len(paths) > SHOWN else ''}"
        yield f"{paths[0]}: {note}" if len(paths) == 1 else f"{len(paths)} photos ({names}): {note}"


def _of_caption(caption: str) -> Iterator[str]:
    if matched := WEIGHT.search(caption):
        yield f"its caption has {matched[0][:40]!a}; weights have no meaning here and are read as words"


def _of_copy(subject: Subject, one: Examined, seen: dict[str, tuple[str, str]]) -> Iterator[str]:
    key, name = seen.setdefault(one.sha256, (subject.key, one.reference.image_path.name))
    if key != subject.key:
        yield f'the same bytes as {name} of "{key}"; right only if it shows both subjects'
