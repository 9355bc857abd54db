"""Class priors: exactly one subject each, reused from disk, and a plain word where the base model cannot draw the class."""

from dataclasses import replace

import numpy as np
import pytest

from mudi import adapters, models
from mudi.adapters import LoraSettings
from mudi.detect import detect
from mudi.priors import THRESHOLD, class_priors


def priors(backbone, combination, folder, count=2):
    return class_priors(
        backbone,
        combination,
        count=count,
        detector="miniature",
        segmenter="miniature",
        steps=12,
        guidance_scale=4.0,
        seed=0,
        folder=folder,
        prompt="a photo of a {}, simple background",
        negative_prompt="",
    )


@pytest.mark.slow
def test_every_prior_shows_one_detected_subject_and_its_cut_out(miniature, two_dogs, tmp_path):
    """Two a class, in the subjects' order, each with one detection and a mask that lies mostly in its box."""
    pictures = priors(miniature, two_dogs, tmp_path)
    assert [p.owner for p in pictures] == [0, 0, 1, 1]
    assert [p.phrase for p in pictures] == ["pink dog", "pink dog", "orange dog", "orange dog"]
    detector = models.load_detector("miniature")
    for picture in pictures:
        ((found,),) = detect(detector, [picture.image], [["dog"]], THRESHOLD)
        x0, y0, x1, y1 = (round(v) for v in found.box_xyxy)
        assert picture.segment.mask[y0:y1, x0:x1].sum() > 0.8 * picture.segment.mask.sum()


@pytest.mark.slow
def test_priors_come_from_the_bare_model_and_again_from_disk(miniature, two_dogs, tmp_path):
    """An adapter on the UNet changes nothing, and a second call finds the same pictures."""
    first = priors(miniature, two_dogs, tmp_path / "one")
    adapters.attach(miniature.unet, LoraSettings(rank=2, alpha=2), 0)
    for parameter in adapters.parameters(miniature.unet):
        parameter.data.fill_(0.1)
    again, other = priors(miniature, two_dogs, tmp_path / "one"), priors(miniature, two_dogs, tmp_path / "two")
    for pictures in (again, other):
        assert all(np.array_equal(a.image, b.image) for a, b in zip(first, pictures, strict=True))


@pytest.mark.slow
def test_a_class_that_cannot_be_drawn_is_named(miniature, two_dogs, tmp_path):
    """Asked for a lighthouse, the detector finds nothing in any of the ten tries for one prior."""
    unknown = tuple(replace(subject, detection_query="lighthouse") for subject in two_dogs.subjects)
    with pytest.raises(ValueError, match="class noun 'pink dog'"):
        priors(miniature, replace(two_dogs, subjects=unknown), tmp_path, count=1)
