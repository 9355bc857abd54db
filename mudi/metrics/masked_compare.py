"""Detect-and-Compare of subjects without what is behind them: boxes and photos are cut out by masks before they are embedded.

Departure from MuDI's evaluation, which compares boxes with whole photos: the place that both show is no likeness of a subject.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from mudi.metrics.detect_and_compare import FORMS, DetectAndCompare
from mudi.model_facts import EMBEDDER_KINDS
from mudi.records import Box, Combination, Prompt, Reference, Score
from mudi.user_files.photos import read_both, read_image

BACKGROUND = 255


def cut_out(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The part of uint8 (H, W, 3) around a mask (H, W), white off it, on a white square; the whole image where the mask is empty."""
    from mudi.embed import square_crop

    if not mask.any():
        return image
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    shown = np.where(mask[..., None], image, BACKGROUND).astype(np.uint8)
    return square_crop(shown, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))


def masked_photo(reference: Reference) -> np.ndarray:
    """The subject of a photo cut out by its mask; whole where it has none."""
    if reference.mask_path is None:
        return read_image(reference.image_path)
    return cut_out(*read_both(reference.image_path, reference.mask_path))


class MaskedCompare:
    """Images of a combination to Detect-and-Compare's scores of what the segmenter finds in each box."""

    MODELS: ClassVar[tuple[str, ...]] = ("detector", "embedders", "segmenter")
    NAMES: ClassVar[dict[str, bool]] = {f"masked_{form}_{kind}": True for kind in EMBEDDER_KINDS for form in FORMS}

    def __init__(
        self, device: str = "cpu", detector: str = "miniature", embedders: Mapping[str, str] | None = None,
        segmenter: str = "miniature", threshold: float = 0.4,
    ):  # fmt: skip
        """As `DetectAndCompare`, and the segmenter that masks a box."""
        from mudi.models import load_segmenter

        sam = load_segmenter(segmenter, device)

        def cut(image: np.ndarray, box: Box) -> np.ndarray:
            from mudi.segment import segment

            x0, y0, x1, y1 = (round(edge) for edge in box)
            inside = np.zeros(image.shape[:2], bool)
            inside[max(y0, 0) : y1, max(x0, 0) : x1] = True
            return cut_out(image, segment(sam, image, box) & inside)

        forms = {f"masked_{name}": form for name, form in FORMS.items()}
        self.compared = DetectAndCompare(device, detector, embedders, threshold, forms=forms, cut=cut, photo=masked_photo)

    def __call__(self, images: Sequence[np.ndarray], prompt: Prompt, combination: Combination) -> list[tuple[Score, ...]]:
        """For each image uint8 (H, W, 3), its scores. The prompt plays no part."""
        return self.compared(images, prompt, combination)
