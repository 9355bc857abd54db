"""The shipped pairs: unseen by every training, shared by no two sets, unlike within a pair, and stored as described."""

import json
from pathlib import Path

import numpy as np
import pytest
from shipped_pairs import HELD_OUT_PAIRS, TUNING_PAIRS

from mudi.dataset import load_combination
from mudi.miniature.references import LAYOUTS, describe_identity, write_combination
from mudi.miniature.render import single_scene
from mudi.miniature.world import BACKGROUNDS, parse_identity, split_identities
from mudi.user_files.photos import read_image

SHIPPED = Path(__file__).parents[3] / "jobs" / "configs" / "miniature"
ALL = {**TUNING_PAIRS, **HELD_OUT_PAIRS}
FOLDERS = {name: SHIPPED / kind / name for kind, pairs in (("tuning", TUNING_PAIRS), ("held_out", HELD_OUT_PAIRS)) for name in pairs}


def subjects(pairs) -> list:
    return [parse_identity(words) for pair in pairs.values() for words in pair[:2]]


def test_every_subject_is_held_out_and_appears_once():
    """22 subjects of 11 pairs and the two dogs of the demo: 24 different ones, and no name twice."""
    demo = [parse_identity(words) for words in json.loads((SHIPPED / "two_dogs" / "truth.json").read_text()).values()]
    everyone = subjects(TUNING_PAIRS) + subjects(HELD_OUT_PAIRS) + demo
    assert len(set(everyone)) == len(everyone) == 24
    assert set(everyone) <= set(split_identities()[1])
    assert len(ALL) == len(TUNING_PAIRS) + len(HELD_OUT_PAIRS) == 11


@pytest.mark.parametrize("name", ALL)
def test_within_a_pair_all_colours_differ(name):
    a, b = (parse_identity(words) for words in ALL[name][:2])
    colours = [c for i in (a, b) for c in (i.body, i.belly, i.accessory_colour) if c is not None]
    assert len(set(colours)) == len(colours)
    assert a.accessory != b.accessory


def test_most_held_out_pairs_are_two_of_a_kind_and_both_wear_something():
    pairs = [tuple(parse_identity(words) for words in pair[:2]) for pair in HELD_OUT_PAIRS.values()]
    assert sum(a.class_noun == b.class_noun for a, b in pairs) == 6
    assert sum("none" not in (a.accessory, b.accessory) for a, b in pairs) == 6
    assert {i.class_noun for pair in pairs for i in pair} == {"dog", "cat", "bear", "rabbit"}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_shipped_folder_is_what_the_recipe_writes(name, tmp_path):
    """Its truth is the literal, and a renderer that is asked again with the same seed draws the same first picture."""
    assert list(json.loads((FOLDERS[name] / "truth.json").read_text()).values()) == list(ALL[name][:2])
    shipped = load_combination(FOLDERS[name])
    rng = np.random.default_rng(ALL[name][2])
    drawn = single_scene(rng, parse_identity(ALL[name][0]), str(rng.permutation(BACKGROUNDS)[0]))
    np.testing.assert_array_equal(read_image(shipped.subjects[0].references[0].image_path), drawn.image)
    assert [tuple(layout.values()) for layout in shipped.layouts] == list(LAYOUTS)


def test_the_demos_truth_is_what_its_pictures_show():
    """Seed 11 draws them again: the ten pictures follow one another from one generator."""
    folder, rng = SHIPPED / "two_dogs", np.random.default_rng(11)
    truth = json.loads((folder / "truth.json").read_text())
    for subject in load_combination(folder).subjects:
        for reference, place in zip(subject.references, rng.permutation(BACKGROUNDS), strict=False):
            drawn = single_scene(rng, parse_identity(truth[subject.key]), str(place))
            np.testing.assert_array_equal(read_image(reference.image_path), drawn.image)


def test_written_pairs_hold_their_truth_and_are_never_overwritten(tmp_path):
    pair = [parse_identity(words) for words in ("dog red blue", "cat green pink hat red")]
    write_combination(tmp_path / "one", pair, 5)
    truth = json.loads((tmp_path / "one" / "truth.json").read_text())
    assert truth == {"a": "dog red blue", "b": "cat green pink hat red"}
    assert [describe_identity(parse_identity(words)) for words in truth.values()] == list(truth.values())
    with pytest.raises(ValueError, match="exists already"):
        write_combination(tmp_path / "one", pair, 5)
