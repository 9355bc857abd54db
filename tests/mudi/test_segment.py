"""Segmentation: a mask of the image's own size; folders that keep a Sam's sizes and weights, of any width."""

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, build_sam_vit_h

from mudi.checkpoints.sam_folder import build_sam, read_sam, save_segmenter, sizes_of
from mudi.miniature import architectures
from mudi.segment import segment


@pytest.fixture
def sam():
    torch.manual_seed(0)
    return architectures.sam().eval()


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (24, 48, 3), dtype=np.uint8)


def test_a_saved_sam_gives_the_same_mask_in_the_frame_of_a_wide_image(sam, image, tmp_path):
    save_segmenter(tmp_path, sam)
    mask = segment(SamPredictor(read_sam(tmp_path).eval()), image, (4.0, 2.0, 30.0, 20.0))
    assert mask.dtype == bool
    assert mask.shape == image.shape[:2]
    assert 0 < mask.mean() < 1
    np.testing.assert_array_equal(mask, segment(SamPredictor(sam), image, (4.0, 2.0, 30.0, 20.0)))


def test_a_mask_depends_on_its_image_and_box_alone(sam, image):
    """A predictor keeps the last image; asking for another one in between must change nothing."""
    segmenter, box = SamPredictor(sam), (4.0, 2.0, 30.0, 20.0)
    first = segment(segmenter, image, box)
    segment(segmenter, 255 - image[:, :20], (0.0, 0.0, 5.0, 5.0))
    np.testing.assert_array_equal(segment(segmenter, image, box), first)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9), (float("nan"), 0, 1, 1)])
def test_an_empty_box_is_refused(sam, image, box):
    with pytest.raises(ValueError, match="is empty; give"):
        segment(SamPredictor(sam), image, box)


def test_the_sizes_of_vit_h_are_read_off_its_modules():
    """ViT-H: 1024 px, patch 16, width 1280, 32 blocks of 16 heads, windows of 14 with global attention in blocks 7, 15, 23
    and 31 (arXiv 2304.02643); a Sam built from the sizes has the same weights, name by name and shape by shape."""
    with torch.device("meta"):
        published = build_sam_vit_h()
        sizes = sizes_of(published)
        rebuilt = build_sam(sizes)
    assert (sizes.image_size, sizes.patch_size, sizes.encoder_width, sizes.encoder_depth) == (1024, 16, 1280, 32)
    assert (sizes.window_size, sizes.global_blocks) == (14, (7, 15, 23, 31))
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in published.state_dict().items()}
    assert sizes_of(rebuilt) == sizes


def test_a_config_that_describes_no_sam_is_refused(sam, tmp_path):
    save_segmenter(tmp_path, sam)
    (tmp_path / "config.json").write_text('{"image_size": 64}')
    with pytest.raises(ValueError, match=r"config\.json does not describe a Sam .*write the folder with save_segmenter"):
        read_sam(tmp_path)
