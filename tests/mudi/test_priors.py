"""Class priors: exactly one subject each, reused from disk, and a plain word where the base model cannot draw the class."""

from dataclasses import fields, replace

import numpy as np
import pytest

from mudi import adapters, models
from mudi.detect import detect
from mudi.methods.dreambooth import DreamBooth
from mudi.options import LoraSettings
from mudi.prior_folder import THRESHOLD, Recipe, clear_staged, find_batch, kept_by_batch, load_kept, needed, next_batches, store_batch
from mudi.priors import class_priors

RECIPE = Recipe(
    class_noun="pink dog", detection_query="dog", backbone="miniature", precision="float32", detector="miniature", segmenter="miniature",
    prompt="a photo of a {} on the grass", negative_prompt="", steps=12, guidance_scale=4.0,
)  # fmt: skip


def recipes_of(combination):
    return {s.key: replace(RECIPE, class_noun=s.class_noun, detection_query=s.detection_query) for s in combination.subjects}


def priors(backbone, combination, folder, count=2):
    return class_priors(backbone, combination, recipes_of(combination), count, folder)


def everything(folder):
    """Each file below a folder with when it was written and what it holds."""
    return {path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


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
    """An adapter on the UNet changes nothing; a second call finds the same pictures and writes nothing."""
    first = priors(miniature, two_dogs, tmp_path / "one")
    before = everything(tmp_path / "one")
    adapters.attach(miniature.unet, LoraSettings(rank=2, alpha=2), 0)
    for parameter in adapters.parameters(miniature.unet):
        parameter.data.fill_(0.1)
    again, other = priors(miniature, two_dogs, tmp_path / "one"), priors(miniature, two_dogs, tmp_path / "two")
    for pictures in (again, other):
        assert all(np.array_equal(a.image, b.image) for a, b in zip(first, pictures, strict=True))
    assert everything(tmp_path / "one") == before


@pytest.mark.slow
def test_a_class_that_cannot_be_drawn_is_named(miniature, two_dogs, tmp_path):
    """Asked for a lighthouse, the detector finds nothing in any of the two batches that ten draws take."""
    unknown = tuple(replace(subject, detection_query="lighthouse") for subject in two_dogs.subjects)
    with pytest.raises(ValueError, match=r"class noun 'pink dog'.* in 0 of 16 pictures, 1 are needed"):
        priors(miniature, replace(two_dogs, subjects=unknown), tmp_path, count=1)


def test_all_that_decides_a_prior_is_in_its_folder_name():
    """Another value of any one field is another digest, and no two of these are the same."""
    changed = [replace(RECIPE, **{field.name: f"{getattr(RECIPE, field.name)}{{}}"}) for field in fields(Recipe)]
    assert len({recipe.digest for recipe in [RECIPE, *changed]}) == len(fields(Recipe)) + 1
    assert replace(RECIPE).digest == RECIPE.digest


def test_neither_seed_nor_a_hyperparameter_of_the_fit_is_in_a_recipe(two_dogs):
    """Two methods with one way to make priors have the same recipes; with DCO there are none."""
    same = [DreamBooth(steps=steps, prior_images=images).prior_recipes(two_dogs, "b", "float32") for steps, images in ((5, 2), (9, 7))]
    assert same[0] == same[1]
    assert DreamBooth(objective="dco").prior_recipes(two_dogs, "b", "float32") == {}
    assert DreamBooth(priors={"a": "x", "b": "y"}) == DreamBooth()


def test_subjects_of_one_class_need_twice_as_many(two_dogs):
    """Called "dog" both, the two share a recipe of which four pictures are needed for two a subject; told apart, two of each."""
    plain = DreamBooth(descriptive_class=False).prior_recipes(two_dogs, "b", "float32")
    assert list(needed(plain, 2).values()) == [4]
    assert list(needed(DreamBooth().prior_recipes(two_dogs, "b", "float32"), 2).values()) == [2, 2]


@pytest.mark.parametrize(
    ("kept", "need", "most", "expected"),
    [
        ({}, 50, 63, [0, 1, 2, 3, 4, 5, 6]),  # 50 at 8 a batch: 7 batches if all are kept
        ({0: 4, 1: 4}, 20, 25, [2, 3, 4]),  # half are kept: 12 more at 4 a batch
        ({1: 8}, 10, 13, [0]),  # a gap comes first, and with batch 1 it may be enough
        ({0: 8, 1: 8}, 10, 13, []),
        ({0: 0}, 4, 5, [1, 2, 3, 4]),  # none kept: a tenth is expected, and the bound is five batches
        ({0: 0, 1: 0}, 1, 2, []),  # given up
    ],
)
def test_the_next_batches_follow_from_what_was_kept(kept, need, most, expected):
    assert next_batches(kept, need, 8, most) == expected


def batch():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (6, 6, 3), dtype=np.uint8) for _ in range(3)]
    masks = [np.eye(6, dtype=bool), None, ~np.eye(6, dtype=bool)]
    return images, masks


def test_a_stored_batch_comes_back_without_what_was_refused(tmp_path):
    images, masks = batch()
    store_batch(tmp_path, 0, images, masks, {"boxes": [1, 2, 1]})
    store_batch(tmp_path, 2, images, masks, {})
    assert kept_by_batch(tmp_path, 5) == {0: 2, 2: 2}
    assert find_batch(tmp_path, 0)["boxes"] == [1, 2, 1]
    loaded = load_kept(tmp_path, 9)
    assert len(loaded) == 2, "pictures after a gap are not taken before it is filled"
    for cut, row in zip(loaded, (0, 2), strict=True):
        assert np.array_equal(cut.image, images[row])
        assert np.array_equal(cut.mask, masks[row])


@pytest.mark.parametrize("name", ["00.png", "02-mask.png", "batch.json"])
def test_a_broken_batch_counts_as_absent_and_is_replaced_by_the_same_bytes(tmp_path, name):
    """A file cut short, then the batch stored again; an intact one is left as it is."""
    store_batch(tmp_path, 0, *batch(), {})
    whole = everything(tmp_path)
    store_batch(tmp_path, 0, *batch(), {"other": 1})
    assert everything(tmp_path) == whole
    path = tmp_path / "batch-0000" / name
    path.write_bytes(path.read_bytes()[:-9])
    assert find_batch(tmp_path, 0) is None
    store_batch(tmp_path, 0, *batch(), {})
    assert {p: data for p, (_, data) in everything(tmp_path).items()} == {p: data for p, (_, data) in whole.items()}


def test_a_batch_that_was_killed_while_it_was_written_is_not_there(tmp_path):
    """The third picture is none, and saving it raises: no batch is found, and the same call afterwards stores it whole."""
    images, masks = batch()
    with pytest.raises(AttributeError):
        store_batch(tmp_path, 0, [images[0], images[1], None], masks, {})
    assert kept_by_batch(tmp_path, 3) == {}
    store_batch(tmp_path, 0, images, masks, {})
    assert kept_by_batch(tmp_path, 3) == {0: 2}


def test_only_the_parts_of_the_owner_are_cleared(tmp_path):
    """Two runs, one's name the beginning of the other's, and a batch of each killed while written: "toys" clears its own part alone."""
    images, masks = batch()
    for owner in ("toys", "toys.2", ""):
        with pytest.raises(AttributeError):
            store_batch(tmp_path, 0, [images[0], images[1], None], masks, {}, owner)
    store_batch(tmp_path, 1, images, masks, {}, "toys")
    stored = everything(tmp_path / "batch-0001")
    assert len(list(tmp_path.glob(".batch-0000.*"))) == 3
    clear_staged(tmp_path, "toys")
    left = [path.name.split(".")[2:-1] for path in sorted(tmp_path.glob(".batch-*"))]
    assert sorted(left) == [[""], ["toys", "2"]]
    assert everything(tmp_path / "batch-0001") == stored
