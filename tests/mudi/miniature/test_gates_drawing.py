"""The base model draws subjects that its caption describes in full."""

import pytest

from mudi.miniature.gates import drawing
from mudi.model_facts import MINIATURE


@pytest.mark.slow
def test_most_pictures_of_full_captions_have_both_subjects_right(miniature):
    """Of 160 pictures .76 have both right at guidance 4. Of 60 a share of .5 lies 4 standard errors of .06 below that."""
    success, identity = drawing.base_gates(miniature, "miniature", MINIATURE, pairs=30, pictures=2, guidances=(4.0,))
    assert success.value > 0.5
    assert identity.value > success.value
