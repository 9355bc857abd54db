"""Seg-Mix: numbers that follow from the listing by hand, and laws of every composition."""

import numpy as np
import pytest

from mudi.augment import Segment, cut_mix, seg_mix

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def block(height: int, width: int, colour=RED) -> Segment:
    """A subject that fills its bounding box, two pixels inside a grey photo."""
    image = np.full((height + 4, width + 4, 3), 128, dtype=np.uint8)
    mask = np.zeros(image.shape[:2], dtype=bool)
    mask[2:-2, 2:-2] = True
    image[mask] = colour
    return Segment(image, mask)


def disc(colour) -> Segment:
    y, x = np.mgrid[:40, :40] - 20
    mask = x**2 + y**2 < 18**2
    return Segment(np.where(mask[..., None], np.uint8(colour), np.uint8(90)), mask)


def extent(box) -> tuple[float, float]:
    return box[2] - box[0], box[3] - box[1]


def compositions(segments, count: int, size: int, **options):
    return [seg_mix(segments, np.random.default_rng(seed), size=size, **options) for seed in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("size", [48, 200])
def test_masks_partition_the_subjects_and_the_rest_is_background(count, size):
    for composition in compositions([disc((40 * i, 0, 200)) for i in range(count)], 30, size, background=(1, 2, 3)):
        masks = np.stack(composition.subject_masks)
        assert masks.sum(axis=0).max() == 1
        assert np.array_equal(masks.any(axis=0), composition.mask)
        assert (composition.image[~composition.mask] == (1, 2, 3)).all()
        for mask, (x0, y0, x1, y1) in zip(masks, composition.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)


@pytest.mark.parametrize("colours", [(RED, GREEN), (RED, GREEN, BLUE)])
def test_subjects_are_reported_in_the_order_given(colours):
    """Resampling mixes a disc's rim with its photo, so the middle colour of its visible pixels decides."""
    for composition in compositions([disc(colour) for colour in colours], 30, 200):
        for mask, colour in zip(composition.subject_masks, colours, strict=True):
            assert tuple(np.median(composition.image[mask], axis=0)) == colour


def test_at_the_largest_scale_a_subject_fills_its_column():
    """A 100 x 200 subject fits 480 x 992 by min(4.8, 4.96) = 4.8: 480 x 960; a 30 x 496 one by 2: 60 x 992; half of that 30 x 496."""
    large = seg_mix([block(200, 100), block(496, 30)], np.random.default_rng(4), scales={0: 1.0, 1: 1.0})
    assert [extent(box) for box in large.boxes] == [(480, 960), (60, 992)]
    thin = seg_mix([block(496, 30), block(496, 30)], np.random.default_rng(0), scales={0: 1.0, 1: 0.5})
    assert [extent(box) for box in thin.boxes] == [(60, 992), (30, 496)]


def test_a_subject_of_the_column_size_is_copied_pixel_by_pixel():
    """480 x 992 at scale 1 is resized by exactly 1. Its last row and column survive, which the released code drops."""
    image = np.random.default_rng(0).integers(0, 255, (996, 484, 3), dtype=np.uint8)
    mask = np.zeros((996, 484), dtype=bool)
    mask[2:-2, 2:-2] = True
    composition = seg_mix([Segment(image, mask), block(992, 50)], np.random.default_rng(0), scales={0: 1.0, 1: 1.0})
    x0, y0, x1, y1 = map(int, composition.boxes[0])
    assert (x1 - x0, y1 - y0) == (480, 992)
    visible = composition.subject_masks[0][y0:y1, x0:x1]
    assert visible.mean() > 0.85
    assert (composition.image[y0:y1, x0:x1][visible] == image[mask].reshape(992, 480, 3)[visible]).all()


def test_random_scales_lie_between_three_quarters_and_one():
    """A 31 x 992 subject never overlaps another (2 x (31 + 256) < 1024), so its height is 992 s, rounded down."""
    heights = [extent(box)[1] for c in compositions([block(992, 31)] * 2, 60, 1024) for box in c.boxes]
    assert 743 <= min(heights) < 775
    assert 960 < max(heights) <= 992


def test_a_pair_keeps_margins_of_1_to_256_pixels():
    lefts, rights = [], []
    for composition in compositions([block(992, 31)] * 2, 150, 1024):
        left, right = sorted(composition.boxes)
        lefts.append(left[0])
        rights.append(1024 - right[2])
    for margins in (lefts, rights):
        assert 1 <= min(margins) < 20
        assert 236 < max(margins) <= 256


def test_side_and_depth_of_a_pair_are_independent_coins():
    """Equal squares show equal areas unless one covers the other. Each of the four outcomes then has a quarter of
    the overlapping draws; five standard deviations of that binomial count are allowed."""
    outcomes = []
    for composition in compositions([block(30, 30)] * 2, 1200, 48, scales={0: 1.0, 1: 1.0}):
        first, second = (mask.sum() for mask in composition.subject_masks)
        if first != second:
            outcomes.append((composition.boxes[0][0] < composition.boxes[1][0], first < second))
    counts = [outcomes.count((left, behind)) for left in (True, False) for behind in (True, False)]
    assert len(outcomes) > 200
    assert max(abs(count - len(outcomes) / 4) for count in counts) < 5 * (len(outcomes) * 3 / 16) ** 0.5


def test_three_subjects_take_turns_in_the_columns_and_fit_them():
    """Each column is 1024 / 3 - 32 = 309.3 wide and 992 high; a square subject at scale 1 is 309 pixels wide."""
    segments = [disc(RED), disc(GREEN), disc(BLUE)]
    orders = set()
    for composition in compositions(segments, 60, 1024, scales={0: 1.0, 1: 1.0, 2: 1.0}):
        orders.add(tuple(np.argsort([box[0] for box in composition.boxes])))
        assert max(max(extent(box)) for box in composition.boxes) <= 309
    assert len(orders) == 6


def test_every_subject_stays_in_sight():
    for composition in compositions([disc((30 * i, 0, 0)) for i in range(6)], 200, 48):
        assert all(mask.any() for mask in composition.subject_masks)


def test_the_generator_alone_decides():
    segments = [disc(RED), disc(GREEN)]
    first, same, other = (seg_mix(segments, np.random.default_rng(seed), size=64) for seed in (7, 7, 8))
    assert np.array_equal(first.image, same.image)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (1, {}, "cannot mix 1 subjects"),
        (40, {"size": 48}, "fewer subjects"),
        (2, {"scales": {0: 1.0}}, "every subject index 0..1"),
        (2, {"scales": {0: 1.0, 1: 1.5}}, "a share in"),
    ],
)
def test_impossible_mixes_are_refused(count, options, message):
    with pytest.raises(ValueError, match=message):
        seg_mix([disc(RED)] * count, np.random.default_rng(0), **options)


def test_a_segment_needs_a_subject():
    with pytest.raises(ValueError, match="mask is empty"):
        Segment(np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((4, 4), dtype=bool))


def test_without_overlap_no_subject_loses_a_pixel():
    """At scale 1 each block is 480 of 1024 wide, so random margins make most placements overlap; none does here."""
    segments = [block(40, 40, RED), block(40, 40, GREEN)]
    full = 45 * 45  # 480 / 1024 of 96 pixels
    loose = compositions(segments, 40, 96, scales={0: 1.0, 1: 1.0})
    apart = compositions(segments, 40, 96, scales={0: 1.0, 1: 1.0}, overlap=False)
    assert any(mask.sum() < full for c in loose for mask in c.subject_masks)
    assert all(mask.sum() == full for c in apart for mask in c.subject_masks)


def test_cut_mix_is_the_central_halves_of_both_photos():
    """A 30 x 30 photo in three vertical bands of 10, brought to 60: its central 30 columns hold 5 of band 1, 20 of band 2, 5 of band 3."""
    bands = np.repeat(np.uint8([[10, 100, 200]]), 10, axis=1)[..., None].repeat(30, 0).repeat(3, 2)
    flat = np.full((30, 30, 3), 50, np.uint8)
    made = cut_mix([bands, flat], np.random.default_rng(0), size=60)
    x0, y0, x1, y1 = map(int, made.boxes[0])
    assert (x1 - x0, y1 - y0) == (30, 60)
    half = made.image[:, x0:x1, 0].astype(int)
    assert np.abs(half[:, 12:18] - 100).max() <= 2
    assert half[:, 0].max() < 60 < 150 < half[:, -1].min()
    assert (made.image[made.subject_masks[1]] == 50).all()


def test_cut_mix_leaves_no_pixel_to_a_background_and_puts_either_photo_left():
    """The columns partition the canvas, for three photos as well; over 40 draws each photo is on the left in some."""
    photos = [np.full((20, 30, 3), value, np.uint8) for value in (10, 20, 30)]
    for count in (2, 3):
        mixes = [cut_mix(photos[:count], np.random.default_rng(seed), size=50) for seed in range(40)]
        assert all(np.stack(m.subject_masks).sum(0).min() == 1 == np.stack(m.subject_masks).sum(0).max() for m in mixes)
        assert {int(m.image[0, 0, 0]) for m in mixes} == {10, 20, 30}.intersection({10 * (i + 1) for i in range(count)})
