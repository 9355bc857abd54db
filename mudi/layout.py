"""Compositions by given boxes: each subject stands in its own, at the bottom of it, as large as fits.

MuDI (arXiv 2404.04243), Figure 21, lets a language model choose a box for each subject on a canvas of 1024 by
1024 and starts sampling from that composition. The paper does not say how a subject is put into its box: here
it keeps its proportions, is as large as fits, centred sideways and stands on the lower edge, since things
stand on the ground more often than they float. Who stands in front is not drawn as in Seg-Mix, whose coin shows
training both orders: whoever gives boxes decides what is seen, and `preview` shows what is drawn.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mudi.augment import Composition, Segment, crop_to_mask, paste, resize, tight_box
from mudi.dataset import load_segments
from mudi.records import CANVAS, Box, Combination

# Told apart from one another and from most photos; used again after the sixth subject.
COLOURS = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (255, 127, 14), (148, 103, 189), (23, 190, 207))


def place(
    segments: Sequence[Segment], boxes: Sequence[Box], size: int = CANVAS, background: tuple[int, int, int] = (255, 255, 255)
) -> Composition:
    """The composition of one or more subjects, each cut to its mask and resized to fit its box, pasted with hard edges.

    `boxes` are in the order of the segments, (x0, y0, x1, y1) on a canvas of 1024 by 1024 that is scaled to `size`;
    scaled edges are rounded to whole pixels. Where subjects overlap, a later one is in front of an earlier one.
    ValueError for a box that is less than a pixel at this size, and for a subject of which nothing would be seen.
    """
    if len(segments) != len(boxes) or not segments:
        raise ValueError(f"{len(segments)} subjects and {len(boxes)} boxes; give each subject one box")
    pieces, corners = [], []
    for segment, box in zip(segments, boxes, strict=True):
        x0, y0, x1, y1 = _pixels(box, size)
        piece = _fitted(crop_to_mask(segment), x1 - x0, y1 - y0)
        height, width = piece.mask.shape
        pieces.append(piece)
        corners.append((x0 + (x1 - x0 - width) // 2, y1 - height))
    image, masks = paste(pieces, corners, np.arange(len(pieces)), size, background)
    for index, mask in enumerate(masks):
        if not mask.any():
            raise ValueError(f"layout {list(map(list, boxes))}: subject {index + 1} is hidden by those after it; move its box")
    return Composition(image, masks.any(axis=0), tuple(masks), tuple(tight_box(mask) for mask in masks))


def _pixels(box: Box, size: int) -> tuple[int, int, int, int]:
    """A box of the 1024 canvas in whole pixels of a canvas of `size`."""
    x0, y0, x1, y1 = (round(edge * size / CANVAS) for edge in box)
    if not (0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size):
        raise ValueError(f"box {list(box)}: is empty or off the canvas at {size} pixels; give x0 < x1 and y0 < y1 from 0 to {CANVAS}")
    return x0, y0, x1, y1


def _fitted(segment: Segment, width: int, height: int) -> Segment:
    """The segment as large as fits width x height pixels; whole numbers throughout, so that one side fits exactly."""
    own_height, own_width = segment.mask.shape
    if width * own_height <= height * own_width:
        return resize(segment, (width, max(1, own_height * width // own_width)))
    return resize(segment, (max(1, own_width * height // own_height), height))


def boxes_of(combination: Combination) -> list[list[Box]]:
    """Each layout of the combination as boxes in the order of its objects, as `place` wants them."""
    return [[layout[subject.key] for subject in combination.objects] for layout in combination.layouts]


def require_layouts(combination: Combination, wanted_by: str) -> None:
    """Raise ValueError if the combination has no layout; `wanted_by` is what needs one."""
    if not combination.layouts:
        raise ValueError(
            f'{combination.key}: has no layouts, and {wanted_by} goes by them; add "layouts", a box for each subject, to the header of '
            "its metadata.jsonl"
        )


def preview(combination: Combination, size: int = 512) -> np.ndarray:
    """All layouts side by side: boxes, the subjects' names, and cut-outs in them; uint8 (size, size x layouts, 3).

    Each layout shows the next photo of every subject. ValueError if the combination has no layout or a photo no mask.
    """
    require_layouts(combination, "a preview")
    segments = [load_segments(subject) for subject in combination.objects]
    panels = []
    for number, boxes in enumerate(boxes_of(combination)):
        panel = Image.fromarray(place([of_subject[number % len(of_subject)] for of_subject in segments], boxes, size).image)
        pen, font = ImageDraw.Draw(panel), ImageFont.load_default(max(8, size // 28))
        for index, (subject, box) in enumerate(zip(combination.objects, boxes, strict=True)):
            x0, y0, x1, y1 = _pixels(box, size)
            colour = COLOURS[index % len(COLOURS)]
            pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=max(1, size // 256))
            pen.rectangle(pen.textbbox((x0 + 2, y0), subject.phrase, font=font), fill=colour)
            pen.text((x0 + 2, y0), subject.phrase, fill="white", font=font)
        pen.rectangle((0, 0, size - 1, size - 1), outline=(160, 160, 160))
        panels.append(np.asarray(panel))
    return np.concatenate(panels, axis=1)
