"""A box to the mask of what is in it, with segment-anything."""

from typing import TYPE_CHECKING

import numpy as np

from mudi.records import Box

if TYPE_CHECKING:
    from segment_anything import SamPredictor


def segment(segmenter: "SamPredictor", image: np.ndarray, box: Box) -> np.ndarray:
    """The best single mask, bool (H, W), for a box in an image uint8 (H, W, 3); `multimask_output=False` as in MuDI's code."""
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"box {box} is empty; give (x0, y0, x1, y1) in pixels with x0 < x1 and y0 < y1")
    segmenter.set_image(image)
    masks, _, _ = segmenter.predict(box=np.array(box), multimask_output=False)
    return masks[0]
