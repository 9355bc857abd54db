"""`mudi prepare`: folders of photos become a combination with masks, captions and a contact sheet, and again after an edit.

Everything is made in a staging folder and put in place by renaming: the whole folder the first time, file by file
later. Every edit is kept: words and boxes in subjects.yaml, and masks, which are recognised by their content.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mudi.layout import preview
from mudi.model_facts import file_sha256
from mudi.records import Combination, Reference, Subject
from mudi.user_files.names import check_combination_name, check_subject_key
from pipeline.prepare.contact_sheet import PAGE, PICTURE, write_sheets
from pipeline.prepare.photos import PreparedPhoto, prepared_photos
from pipeline.prepare.record import FILE_NAME, PhotoRecord, Record, Skipped, printable, read_record, record_bytes
from pipeline.prepare.sources import Photo, Scan, copy_mask, copy_photo, scan
from pipeline.prepare.words import check_hints, check_tokens, check_words, photos_of, phrases_of, rename_in_captions, write_words
from pipeline.prepare.writer import Writer
from pipeline.settings.subjects_file import FILE_NAME as WORDS
from pipeline.settings.subjects_file import SubjectsFile, read_subjects, write_subjects
from pipeline.workers.masks import Masker, MaskSettings, Progress

METADATA = "metadata.jsonl"
PREVIEW = "layouts.png"
PREVIEW_SIDE = 384


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The result of a preparation. scan: the files of the source folders, None if none were given; renewed: number of masks
    that the models were asked for; removed: photos that were taken out of subjects.yaml; notes: captions to look at."""

    out: Path
    file: SubjectsFile
    photos: tuple[PreparedPhoto, ...]
    scan: Scan | None
    renewed: int
    removed: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def bare(self) -> list[str]:
        """The subjects without any mask."""
        masked = {photo.subject for photo in self.photos if photo.mask is not None}
        return [key for key in self.file.subjects if key not in masked]


def prepare(
    sources: Mapping[str, Path], out: Path, writer: Writer, masker: Masker, settings: MaskSettings, progress: Progress,
    backbone: str | None = None,
) -> Prepared:  # fmt: skip
    """Make the folder `out` from `sources` (subject key -> folder), or make it again from its own subjects.yaml and new photos.

    `masker` makes a mask only where it is missing or its inputs have changed. A photo without a mask gets no line in
    metadata.jsonl. Identifiers are rare single tokens of `backbone`, by default of SDXL. ValueError, before anything
    is written, if a source or an edit cannot be used, if a subject has no usable photo, or if prepare did not make `out`.
    """
    out = Path(os.path.abspath(out))
    before = read_record(out)
    _check_names(sources, out, first=before is None)
    words_path = out / WORDS
    file = read_subjects(words_path) if before else None
    found = scan(sources, {photo.source_sha256 for photo in before.photos.values()} if before else ()) if sources else None
    with _staging(out, first=before is None) as staged:
        records, new = _copy(found.photos if found else (), before, out, staged)
        for key, folder in sources.items():
            if key not in new and (file is None or key not in file.subjects):
                raise ValueError(f"{key}={folder}: no file in it can be used as a photo (JPEG, PNG or WEBP); nothing was written")
        edited = rename_in_captions(file, before.phrases) if file else None
        words = write_words(edited, new, writer, progress)
        here = {path.name: path for folder in (out, staged) if folder.is_dir() for path in folder.iterdir() if path.is_file()}
        check_words(words, words_path, here)
        notes = check_tokens(words, words_path, backbone)
        check_hints(words, words_path, here)
        for _, name, _ in photos_of(words):
            records.setdefault(name, PhotoRecord(source=printable(name), source_sha256=file_sha256(here[name])))
        photos, stale, renewed = prepared_photos(words, records, here, staged, masker, settings, progress)
        record = Record(
            detector=settings.detector or None,
            segmenter=settings.segmenter or None,
            threshold=settings.threshold,
            phrases=phrases_of(words.subjects),
            photos={**records, **{photo.name: photo.record for photo in photos}},
            skipped=_skipped(found, before),
        )
        if words != file:
            write_subjects(staged / WORDS, words)
        (staged / FILE_NAME).write_bytes(record_bytes(record))
        (staged / METADATA).write_text(_metadata(words, photos), encoding="utf-8")
        removed = tuple(sorted(set(record.photos) - {photo.name for photo in photos}))
        prepared = Prepared(out=out, file=words, photos=photos, scan=found, renewed=renewed, removed=removed, notes=tuple(notes))
        write_sheets(staged, out.name, words, photos, record.skipped, removed)
        stale += _preview(prepared, staged)
        _put_in_place(staged, out, [name for name in stale if name not in {photo.mask_name for photo in photos}])
    return prepared


def known_settings(out: Path, detector: str | None, segmenter: str | None, threshold: float | None) -> MaskSettings:
    """The models to use: those given, else those of the folder's record, else ""."""
    before = read_record(Path(os.path.abspath(out))) or MaskSettings(detector="", segmenter="")
    threshold = before.threshold if threshold is None else threshold
    return MaskSettings(detector=detector or before.detector or "", segmenter=segmenter or before.segmenter or "", threshold=threshold)


def _check_names(sources: Mapping[str, Path], out: Path, first: bool) -> None:
    check_combination_name(f"--out {out}", out.name)
    if first and len(sources) < 2:
        raise ValueError(
            f"{len(sources)} subject(s) for {out}; give two or more, each as NAME=FOLDER with its photos, such as corgi=photos/corgi"
        )
    for key, folder in sources.items():
        check_subject_key(f"{key}={folder}", key)
        if key.lower().startswith("mask_"):
            raise ValueError(f'{key}={folder}: files named mask_... are masks; choose a name that does not begin with "mask_"')
        if out.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"--out {out}: lies in the photos of {key}, where nothing is written; give a folder elsewhere")
    if len({key.lower() for key in sources}) < len(sources):
        raise ValueError(f"{', '.join(sources)}: two names differ in upper and lower case only; rename one")


@contextmanager
def _staging(out: Path, first: bool) -> Iterator[Path]:
    """A new folder on the same file system, with the name of `out`; it is deleted with the files left in it."""
    within = out.parent if first else out
    within.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=within, prefix="._staging-") as folder:
        staged = Path(folder) / out.name
        staged.mkdir()
        yield staged


def _copy(
    found: tuple[Photo, ...], before: Record | None, out: Path, staged: Path
) -> tuple[dict[str, PhotoRecord], dict[str, dict[str, Path]]]:  # fmt: skip
    """Copies new photos and their masks into `staged`. Returns old and new records, and subject -> file name -> copy."""
    records = dict(before.photos) if before else {}
    stems = {Path(name).stem for name in records} | {path.stem for path in (out.iterdir() if out.is_dir() else ())}
    new: dict[str, dict[str, Path]] = {}
    for photo in found:
        number = 0
        while (stem := f"{photo.subject}{number:02}") in stems:
            number += 1
        stems.add(stem)
        name = stem + photo.suffix
        copy_photo(photo, staged / name)
        mask = copy_mask(photo, staged, stem) if photo.mask else None
        records[name] = PhotoRecord.model_validate(
            {
                "source": printable(photo.path.name),
                "source_sha256": photo.sha256,
                "repair": photo.repair,
                "mask": mask and {"file": mask.name, "origin": "source", "sha256": (file_sha256(mask),)},
            }
        )
        new.setdefault(photo.subject, {})[name] = staged / name
    return records, new


def _skipped(found: Scan | None, before: Record | None) -> tuple[Skipped, ...]:
    """The files that this scan skipped, and of the other subjects those that earlier scans skipped."""
    earlier = [row for row in before.skipped if found is None or row.subject not in found.found] if before else []
    return (*earlier, *(found.skipped if found else ()))


def _preview(prepared: Prepared, staged: Path) -> list[str]:
    """Stores a picture of the layouts; if there are none, or a subject has no mask, returns the name of the old one as stale."""
    if not prepared.file.layouts or prepared.bare:
        return [PREVIEW] if (prepared.out / PREVIEW).exists() else []
    Image.fromarray(preview(_combination(prepared), PREVIEW_SIDE)).save(staged / PREVIEW)
    return []


def _combination(prepared: Prepared) -> Combination:
    subjects = []
    for key, entry in prepared.file.subjects.items():
        own = [photo for photo in prepared.photos if photo.subject == key and photo.mask is not None]
        references = tuple(Reference(image_path=photo.path, mask_path=photo.mask, caption=photo.entry.caption) for photo in own)
        subjects.append(
            Subject(key=key, identifier=entry.identifier, class_noun=entry.class_noun, detection_query=entry.query, references=references)
        )
    return Combination(key=prepared.out.name, subjects=tuple(subjects), layouts=prepared.file.layouts)


def _metadata(file: SubjectsFile, photos: tuple[PreparedPhoto, ...]) -> str:
    header = {"id": phrases_of(file.subjects), "query": {key: entry.query for key, entry in file.subjects.items()}}
    if file.layouts:
        header["layouts"] = [{key: list(layout[key]) for key in file.subjects} for layout in file.layouts]
    lines = [
        {"id": photo.subject, "file_name": photo.name, "mask_path": photo.mask_name, "text": photo.entry.caption}
        for photo in photos
        if photo.mask is not None
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (header, *lines))


def _put_in_place(staged: Path, out: Path, stale: list[str]) -> None:
    """A new folder by one rename; else photos, words, record, masks and the rest, file by file in this order.

    If the driver dies in between, the next start takes no mask for one painted by hand: stale masks are deleted before the
    record that forgets them, and new masks come after the record that knows old and new ones.
    """
    if not (out / FILE_NAME).exists():
        staged.rename(out)
        return
    ranks = {WORDS: 1, FILE_NAME: 2, METADATA: 4, PAGE: 5, PICTURE: 5, PREVIEW: 5}
    files = [(3 if path.name.startswith("mask_") else ranks.get(path.name, 0), path) for path in sorted(staged.iterdir())]
    for name in stale:
        (out / name).unlink(missing_ok=True)
    for _, path in sorted(files):
        path.replace(out / path.name)
