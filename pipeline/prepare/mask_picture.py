"""A photo with its mask and boxes drawn on it, small: the outside of the mask greyed, its edge and the boxes as lines."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from mudi.records import Box

EDGE, DETECTED, BY_HAND = (255, 0, 170), (0, 229, 255), (255, 200, 0)
TINT = 0.12
GREYED = 0.55


def mask_picture(
    photo: np.ndarray, mask: np.ndarray | None, side: int, detected: Sequence[Box] = (), by_hand: Box | None = None,
    points: Sequence[tuple[float, float]] = (),
) -> Image.Image:  # fmt: skip
    """A photo, uint8 (H, W, 3), `side` pixels along its longer side: tinted and outlined within its mask, bool (H, W),
    and grey outside. The detector's boxes, and box and points given by hand, are in the photo's pixels."""
    height, width = photo.shape[:2]
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Pixels of a small picture stay what they are; a large one is averaged.
    resampling = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    picture = Image.fromarray(photo).resize(size, resampling, reducing_gap=2.0)
    if mask is not None:
        picture = _show_mask(picture, np.asarray(Image.fromarray(mask).convert("L").resize(size, Image.Resampling.BOX)) >= 128)
    draw = ImageDraw.Draw(picture)
    lines = [(box, DETECTED) for box in detected] + ([(by_hand, BY_HAND)] if by_hand else [])
    for box, colour in lines:
        corners = [min(max(round(x * scale), 0), limit - 1) for x, limit in zip(box, size * 2, strict=True)]
        for grow, line in ((1, (0, 0, 0)), (0, colour)):
            x0, y0, x1, y1 = corners
            draw.rectangle((x0 - grow, y0 - grow, x1 + grow, y1 + grow), outline=line, width=3 + 2 * grow)
    for x, y in points:
        draw.ellipse([x * scale - 4, y * scale - 4, x * scale + 4, y * scale + 4], fill=BY_HAND, outline=(0, 0, 0))
    return picture


def _show_mask(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    pixels = np.asarray(picture).astype(np.float32)
    grey = pixels.mean(axis=2, keepdims=True) * GREYED
    inside = pixels * (1 - TINT) + np.array(EDGE, dtype=np.float32) * TINT
    shown = np.where(mask[..., None], inside, grey)
    outer = ndimage.binary_dilation(mask, iterations=2) & ~mask
    shown[outer] = EDGE
    return Image.fromarray(shown.round().astype(np.uint8))
