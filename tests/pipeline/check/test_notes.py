"""Notes on photos that a run accepts: counted by hand."""

import numpy as np
import pytest
from PIL import Image

from pipeline.check.notes import of_mask, of_pictures


def levels(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A black mask of 100x100 with white boxes (x0, y0, x1, y1)."""
    mask = np.zeros((100, 100), np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 255
    return mask


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([(10, 10, 60, 60)], []),
        ([(0, 0, 10, 10)], []),
        ([(0, 0, 9, 10)], ["covers 0.90 %"]),
        ([(0, 0, 40, 40), (60, 60, 90, 90)], ["in 2 parts"]),
        ([(0, 0, 40, 40), (60, 60, 65, 64)], ["in 2 parts"]),
        ([(0, 0, 40, 40), (60, 60, 64, 64)], []),
    ],
)
def test_a_mask_is_noted_below_one_percent_and_in_parts_of_one_percent_of_it(boxes, said):
    """20 of 1,620 white pixels are 1.23 % and a part; 16 of 1,616 are 0.99 % and a speckle."""
    notes = of_mask(levels(*boxes))
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))


def test_levels_between_black_and_white_are_noted():
    mask = levels((10, 10, 60, 60))
    mask[10, 10] = 254
    assert ["levels between" in note for note in of_mask(mask)] == [True]


def test_a_photo_is_noted_for_a_side_below_256_and_for_one_colour():
    coloured = Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 300, 3), np.uint8))
    assert of_pictures(coloured, None) == ()
    assert "300x255 pixels" in of_pictures(coloured.crop((0, 0, 300, 255)), None)[0]
    assert "all one colour, (1, 2, 3)" in of_pictures(Image.new("RGB", (300, 300), (1, 2, 3)), None)[0]
