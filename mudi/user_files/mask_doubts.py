"""What looks wrong with a mask, in words, for a person to look at; needs no model."""

import numpy as np

from mudi.augment import tight_box
from mudi.records import Box

# The 79 published masks cover 6 to 62 % of their photos, the largest piece of each but one is 98.6 % or more of it,
# and none touches all four borders.
LEAST_AREA, LARGEST_AREA = 0.01, 0.95
LEAST_LARGEST_PIECE = 0.95
LEAST_OVERLAP = 0.5


def doubts_about(mask: np.ndarray, box: Box | None = None) -> tuple[str, ...]:
    """What looks wrong with a mask, bool (H, W) with at least one true pixel, that should fill `box`; one sentence each."""
    from scipy import ndimage

    doubts = []
    area = mask.mean()
    if not LEAST_AREA <= area <= LARGEST_AREA:
        doubts.append(f"the mask covers {100 * area:.1f} % of the photo")
    pieces, count = ndimage.label(mask, structure=np.ones((3, 3)))
    largest = np.bincount(pieces.ravel())[1:].max() / mask.sum()
    if largest < LEAST_LARGEST_PIECE:
        doubts.append(f"the mask is in {count} pieces, the largest {100 * largest:.0f} % of it")
    if mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any():
        doubts.append("the mask touches all four borders, as a background does")
    if box is not None and (shared := overlap(tight_box(mask), box)) < LEAST_OVERLAP:
        doubts.append(f"the mask does not fill its box: they overlap by {100 * shared:.0f} % (IoU)")
    return tuple(doubts)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)
