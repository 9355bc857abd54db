"""Masks for files of photos, a few photos at a time."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from mudi.records import Report
from mudi.user_files.masking import THRESHOLD, Asked, cut_out
from mudi.user_files.photos import read_image
from pipeline.workers.failure import RunFailedError
from pipeline.workers.loaded import Loaded

BATCH = 8
# A detector copies each photo as float32 several times; 32 MP are 0.4 GB a copy.
BATCH_PIXELS = 32_000_000
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class MaskJob(Asked):
    """A photo to cut its subject out of; box and points by hand replace what the detector answers to `query`."""

    photo: str


@dataclass(frozen=True, kw_only=True)
class MadeMask:
    """png: the mask, 8-bit grey, 255 on the subject, or None; boxes: (confidence, box) of the detector, best first."""

    png: bytes | None
    boxes: tuple[tuple[float, tuple[float, float, float, float]], ...]
    doubts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """Which models make the masks, and how sure the detector must be."""

    detector: str
    segmenter: str
    threshold: float = THRESHOLD


Masker = Callable[[Sequence[MaskJob], Progress], list[MadeMask]]


def batches(jobs: Sequence[MaskJob]) -> Iterator[list[MaskJob]]:
    """The jobs in order, at most 8 at once and fewer where their photos are large; depends on the photos alone."""
    batch, pixels = [], 0
    for job in jobs:
        with Image.open(job.photo) as image:
            size = image.width * image.height
        if batch and (len(batch) == BATCH or pixels + size > BATCH_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(job)
        pixels += size
    if batch:
        yield batch


def make_masks(detector, segmenter, jobs: Sequence[MaskJob], threshold: float) -> list[MadeMask]:
    """The masks of one batch, with models that are loaded."""
    images = [read_image(Path(job.photo)) for job in jobs]
    return [
        MadeMask(
            png=None if cutout.mask is None else mask_png(cutout.mask),
            boxes=tuple((found.confidence, found.box_xyxy) for found in cutout.boxes),
            doubts=cutout.doubts,
        )
        for cutout in cut_out(detector, segmenter, images, jobs, threshold)
    ]


@dataclass(frozen=True, kw_only=True)
class MaskBatch:
    """Photos whose subjects are cut out together, by their place among all batches."""

    kind: ClassVar[str] = "masks"
    index: int
    jobs: tuple[MaskJob, ...]
    settings: MaskSettings

    @property
    def label(self) -> str:
        return f"photos from {self.jobs[0].photo}"


def cut_masks(loaded: Loaded, piece: MaskBatch, report: Report) -> list[MadeMask]:
    """The masks of a batch's photos, in their order. The photos must lie where every worker can read them."""
    settings = piece.settings
    judges = loaded.scorer("detector", settings.detector), loaded.scorer("segmenter", settings.segmenter)
    return make_masks(*judges, piece.jobs, settings.threshold)


def mask_all(do: Callable, settings: MaskSettings, jobs: Sequence[MaskJob], progress: Progress) -> list[MadeMask]:
    """The masks of all jobs in their order, by the workers behind `do` (`pipeline.workers.worker.Do`). RunFailedError if a batch fails."""
    pieces = [MaskBatch(index=i, jobs=tuple(part), settings=settings) for i, part in enumerate(batches(jobs))]
    made: dict[int, list[MadeMask]] = {}

    def received(piece: MaskBatch, masks: list[MadeMask]) -> None:
        made[piece.index] = masks
        progress("masks", sum(map(len, made.values())), len(jobs))

    if failures := do(pieces, received):
        raise RunFailedError(f"{failures[0].piece.label}: no masks: {failures[0].reason}") from failures[0].error
    return [mask for index in range(len(pieces)) for mask in made[index]]


def mask_png(mask: np.ndarray) -> bytes:
    """A mask, bool (H, W), as the bytes of an 8-bit grey PNG, 255 where it is true."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
    return buffer.getvalue()
