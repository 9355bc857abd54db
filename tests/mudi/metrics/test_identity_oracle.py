"""The oracle as a metric: the truth it needs, the scores it yields, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mudi.dataset import load_combination
from mudi.metrics.identity_oracle import IdentityOracle, true_traits
from mudi.miniature.references import write_combination
from mudi.miniature.render import pair_scene, single_scene
from mudi.miniature.training.oracle_scenes import CONFIG
from mudi.miniature.world import parse_identity
from mudi.records import Prompt

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs" / "miniature"
GRASS = Prompt(prompt_id="p00", text="a photo of a olis pink dog and a hta orange dog on the grass")
NOWHERE = Prompt(prompt_id="p01", text="a photo of a olis pink dog and a hta orange dog")


@pytest.fixture(scope="module")
def metric():
    return IdentityOracle("cpu")


@pytest.fixture
def dogs():
    return load_combination(CONFIGS / "two_dogs")


def truths(folder: Path) -> list:
    return [parse_identity(words) for words in json.loads((folder / "truth.json").read_text()).values()]


def values(scores) -> dict[str, float | None]:
    return {score.metric: score.value for score in scores}


def scene(*identities, place: str = "grass", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (pair_scene if len(identities) == 2 else single_scene)(rng, *identities, place).image


def test_the_true_pair_succeeds_in_its_place_and_one_dog_does_not(metric, dogs):
    """Both dogs as rendered, in either order; the second alone scores a defined zero with its reason."""
    first, second = truths(CONFIGS / "two_dogs")
    scores = metric([scene(first, second), scene(second, first), scene(second)], GRASS, dogs)
    for both in scores[:2]:
        assert values(both)["oracle_success"] == values(both)["oracle_place"] == 1.0
        assert values(both)["oracle_identity"] > 0.9
    assert [score.value for score in scores[2]] == [0.0, 0.0, 1.0]
    assert "1 subjects read" in scores[2][1].details["reason"]


def test_another_place_is_wrong_and_no_place_is_not_computed(metric, dogs):
    image = scene(*truths(CONFIGS / "two_dogs"), place="night")
    assert values(metric([image], GRASS, dogs)[0])["oracle_place"] == 0.0
    unasked = metric([image], NOWHERE, dogs)[0]
    assert values(unasked)["oracle_place"] is None
    assert "names none" in unasked[2].details["reason"]


def test_the_order_of_the_subjects_plays_no_part(metric, dogs):
    image = scene(*truths(CONFIGS / "two_dogs"))
    swapped = replace(dogs, subjects=dogs.subjects[::-1])
    assert values(metric([image], GRASS, dogs)[0]) == pytest.approx(values(metric([image], GRASS, swapped)[0]))


def test_every_declared_name_comes_with_every_image(metric, dogs):
    image = scene(*truths(CONFIGS / "two_dogs"))
    assert [list(values(scores)) for scores in metric([image, image], GRASS, dogs)] == [list(IdentityOracle.NAMES)] * 2
    assert metric([], GRASS, dogs) == []


def test_subjects_without_truth_are_refused_with_their_folder(tmp_path):
    folder = tmp_path / "pair"
    write_combination(folder, [parse_identity("dog red blue"), parse_identity("cat green pink hat red")], 0)
    combination = load_combination(folder)
    assert true_traits(combination.subjects[1], CONFIG.attributes)["accessory_colour"] == "red"
    (folder / "truth.json").write_text('{"a": "dog red moon"}')
    with pytest.raises(ValueError, match="'dog red moon'"):
        true_traits(combination.subjects[0], CONFIG.attributes)
    with pytest.raises(ValueError, match="says nothing of subject 'b'"):
        true_traits(combination.subjects[1], CONFIG.attributes)
    (folder / "truth.json").unlink()
    with pytest.raises(ValueError, match=f"{folder} has no truth.json; the oracle judges rendered subjects only"):
        true_traits(combination.subjects[0], CONFIG.attributes)


def test_only_pairs_are_judged(metric, dogs):
    three = replace(dogs, subjects=(*dogs.subjects, dogs.subjects[0]))
    with pytest.raises(ValueError, match="3 subjects"):
        metric([], GRASS, three)
