"""The record of a prepared folder: the origin of its photos, the inputs of its masks, and the files that were skipped."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from pipeline.settings.strict import Settings, Text
from pipeline.settings.subjects_file import PixelBox

FILE_NAME = "prepared.json"


class FoundBox(Settings):
    confidence: float
    box: PixelBox


class MaskRecord(Settings):
    file: Text
    """Its name in the folder."""
    origin: Literal["made", "source", "hand"]
    """Made by the models, taken from the source folder, or painted by hand in the folder."""
    sha256: tuple[str, ...]
    """Of every mask that prepare put there, the present one last: a mask of another content was painted by hand."""


class PhotoRecord(Settings):
    source: str
    """Its name in the source folder, escaped (`printable`)."""
    source_sha256: str
    """Of the file in the source folder."""
    repair: str | None = None
    """Why it was saved anew; null if it was copied byte for byte."""
    inputs: str | None = None
    """sha256 of the inputs of the models' last answer; null if the models were not asked."""
    mask: MaskRecord | None = None
    boxes: tuple[FoundBox, ...] = ()
    """The detector's boxes, best first."""
    doubts: tuple[str, ...] = ()
    """Why the models' last answer should be looked at."""


class Skipped(Settings):
    """A file, or folder, of a source folder that is not used."""

    subject: str
    """The key of the folder's subject."""
    file: str
    reason: str


class Record(Settings):
    version: Annotated[int, Field(ge=1, le=1)] = 1
    detector: str | None = None
    segmenter: str | None = None
    threshold: float
    phrases: dict[str, str]
    """Subject key -> identifier and class, as the captions name the subject."""
    photos: dict[str, PhotoRecord]
    """File name in the folder -> its record; also of photos that were taken out of subjects.yaml."""
    skipped: tuple[Skipped, ...] = ()


def read_record(out: Path) -> Record | None:
    """The record of a prepared folder; None if the folder is absent or empty. ValueError for a folder that prepare did not make."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    path = out / FILE_NAME
    if not path.is_file():
        raise ValueError(f"{out}: exists and was not made by `mudi prepare` (it has no {FILE_NAME}); give a new folder with --out")
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"{path}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}; restore the file, or prepare into a new folder"
        ) from None


def record_bytes(record: Record) -> bytes:
    return (json.dumps(record.model_dump(mode="json", exclude_defaults=True) | {"version": record.version}, indent=1) + "\n").encode()


def inputs_sha256(parts: Sequence[object]) -> str:
    """The sha256 of the inputs of an answer, as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def printable(text: str) -> str:
    """The text on one line: control characters and bytes that are not UTF-8 are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
