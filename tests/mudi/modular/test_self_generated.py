"""Pictures that a subject's own adapter draws: found again on disk, and counted as they lie there."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mudi import adapters
from mudi.adapter_folder import Origin
from mudi.modular.self_generated import self_generated
from mudi.options import LoraSettings, Refine
from mudi.prior_folder import store_batch

REFINE = Refine(images=1, sample_steps=8, guidance_scale=4.0)


@pytest.fixture
def draw(miniature, two_dogs, tmp_path):
    """One picture of one dog, by an adapter that changes nothing."""
    alone = replace(two_dogs, subjects=two_dogs.subjects[:1])
    adapters.attach(miniature.unet, LoraSettings(rank=1, alpha=1), 0)
    facts = adapters.base_facts(miniature)
    adapter = adapters.save(miniature, tmp_path / "a", LoraSettings(rank=1, alpha=1), Origin(method="one", combination="a", details=facts))
    return partial(self_generated, miniature, [adapter], alone, REFINE, 0, "miniature", "miniature")


@pytest.mark.slow
def test_what_another_process_stored_first_counts(miniature, draw, tmp_path):
    """It keeps none of a batch that this one draws at the same time and keeps pictures of: none is there, and that is said. Started
    again, this one draws the next batch, and from then on nothing."""
    draw()
    (place,) = (tmp_path / "a.pictures").iterdir()
    shutil.rmtree(place)
    blank = np.zeros((48, 48, 3), np.uint8)
    handle = miniature.unet.register_forward_hook(lambda *_: store_batch(place, 0, [blank], [None], {}))
    with pytest.raises(ValueError, match="holds 0 of 1 pictures of 'olis pink dog'; start the same command again"):
        draw()
    handle.remove()
    (picture,) = draw()
    assert sorted(path.name for path in place.iterdir()) == ["batch-0000", "batch-0001"]
    passes = []
    miniature.unet.register_forward_hook(lambda *_: passes.append(1))
    assert np.array_equal(draw()[0].image, picture.image)
    assert not passes
