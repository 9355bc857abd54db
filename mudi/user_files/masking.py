"""The mask of a photo's subject: OWLv2 finds it, segment-anything cuts it out.

Source: the mask notebook of MuDI's released code: threshold 0.2, exactly one box, grown by 5 % of the image's size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mudi.records import Box, Detection
from mudi.segment import segment
from mudi.user_files.mask_doubts import doubts_about

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from mudi.detect import Detector

THRESHOLD = 0.2
GROWTH = 0.05
# Where no box is above the threshold, weaker ones are named down to this confidence.
FAINTEST = 0.05
NAMED_BOXES = 3
REDUCED_SIDES = 2


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to look for in a photo; a box or points (x, y) given by hand, in its pixels, replace the detector's answer to `query`."""

    query: str
    box: Box | None = None
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """mask: bool (H, W), neither empty nor full, or None. boxes: the detector's, best first, those above the threshold
    and, where there is none, weaker ones. doubts: why a person should look at it, one sentence each; none is well."""

    mask: np.ndarray | None
    boxes: tuple[Detection, ...]
    doubts: tuple[str, ...]


def cut_out(
    detector: "Detector", segmenter: "SamPredictor", images: Sequence[np.ndarray], asked: Sequence[Asked], threshold: float = THRESHOLD
) -> list[Cutout]:
    """The subject of each photo, uint8 (H, W, 3). Without a hint by hand there is a mask only where exactly one box is found.

    A detected box is grown (see `grown`); a box by hand is taken as it is.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is outside 0..1; MuDI's masks were made with {THRESHOLD}")
    open_ones = [i for i, hint in enumerate(asked) if hint.box is None and not hint.points]
    answers = _detect_reduced(detector, [images[i] for i in open_ones], [asked[i].query for i in open_ones], min(FAINTEST, threshold))
    found = dict(zip(open_ones, answers, strict=True))
    return [
        _found_cutout(segmenter, image, hint.query, found[i], threshold)
        if i in found
        else _judged(segment(segmenter, image, hint.box, hint.points), hint.box, ())
        for i, (image, hint) in enumerate(zip(images, asked, strict=True))
    ]


def grown(box: Box, size: tuple[int, int]) -> Box:
    """The box with 5 % of the image's width more at its left and right and 5 % of its height more at its top and bottom,
    within an image of size (H, W).

    The released code exchanges width and height here, which its square photos hide; this does not.
    """
    height, width = size
    x0, y0, x1, y1 = box
    across, down = GROWTH * width, GROWTH * height
    return max(x0 - across, 0.0), max(y0 - down, 0.0), min(x1 + across, float(width)), min(y1 + down, float(height))


def _detect_reduced(
    detector: "Detector", images: Sequence[np.ndarray], queries: Sequence[str], threshold: float
) -> list[tuple[Detection, ...]]:  # fmt: skip
    """`detect` on the photos averaged over whole pixels to at least twice the side that the detector reads; boxes in the photos' pixels.

    The processor blurs a photo in proportion to its size before it samples it: for 1024 pixels shown to the miniature that took
    2 s of CPU a photo, for 40 million shown to OWLv2 gigabytes.
    """
    # Torch comes with it, which a start that finds all masks made can do without.
    from mudi.detect import detect

    read = max(detector.processor.image_processor.size["height"], detector.processor.image_processor.size["width"])
    factors = [max(1, max(image.shape[:2]) // (REDUCED_SIDES * read)) for image in images]
    shown = [np.array(Image.fromarray(image).reduce(factor)) for image, factor in zip(images, factors, strict=True)]
    answers = detect(detector, shown, [[query] for query in queries], threshold)
    return [
        tuple(replace(found, box_xyxy=_enlarged(found.box_xyxy, factor, image.shape[:2])) for found in detections)
        for detections, factor, image in zip(answers, factors, images, strict=True)
    ]


def _enlarged(box: Box, factor: int, size: tuple[int, int]) -> Box:
    """The box in an image `factor` times as large; the last pixels of the reduced one may lie half outside of its size (H, W)."""
    x0, y0, x1, y1 = (factor * x for x in box)
    return x0, y0, min(x1, float(size[1])), min(y1, float(size[0]))


def _found_cutout(
    segmenter: "SamPredictor", image: np.ndarray, query: str, found: Sequence[Detection], threshold: float
) -> Cutout:  # fmt: skip
    ranked = sorted(found, key=lambda detection: -detection.confidence)
    sure = tuple(detection for detection in ranked if detection.confidence > threshold)
    if len(sure) == 1:
        (only,) = sure
        return _judged(segment(segmenter, image, grown(only.box_xyxy, image.shape[:2])), only.box_xyxy, sure)
    boxes = sure or tuple(ranked[:NAMED_BOXES])
    named = ", ".join(_named(detection) for detection in boxes[:NAMED_BOXES])
    if sure:
        return Cutout(mask=None, boxes=boxes, doubts=(f'{len(sure)} boxes for "{query}": {named}',))
    best = f"; the best: {named}" if named else ""
    return Cutout(mask=None, boxes=boxes, doubts=(f'no box for "{query}" above {threshold:g}{best}',))


def _named(detection: Detection) -> str:
    return f"{detection.confidence:.2f} at [{', '.join(format(x, '.0f') for x in detection.box_xyxy)}]"


def _judged(mask: np.ndarray, box: Box | None, boxes: tuple[Detection, ...]) -> Cutout:
    if not mask.any() or mask.all():
        said = "the whole photo" if mask.any() else "nothing"
        return Cutout(mask=None, boxes=boxes, doubts=(f"the segmenter cut out {said}",))
    return Cutout(mask=mask, boxes=boxes, doubts=doubts_about(mask, box))
