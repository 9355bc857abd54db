"""Which photos keep their mask, which get a new one, and why a person should look at a photo."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mudi.model_facts import file_sha256
from mudi.user_files.mask_doubts import doubts_about
from mudi.user_files.photos import read_both
from pipeline.prepare.record import FoundBox, MaskRecord, PhotoRecord, inputs_sha256
from pipeline.prepare.sources import MASK_SUFFIXES
from pipeline.settings.subjects_file import PhotoEntry, SubjectsFile
from pipeline.workers.masks import MadeMask, Masker, MaskJob, MaskSettings, Progress


@dataclass(frozen=True, kw_only=True)
class PreparedPhoto:
    """A photo of the folder. path and mask: where the files are, mask None if there is none; doubts: why to look at it."""

    subject: str
    name: str
    entry: PhotoEntry
    record: PhotoRecord
    path: Path
    mask: Path | None
    doubts: tuple[str, ...]

    @property
    def mask_name(self) -> str | None:
        return self.mask and self.mask.name

    @property
    def given_mask(self) -> bool:
        """Whether a person made the mask, in the source folder or here: no model and no box changes it."""
        return self.mask is not None and self.record.mask.origin != "made"


@dataclass(frozen=True, kw_only=True)
class _Decision:
    """A photo's mask before the models run. job: their work, None if the mask is kept; stale: names of masks to delete."""

    record: PhotoRecord
    mask: Path | None
    job: MaskJob | None
    stale: tuple[str, ...] = ()


def prepared_photos(
    file: SubjectsFile, records: Mapping[str, PhotoRecord], here: Mapping[str, Path], staged: Path, masker: Masker,
    settings: MaskSettings, progress: Progress,
) -> tuple[tuple[PreparedPhoto, ...], list[str], int]:  # fmt: skip
    """The photos of `file` with their masks, the names of stale masks, and the number of masks that the models were asked for.

    New masks are written to `staged`. `here`: file name -> path. A mask that prepare did not make is kept, even if the
    file gives a box or points for it. ValueError names a mask that is unusable.
    """
    rows = [(key, entry, name, photo) for key, entry in file.subjects.items() for name, photo in entry.photos.items()]
    decisions = [_decide(name, photo, entry.query, records[name], here, settings) for _, entry, name, photo in rows]
    jobs = [decision.job for decision in decisions if decision.job]
    if jobs:
        _require_models(settings, len(jobs))
    answers = iter(masker(jobs, progress) if jobs else ())
    photos, stale = [], []
    for (key, _, name, photo), known in zip(rows, decisions, strict=True):
        record, mask = (known.record, known.mask) if known.job is None else _store(name, known.record, next(answers), staged)
        stale += known.stale
        photos.append(
            PreparedPhoto(
                subject=key, name=name, entry=photo, record=record, path=here[name], mask=mask,
                doubts=_doubts(record, here[name], mask),
            )
        )  # fmt: skip
    return tuple(photos), stale, len(jobs)


def _decide(
    name: str, photo: PhotoEntry, query: str, record: PhotoRecord, here: Mapping[str, Path], settings: MaskSettings
) -> _Decision:  # fmt: skip
    masks = _masks_of(name, here)
    ours = record.mask.sha256 if record.mask else ()
    by_hand = [mask for mask in masks if file_sha256(mask) not in ours]
    if by_hand:
        painted = MaskRecord(file=by_hand[0].name, origin="hand", sha256=ours)
        return _Decision(record=record.model_copy(update={"mask": painted}), mask=by_hand[0], job=None)
    if masks and record.mask.origin != "made":
        return _Decision(record=record, mask=masks[0], job=None)
    by_detector = (query, settings.detector, settings.segmenter, settings.threshold)
    asked = (photo.box, photo.points, settings.segmenter) if photo.hinted else by_detector
    inputs = inputs_sha256((file_sha256(here[name]), *asked))
    current = bool(masks) and file_sha256(masks[0]) == ours[-1] if record.mask else not masks
    if record.inputs == inputs and current:
        return _Decision(record=record, mask=masks[0] if masks else None, job=None)
    job = MaskJob(photo=str(here[name]), query=query, box=photo.box, points=photo.points)
    renewed = record.model_copy(update={"inputs": inputs})
    return _Decision(record=renewed, mask=None, job=job, stale=tuple(mask.name for mask in masks))


def _masks_of(name: str, here: Mapping[str, Path]) -> list[Path]:
    stem = re.escape(Path(name).stem)
    pattern = re.compile(rf"mask_{stem}({'|'.join(map(re.escape, MASK_SUFFIXES))})", re.IGNORECASE)
    return [here[other] for other in sorted(here) if pattern.fullmatch(other)]


def _require_models(settings: MaskSettings, count: int) -> None:
    for option, weights, example in (
        ("--detector", settings.detector, "OWLv2 as a folder or google/owlv2-base-patch16-ensemble@COMMIT"),
        ("--segmenter", settings.segmenter, "segment-anything as a folder that `save_segmenter` wrote"),
    ):
        if not weights:
            raise ValueError(
                f"{count} photo(s) have no mask, and {option} is not given; give {example}; for rendered animals it may be miniature"
            )


def _store(name: str, record: PhotoRecord, made: MadeMask, staged: Path) -> tuple[PhotoRecord, Path | None]:
    earlier = record.mask.sha256 if record.mask else ()
    mask, path = None, None
    if made.png is not None:
        path = staged / f"mask_{Path(name).stem}.png"
        path.write_bytes(made.png)
        now = file_sha256(path)
        mask = MaskRecord(file=path.name, origin="made", sha256=(*(sha for sha in earlier if sha != now), now))
    boxes = tuple(FoundBox(confidence=confidence, box=box) for confidence, box in made.boxes)
    return record.model_copy(update={"mask": mask, "boxes": boxes, "doubts": made.doubts}), path


def _doubts(record: PhotoRecord, path: Path, mask: Path | None) -> tuple[str, ...]:
    if mask is None or record.mask.origin == "made":
        return record.doubts
    return doubts_about(read_both(path, mask)[1])
