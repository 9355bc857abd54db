"""Seg-Mix: cut subjects out of their photos and put them side by side on a plain canvas. Cut-Mix: put photos side by side.

Source: MuDI (arXiv 2404.04243), section 3 and Algorithm 1. Where the listing and the released code
differ, the code is followed: white background, margins from 1 pixel, front subject drawn at random.
All lengths are given for a canvas of 1024 pixels and shrink or grow with `size`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mudi.records import CANVAS, Box

GAP = 32
LARGEST_MARGIN = 256
SMALLEST_SCALE = 0.75
MASK_THRESHOLD = 122


@dataclass(frozen=True)
class Segment:
    """A photo with the pixels that show its subject. image: uint8 (h, w, 3); mask: bool (h, w), not empty."""

    image: np.ndarray
    mask: np.ndarray

    def __post_init__(self):
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(f"a segment's image must be uint8 (h, w, 3), not {self.image.dtype} {self.image.shape}")
        if self.mask.dtype != np.bool_ or self.mask.shape != self.image.shape[:2]:
            raise ValueError(f"a segment's mask must be bool {self.image.shape[:2]} as its image, not {self.mask.dtype} {self.mask.shape}")
        if not self.mask.any():
            raise ValueError("a segment's mask is empty; mark at least one pixel of the subject")


@dataclass(frozen=True)
class Composition:
    """Subjects on one canvas. image: uint8 (size, size, 3); mask: bool (size, size), their union.

    subject_masks: one bool (size, size) a subject, visible pixels only, hence disjoint; boxes: the tight
    boxes around these. Both are in the order of the segments given, whatever their place and depth.
    """

    image: np.ndarray
    mask: np.ndarray
    subject_masks: tuple[np.ndarray, ...]
    boxes: tuple[Box, ...]


def seg_mix(
    segments: Sequence[Segment], rng: np.random.Generator, size: int = CANVAS, scales: Mapping[int, float] | None = None,
    background: tuple[int, int, int] = (255, 255, 255), overlap: bool = True,
) -> Composition:  # fmt: skip
    """A random composition of two or more subjects, each cut to its mask, resized and pasted with hard edges.

    Each subject is resized by s times the largest factor with which it fits its column, with s drawn
    from U(0.75, 1), or fixed as `scales[index]` in (0, 1]. `scales` names every index: the released
    code knows two subjects only and fails with a KeyError on a third. Two subjects are placed exactly
    as in the released code (`_place_pair`), more in columns (`_place_columns`). Without `overlap` the
    placement is drawn until no subject covers a pixel of another.
    """
    count = len(segments)
    if count < 2:
        raise ValueError(f"cannot mix {count} subjects; give two or more")
    slot = (size / count - GAP * size / CANVAS, size - GAP * size / CANVAS)
    if slot[0] < 1:
        raise ValueError(f"cannot mix {count} subjects on {size} pixels: less than one pixel each; use fewer subjects or a larger canvas")
    if scales is not None and (set(scales) != set(range(count)) or not all(0 < share <= 1 for share in scales.values())):
        raise ValueError(f"scales is {dict(scales)}; give every subject index 0..{count - 1} a share in (0, 1]")

    pieces = []
    for index, segment in enumerate(segments):
        share = rng.uniform(SMALLEST_SCALE, 1) if scales is None else scales[index]
        pieces.append(_resize_to_fit(crop_to_mask(segment), slot, share))
    shapes = [piece.mask.shape for piece in pieces]
    place = _place_pair if count == 2 else _place_columns
    while True:
        image, masks = paste(pieces, *place(shapes, rng, size), size, background)
        apart = overlap or masks.sum() == sum(piece.mask.sum() for piece in pieces)
        # A column's jitter can bring a subject right behind its neighbour; a prompt that names both needs both in sight.
        if apart and masks.any(axis=(1, 2)).all():
            return Composition(image, masks.any(axis=0), tuple(masks), tuple(tight_box(mask) for mask in masks))


def cut_mix(photos: Sequence[np.ndarray], rng: np.random.Generator, size: int = CANVAS) -> Composition:
    """Two or more whole photos side by side in random order, each the centre of itself, backgrounds and all.

    photos: uint8 (h, w, 3). Each is brought to a short side of `size` and cropped to its central column of
    size / N pixels (SVDiff, arXiv 2303.11305, as MuDI's unused code has it). Nothing says where in a column
    the subject is, so `subject_masks` and `boxes` are the columns, in the order of the photos given.
    """
    count = len(photos)
    if count < 2 or size // count < 1:
        raise ValueError(f"cannot mix {count} photos on {size} pixels; give two or more, and at least one pixel each")
    edges = [round(i * size / count) for i in range(count + 1)]
    image, masks = np.zeros((size, size, 3), np.uint8), np.zeros((count, size, size), bool)
    for index, column in enumerate(rng.permutation(count)):
        photo = photos[index]
        left, right = edges[column], edges[column + 1]
        scale = size / min(photo.shape[:2])
        width, height = (max(size, round(length * scale)) for length in (photo.shape[1], photo.shape[0]))
        x, y = (width - (right - left)) // 2, (height - size) // 2
        resized = Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS)
        image[:, left:right] = np.asarray(resized)[y : y + size, x : x + right - left]
        masks[index, :, left:right] = True
    return Composition(image, masks.any(axis=0), tuple(masks), tuple(tight_box(mask) for mask in masks))


def crop_to_mask(segment: Segment) -> Segment:
    """The segment within its mask's bounding box; the released code loses the last row and column."""
    x0, y0, x1, y1 = map(int, tight_box(segment.mask))
    return Segment(segment.image[y0:y1, x0:x1], segment.mask[y0:y1, x0:x1])


def _resize_to_fit(segment: Segment, slot: tuple[float, float], share: float) -> Segment:
    height, width = segment.mask.shape
    factor = share * min(slot[0] / width, slot[1] / height)
    return resize(segment, (max(1, int(width * factor)), max(1, int(height * factor))))


def resize(segment: Segment, target: tuple[int, int]) -> Segment:
    """The segment at `target` (width, height) in pixels, mask binarised again; ValueError if no pixel of the mask is left."""
    image = np.asarray(Image.fromarray(segment.image).resize(target))
    mask = np.asarray(Image.fromarray(segment.mask.astype(np.uint8) * 255).resize(target)) > MASK_THRESHOLD
    if not mask.any():
        height, width = segment.mask.shape
        raise ValueError(f"a mask of {width}x{height} pixels vanishes at {target[0]}x{target[1]}; its subject is too thin, mark more of it")
    return Segment(image, mask)


def _place_pair(shapes: Sequence[tuple[int, int]], rng: np.random.Generator, size: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Corners (x, y) of two subjects and their depth order, back first.

    One coin picks who is left, a second, independent one who is in front. Margins to the canvas edge are
    uniform in 1..256 and heights anywhere, so the two overlap when margins and widths exceed the canvas.
    """
    largest_margin = max(1, round(LARGEST_MARGIN * size / CANVAS))
    left, right = rng.permutation(2)
    x = {left: int(rng.integers(1, largest_margin, endpoint=True))}
    x[right] = size - int(rng.integers(1, largest_margin, endpoint=True)) - shapes[right][1]
    corners = [(x[i], int(rng.integers(0, size - shapes[i][0], endpoint=True))) for i in range(2)]
    return corners, rng.permutation(2)


def _place_columns(shapes: Sequence[tuple[int, int]], rng: np.random.Generator, size: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Corners (x, y) of N subjects in N equal columns in random order, and a random depth order, back first.

    Each is centred in its column, moved sideways by up to 512 / N pixels and kept on the canvas. The
    paper shows more than two subjects but publishes no layout; this one has the pair's reach at N = 2.
    """
    count = len(shapes)
    reach = max(1, round(2 * LARGEST_MARGIN / count * size / CANVAS))
    corners = []
    for (height, width), column in zip(shapes, rng.permutation(count), strict=True):
        x = round((column + 0.5) * size / count - width / 2) + int(rng.integers(-reach, reach, endpoint=True))
        corners.append((min(max(x, 0), size - width), int(rng.integers(0, size - height, endpoint=True))))
    return corners, rng.permutation(count)


def paste(
    pieces: Sequence[Segment], corners: Sequence[tuple[int, int]], depth: np.ndarray, size: int, background: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The canvas and the visible masks, bool (N, size, size), of pieces pasted back to front."""
    image = np.full((size, size, 3), background, dtype=np.uint8)
    masks = np.zeros((len(pieces), size, size), dtype=bool)
    for index in depth:
        (x, y), (height, width) = corners[index], pieces[index].mask.shape
        image[y : y + height, x : x + width][pieces[index].mask] = pieces[index].image[pieces[index].mask]
        masks[:, y : y + height, x : x + width] &= ~pieces[index].mask
        masks[index, y : y + height, x : x + width] = pieces[index].mask
    return image, masks


def tight_box(mask: np.ndarray) -> Box:
    """The smallest box around the pixels of a mask that has any."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
