"""A mask on its photo: colour inside, grey outside, lines where boxes are, and the size asked for."""

import numpy as np
import pytest

from pipeline.prepare.mask_picture import BY_HAND, DETECTED, EDGE, mask_picture

PHOTO = np.zeros((40, 80, 3), np.uint8) + np.array((200, 120, 40), np.uint8)


@pytest.mark.parametrize(("side", "size"), [(20, (20, 10)), (80, (80, 40)), (400, (400, 200))])
def test_the_longer_side_is_as_asked_and_the_proportions_stay(side, size):
    assert mask_picture(PHOTO, None, side).size == size


def test_outside_the_mask_all_is_grey_and_inside_the_colour_is_told():
    mask = np.zeros((40, 80), bool)
    mask[10:30, 20:60] = True
    pixels = np.asarray(mask_picture(PHOTO, mask, 80)).astype(int)
    outside, inside = pixels[:5].reshape(-1, 3), pixels[15:25, 25:55].reshape(-1, 3)
    assert (outside == outside[:, :1]).all()
    assert (inside[:, 0] > inside[:, 1] + 50).all()
    assert tuple(pixels[20, 60]) == EDGE


def test_boxes_by_hand_and_by_the_detector_have_their_colours_and_stay_within_the_picture():
    picture = mask_picture(PHOTO, None, 80, detected=[(-50.0, 5.0, 30.0, 30.0)], by_hand=(40.0, 5.0, 500.0, 500.0))
    assert {DETECTED, BY_HAND} <= set(map(tuple, np.asarray(picture).reshape(-1, 3)))
    assert tuple(np.asarray(picture)[39, 79]) == BY_HAND
