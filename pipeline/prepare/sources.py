"""The files of the users' source folders: each is a photo, the mask of one, or skipped with its reason. Nothing is written there."""

import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from mudi.model_facts import file_sha256
from mudi.user_files.photos import FORMATS, decode, read_image, read_mask
from pipeline.prepare.record import Skipped, printable

MASK = re.compile(r"mask_(?P<photo>.+)", re.IGNORECASE)
MASK_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
PNG_BIT_DEPTH = 24  # The byte that holds it; Pillow reads 16 bits of colour as 8 and does not say so.


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A usable photo. sha256: of the file; repair: why its copy is saved anew, None if it is copied byte for byte."""

    subject: str
    path: Path
    sha256: str
    suffix: str
    repair: str | None
    mask: Path | None


@dataclass(frozen=True, kw_only=True)
class Scan:
    """found: number of files in each subject's folder; known: number of them that are in the prepared folder already.

    Every file is counted once: found = photos + their masks + skipped + known.
    """

    found: dict[str, int]
    known: dict[str, int]
    photos: tuple[Photo, ...]
    skipped: tuple[Skipped, ...]


def scan(sources: Mapping[str, Path], known: Collection[str] = ()) -> Scan:
    """Reads and decodes every file that lies directly in a source folder; `known` are sha256 of photos prepared before.

    The mask of NAME.jpg is mask_NAME.jpg, .jpeg, .png or .webp beside it, in any case, as MuDI publishes its own.
    """
    found, again, photos, skipped = {}, {}, [], []
    seen: dict[str, str] = {}
    for subject, folder in sources.items():
        files = _files(subject, folder)
        masks, orphans = _masks(files)
        found[subject], again[subject] = len(files), 0
        skipped += [Skipped(subject=subject, file=printable(path.name), reason=reason) for path, reason in orphans.items()]
        # Of two copies of a photo the one that has a mask is kept.
        rest = [path for path in files if path not in orphans and path not in masks.values()]
        for path in sorted(rest, key=lambda path: path not in masks):
            mask = masks.get(path)
            try:
                photo = _photo(subject, path, mask)
                if photo.sha256 in seen:
                    raise ValueError(f"the same photo as {seen[photo.sha256]}")
            except ValueError as error:
                skipped.append(Skipped(subject=subject, file=printable(path.name), reason=_reason(error, path)))
                if mask:
                    skipped.append(Skipped(subject=subject, file=printable(mask.name), reason="its photo is skipped"))
                continue
            seen[photo.sha256] = printable(path.name) if len(sources) == 1 else f"{printable(path.name)} of {subject}"
            if photo.sha256 in known:
                again[subject] += 2 if mask else 1
                continue
            unusable = _mask_problem(photo)
            if unusable:
                skipped.append(Skipped(subject=subject, file=printable(mask.name), reason=unusable))
                photo = replace(photo, mask=None)
            photos.append(photo)
    subjects = list(sources)
    return Scan(
        found=found,
        known=again,
        photos=tuple(sorted(photos, key=lambda photo: (subjects.index(photo.subject), photo.path))),
        skipped=tuple(skipped),
    )


def copy_photo(photo: Photo, target: Path) -> None:
    """Copies the photo to `target`: byte for byte, or upright on white as PNG if it needs a repair."""
    if photo.repair is None:
        shutil.copyfile(photo.path, target)
    else:
        Image.fromarray(read_image(photo.path)).save(target, format="PNG")


def copy_mask(photo: Photo, folder: Path, stem: str) -> Path:
    """Copies the photo's mask to mask_STEM in `folder`: byte for byte, or upright as 8-bit PNG if the photo needs a repair."""
    if photo.repair is None:
        target = folder / f"mask_{stem}{photo.mask.suffix.lower()}"
        shutil.copyfile(photo.mask, target)
    else:
        target = folder / f"mask_{stem}.png"
        Image.fromarray(_read_own_mask(photo).astype(np.uint8) * 255).save(target, format="PNG")
    return target


def _files(subject: str, folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{subject}={folder}: no such folder; give the folder that holds the photos of {subject}")
    files = sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name))
    if not files:
        raise ValueError(f"{subject}={folder}: the folder is empty; put the photos of {subject} directly into it")
    return files


def _masks(files: Sequence[Path]) -> tuple[dict[Path, Path], dict[Path, str]]:
    """Photo -> its mask; and the files named as masks that are the mask of no photo -> the reason."""
    able = [path for path in files if path.suffix.lower() in MASK_SUFFIXES]
    named = {path: match["photo"].lower() for path in able if (match := MASK.fullmatch(path.stem))}
    photos = {path.stem.lower(): path for path in reversed(files) if path not in named}
    masks, orphans = {}, {}
    for path, stem in named.items():
        if stem not in photos:
            orphans[path] = f"named as the mask of a photo {printable(path.stem[5:])!r} that is not there; rename it if it is a photo"
        elif photos[stem] in masks:
            orphans[path] = f"a second mask of {printable(photos[stem].name)}, beside {printable(masks[photos[stem]].name)}"
        else:
            masks[photos[stem]] = path
    return masks, orphans


def _photo(subject: str, path: Path, mask: Path | None) -> Photo:
    if path.name.startswith("."):
        raise ValueError("a hidden file")
    if path.is_dir():
        raise ValueError("a folder; only what lies directly in the source folder is read")
    if not path.is_file():
        raise ValueError("not a file")
    upright, orientation = decode(path)
    repair = _repair(path, orientation)
    with Image.open(path, formats=FORMATS) as image:
        suffix = ".png" if repair else SUFFIXES[image.format]
    if min(upright.size) < 2:
        raise ValueError(f"{upright.width}x{upright.height} pixels show nothing")
    return Photo(subject=subject, path=path, sha256=file_sha256(path), suffix=suffix, repair=repair, mask=mask)


def _repair(path: Path, orientation: int) -> str | None:
    """Why the photo's copy must be saved anew; None for a plain upright RGB picture of 8 bits."""
    with Image.open(path, formats=FORMATS) as image:
        reasons = []
        if orientation in range(2, 9):
            reasons.append("turned upright")
        if image.format == "MPO":
            reasons.append("the first of several pictures in the file")
        if image.has_transparency_data:
            reasons.append("transparent parts made white")
        elif image.mode != "RGB":
            reasons.append(f"colours changed from {image.mode} to RGB")
        if image.format == "PNG" and path.read_bytes()[PNG_BIT_DEPTH] > 8:
            reasons.append("16 bits a colour made 8")
    return ", ".join(reasons) or None


def _mask_problem(photo: Photo) -> str | None:
    if photo.mask is None:
        return None
    if file_sha256(photo.mask) == photo.sha256:
        return "has the bytes of its photo; a mask is made instead"
    try:
        _read_own_mask(photo)
    except ValueError as error:
        return f"{_reason(error, photo.mask)}; a mask is made instead"
    return None


def _read_own_mask(photo: Photo) -> np.ndarray:
    upright, orientation = decode(photo.path)
    return read_mask(photo.mask, (upright.height, upright.width), orientation)


def _reason(error: ValueError, path: Path) -> str:
    """The text of an error about a file, without the file's path."""
    return printable(" ".join(str(error).removeprefix(f"{path}: ").replace(str(path), path.name).split()))
