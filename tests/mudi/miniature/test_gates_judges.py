"""The gates of the miniature count what they say they count."""

import numpy as np
import pytest

from mudi.miniature.gates.judges import Gate, auroc, different_pairs, found, neighbour
from mudi.miniature.world import all_identities, attribute_distance
from mudi.user_files.mask_doubts import overlap


def test_each_box_serves_one_subject():
    """One box over two equal subjects finds one of them; two boxes find both; a far one none."""
    box, far = (0.0, 0.0, 10.0, 10.0), (30.0, 30.0, 40.0, 40.0)
    assert found([box], (box, box)) == 1
    assert found([box, box], (box, box)) == 2
    assert found([far], (box,)) == found([], (box,)) == 0


def test_iou_counts_half_overlap_as_a_third():
    assert overlap((0, 0, 2, 1), (1, 0, 3, 1)) == pytest.approx(1 / 3)


def test_auroc_is_one_for_parted_half_for_equal_and_zero_for_reversed_values():
    low, high = np.array([0.1, 0.2]), np.array([0.8, 0.9])
    assert (auroc(high, low), auroc(low, low), auroc(low, high)) == (1.0, 0.5, 0.0)


def test_a_neighbour_differs_in_one_attribute_and_exists_in_the_world():
    """The largest weight of one attribute is 0.35, of accessory and colour together 0.25."""
    rng, everyone = np.random.default_rng(0), all_identities()
    for index in rng.integers(len(everyone), size=100):
        other = neighbour(everyone[index], rng)
        assert other in everyone
        assert 0 < attribute_distance(everyone[index], other) <= 0.35


def test_different_pairs_share_nothing():
    pairs = different_pairs(np.random.default_rng(0), 5)
    assert [attribute_distance(a, b) for a, b in pairs] == pytest.approx([1] * 5)


def test_a_gate_without_threshold_only_reports():
    assert Gate(name="x", value=-1.0).passed
    assert not Gate(name="x", value=0.8, threshold=0.9).passed
    assert Gate(name="x", value=0.9, threshold=0.9).passed
