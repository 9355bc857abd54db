"""A box, or points, to the mask of what is there, with segment-anything."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mudi.records import Box

if TYPE_CHECKING:
    from segment_anything import SamPredictor


def segment(segmenter: "SamPredictor", image: np.ndarray, box: Box | None = None, points: Sequence[tuple[float, float]] = ()) -> np.ndarray:
    """The best single mask, bool (H, W), in an image uint8 (H, W, 3); `multimask_output=False` as in MuDI's code.

    What to mask is said by a box, by points (x, y) that lie on it, or by both, in pixels.
    """
    if box is None and not len(points):
        raise ValueError("neither box nor points are given; say by one of them what to mask")
    if box is not None and not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"box {box} is empty; give (x0, y0, x1, y1) in pixels with x0 < x1 and y0 < y1")
    segmenter.set_image(image)
    masks, _, _ = segmenter.predict(
        point_coords=np.array(points, dtype=float) if len(points) else None,
        point_labels=np.ones(len(points), dtype=int) if len(points) else None,
        box=None if box is None else np.array(box),
        multimask_output=False,
    )
    return masks[0]
