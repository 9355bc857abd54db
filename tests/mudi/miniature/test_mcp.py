"""The rendered counterparts of the report's subjects: a layout that is asked for in words, and a style."""

from pathlib import Path

import numpy as np
import pytest

from mudi.dataset import load_combination
from mudi.layout import boxes_of
from mudi.miniature.mcp import sepia, write_mcp
from mudi.user_files.photos import read_image

SHIPPED = Path(__file__).parents[3] / "jobs" / "configs" / "miniature" / "mcp"


def test_sepia_maps_black_and_white_to_its_ends_and_keeps_the_order_of_brightness():
    """Black is (70, 42, 20), white (255, 236, 200); a brighter grey never comes out darker."""
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    shades = sepia(greys)
    assert shades[0, 0].tolist() == [70, 42, 20]
    assert shades[255, 0].tolist() == [255, 236, 200]
    assert (np.diff(shades[:, 0].astype(int), axis=0) >= 0).all()


@pytest.mark.parametrize("name", ["cat_right_dog_left", "cat_in_sepia"])
def test_what_is_shipped_is_what_is_written(tmp_path, name):
    """The same words and pixels, whoever renders them."""
    write_mcp(tmp_path)
    made, shipped = load_combination(tmp_path / name), load_combination(SHIPPED / name)
    assert [s.phrase for s in made.subjects] == [s.phrase for s in shipped.subjects]
    for ours, theirs in zip(made.subjects, shipped.subjects, strict=True):
        for a, b in zip(ours.references, theirs.references, strict=True):
            assert a.caption == b.caption
            assert np.array_equal(read_image(a.image_path), read_image(b.image_path))


def test_the_cat_has_the_right_box_and_the_style_none():
    """Subject a is the cat; its box lies wholly to the right of the dog's. The style has no query and no place."""
    ((cat, dog),) = boxes_of(load_combination(SHIPPED / "cat_right_dog_left"))
    assert cat[0] > dog[2]
    styled = load_combination(SHIPPED / "cat_in_sepia")
    assert [s.key for s in styled.objects] == ["a"]
    assert len(boxes_of(styled)[0]) == 1
