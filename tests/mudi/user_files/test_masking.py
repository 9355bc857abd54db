"""Masks of photos: what is asked of the segmenter, what rendered truth says of the answer, and what is doubted."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import ROOT
from segment_anything import SamPredictor
from shipped_pairs import HELD_OUT_PAIRS

from mudi import models
from mudi.miniature.render import pair_scene, single_scene
from mudi.miniature.world import BACKGROUNDS, parse_identity
from mudi.segment import segment
from mudi.user_files.mask_doubts import doubts_about, overlap
from mudi.user_files.masking import Asked, cut_out, grown


@pytest.fixture(scope="module")
def judges():
    return models.load_detector("miniature"), models.load_segmenter("miniature")


@pytest.fixture
def published():
    """MuDI's folders of photos and masks, where the benchmark's run file expects them or MUDI_PUBLISHED says."""
    folder = Path(os.environ.get("MUDI_PUBLISHED", ROOT / "data" / "mudi"))
    if not folder.is_dir():
        pytest.skip(f"the published photos are not at {folder}; set MUDI_PUBLISHED to their folder")
    return folder


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_a_box_grows_by_a_twentieth_of_the_image_on_each_side():
    """200 wide and 100 high: 10 to the left and right, 5 up and down, and not past the image."""
    assert grown((30, 20, 60, 40), (100, 200)) == (20, 15, 70, 45)
    assert grown((4, 98, 195, 99), (100, 200)) == (0, 93, 200, 100)


def test_boxes_overlap_by_their_shared_part_of_both():
    """Two squares of 4 px that share 2 px cover 6; apart they share nothing."""
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 2, 2), (5, 5, 7, 7)) == 0
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1


def painted(*rectangles):
    """A mask of 100 by 100 pixels with these (x0, y0, x1, y1) filled."""
    mask = np.zeros((100, 100), dtype=bool)
    for x0, y0, x1, y1 in rectangles:
        mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    ("rectangles", "box", "said"),
    [
        ([(10, 10, 60, 90)], (8, 8, 62, 92), None),
        ([(10, 10, 19, 19)], None, "covers 0.8 % of the photo"),
        ([(0, 1, 100, 100)], None, "covers 99.0 % of the photo"),
        ([(10, 10, 40, 40), (60, 60, 80, 75)], None, "in 2 pieces, the largest 75 % of it"),
        ([(10, 10, 60, 60), (80, 80, 85, 85)], None, None),
        ([(0, 45, 100, 55), (45, 0, 55, 100)], None, "touches all four borders"),
        ([(10, 10, 30, 30)], (10, 10, 50, 50), "overlap by 25 %"),
    ],
)
def test_a_doubt_is_raised_where_the_mask_gives_cause(rectangles, box, said):
    """By hand: 9 x 9 = 81 of 10,000 px; 9,900 px; 900 of 900 + 300 px; a speck of 1 %; a cross; 400 of 1,600 px of the box."""
    doubts = doubts_about(painted(*rectangles), box)
    if said is None:
        assert doubts == ()
    else:
        assert said in doubts[0]


def test_masks_of_rendered_photos_are_the_rendered_masks(judges):
    """Held-out subjects, one a picture, 48 in all. Measured: 46 masks, mean IoU 0.975, least 0.957."""
    rng = np.random.default_rng(7)
    scenes = [
        single_scene(rng, identity, background)
        for first, second, _ in HELD_OUT_PAIRS.values()
        for identity in (parse_identity(first), parse_identity(second))
        for background in rng.permutation(BACKGROUNDS)[:3]
    ]
    cutouts = cut_out(*judges, [scene.image for scene in scenes], [Asked(query=scene.identities[0].class_noun) for scene in scenes])
    values = [iou(cutout.mask, scene.masks[0]) for cutout, scene in zip(cutouts, scenes, strict=True) if cutout.mask is not None]
    print(f"{len(values)} of {len(scenes)} masks, mean IoU {np.mean(values):.4f}, least {min(values):.4f}")
    assert len(values) >= 0.9 * len(scenes)
    assert np.mean(values) >= 0.95


def test_two_subjects_give_no_mask_but_two_boxes_that_do_as_a_hint(judges):
    """Two dogs in a picture of 48 px answer one query twice; each box, copied by hand, cuts out the dog it is around."""
    first, second, _ = HELD_OUT_PAIRS["two_dogs_a"]
    scene = pair_scene(np.random.default_rng(3), parse_identity(first), parse_identity(second), "white")
    (unsure,) = cut_out(*judges, [scene.image], [Asked(query="dog")])
    assert unsure.mask is None
    assert unsure.doubts[0].startswith('2 boxes for "dog": 0.')
    left, right = sorted((found.box_xyxy for found in unsure.boxes), key=lambda box: box[0])
    hinted = cut_out(*judges, [scene.image] * 2, [Asked(query="dog", box=left), Asked(query="dog", box=right)])
    assert [iou(cutout.mask, mask) > 0.8 for cutout, mask in zip(hinted, scene.masks, strict=True)] == [True, True]


def test_a_large_photo_has_the_box_and_mask_of_its_small_self(judges):
    """A scene enlarged 13 times, to 624 pixels, is averaged over 6 x 6 to 104 before detection: its box, in its own pixels, is 13
    times that of the scene. The mask, whose logits are enlarged to 624 pixels, differs a little at the edge (0.90 at the least
    of 64 photos of 1024 pixels)."""
    scene = single_scene(np.random.default_rng(5), parse_identity("rabbit green blue"), "beach")
    large = scene.image.repeat(13, axis=0).repeat(13, axis=1)
    small_cutout, large_cutout = cut_out(*judges, [scene.image, large], [Asked(query="rabbit")] * 2)
    box = tuple(13 * x for x in small_cutout.boxes[0].box_xyxy)
    assert overlap(large_cutout.boxes[0].box_xyxy, box) > 0.8
    assert iou(large_cutout.mask, scene.masks[0].repeat(13, axis=0).repeat(13, axis=1)) > 0.85


def test_nothing_found_is_said(judges):
    scene = single_scene(np.random.default_rng(0), parse_identity("dog pink red hat purple"), "grass")
    (cutout,) = cut_out(*judges, [scene.image], [Asked(query="lighthouse")])
    assert cutout.mask is None
    assert cutout.doubts[0].startswith('no box for "lighthouse" above 0.2')


def test_points_are_asked_of_segment_anything_as_foreground(judges):
    """The same as its own predictor's answer to positive points."""
    image = single_scene(np.random.default_rng(1), parse_identity("cat yellow red hat blue"), "snow").image
    points = [(20.0, 30.0), (24.0, 20.0)]
    predictor = SamPredictor(judges[1].model)
    predictor.set_image(image)
    expected, _, _ = predictor.predict(point_coords=np.array(points), point_labels=np.array([1, 1]), multimask_output=False)
    np.testing.assert_array_equal(segment(judges[1], image, points=points), expected[0])
    with pytest.raises(ValueError, match="neither box nor points"):
        segment(judges[1], image)


def test_a_threshold_outside_its_range_is_refused(judges):
    with pytest.raises(ValueError, match=r"threshold 2 is outside 0\.\.1"):
        cut_out(*judges, [], [], threshold=2)


@pytest.mark.slow
def test_of_the_published_masks_only_one_is_doubted(published):
    """One weimaraner is in two pieces; nothing else among the 79 masks looks wrong."""
    doubted = {}
    for path in sorted(published.glob("*_and_*/mask_*.jpg")):
        mask = np.array(Image.open(path).convert("L")) > 128
        if doubts := doubts_about(mask):
            doubted[f"{path.parent.name}/{path.name}"] = doubts
    assert list(doubted) == ["cat2_and_pet_dog1/mask_b01.jpg"]
