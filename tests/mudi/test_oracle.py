"""The oracle: its verdict by hand and by law, and the trained network on rendered scenes."""

from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from double import in_double

from mudi.checkpoints.weights_folder import write_model
from mudi.miniature.references import describe_identity
from mudi.miniature.render import pair_scene, single_scene
from mudi.miniature.training.oracle import oracle_loss, tinted, warped
from mudi.miniature.training.oracle_scenes import CONFIG, OTHER, PLACE_NAMES, close_scene, crowd_scene, draw_lessons, stitched, traits_of
from mudi.miniature.world import BACKGROUNDS, all_identities, parse_identity, random_identity, split_identities
from mudi.model_facts import find_folder
from mudi.oracle import OracleNetwork, Reading, asked_place, judge, load_oracle, read_traits, save_oracle, verdict

DOG, CAT = (read_traits(words, CONFIG.attributes) for words in ("dog red yellow hat blue", "cat green pink"))
ALICE, BOB = parse_identity("dog red yellow hat blue"), parse_identity("cat green pink scarf black")


def sure(traits: dict[str, str], probability: float = 1.0) -> dict[str, dict[str, float]]:
    """Each attribute's true value with `probability`, the first other value with the rest."""
    read = {}
    for name, values in CONFIG.attributes.items():
        other = next(v for v in values if v != traits[name])
        read[name] = dict.fromkeys(values, 0.0) | {traits[name]: probability, other: 1 - probability}
    return read


def reading(left, right, count: int = 2, place: str = "beach") -> Reading:
    counts = tuple(float(n == count) for n in range(CONFIG.counts))
    return Reading(count=counts, subjects=(left, right), place={name: float(name == place) for name in CONFIG.places})


@pytest.fixture(scope="module")
def oracle():
    return load_oracle(find_folder("miniature", "oracle"))


def test_a_picture_of_both_is_right_in_either_order():
    for sides in ((DOG, CAT), (CAT, DOG)):
        for identities in ((DOG, CAT), (CAT, DOG)):
            answer = verdict(reading(*map(sure, sides)), identities, "beach")
            assert (answer["success"], answer["identity"], answer["place"]) == (1.0, 1.0, 1.0)


def test_identity_by_hand():
    """Left five times 0.9, right five times 0.6: (4.5 + 3.0) / 10 = 0.75. Every value of DOG differs from CAT's, so the
    other order finds at most what is left, (5 x 0.1 + 5 x 0.4) / 10 = 0.25."""
    answer = verdict(reading(sure(DOG, 0.9), sure(CAT, 0.6)), (DOG, CAT), None)
    assert answer["identity"] == pytest.approx(0.75)
    assert answer["success"] == 1.0


def test_one_wrong_attribute_fails_and_costs_a_tenth():
    """Nine of ten values have probability 1, the body 0."""
    blue = sure(DOG | {"body": "blue"})
    answer = verdict(reading(blue, sure(CAT)), (DOG, CAT), None)
    assert answer["success"] == 0.0
    assert answer["identity"] == pytest.approx(0.9)


def test_one_subject_twice_fails():
    """The dog's five values are right on one side; all five of the other side differ from the cat's: 5 / 10."""
    answer = verdict(reading(sure(DOG), sure(DOG)), (DOG, CAT), None)
    assert (answer["success"], answer["identity"]) == (0.0, 0.5)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_subjects_scores_zero_with_a_reason(count):
    answer = verdict(reading(sure(DOG), sure(CAT), count), (DOG, CAT), "beach")
    assert (answer["success"], answer["identity"], answer["place"]) == (0.0, 0.0, 1.0)
    assert str(count) in answer["reason"]


def test_the_colour_of_nothing_is_not_asked():
    """The cat wears nothing: a colour read there does not fail it, but nine of ten values are left for the mean. The dog
    wears a hat: its colour counts."""
    coloured = sure(CAT | {"accessory_colour": "red"})
    answer = verdict(reading(sure(DOG), coloured), (DOG, CAT), None)
    assert (answer["success"], answer["identity"]) == (1.0, pytest.approx(0.9))
    assert verdict(reading(sure(DOG | {"accessory_colour": "red"}), sure(CAT)), (DOG, CAT), None)["success"] == 0.0


def test_the_place_is_right_wrong_or_not_asked():
    seen = reading(sure(DOG), sure(CAT), place="beach")
    assert [verdict(seen, (DOG, CAT), place)["place"] for place in ("beach", "snow", None)] == [1.0, 0.0, None]
    with pytest.raises(ValueError, match="unknown to the oracle"):
        verdict(seen, (DOG, CAT), "moon")


def test_swapping_sides_or_identities_leaves_the_verdict():
    """Random probabilities; the maximum over the two orders sees the same two sums."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        sides = [
            {name: dict(zip(values, rng.dirichlet(np.ones(len(values))), strict=True)) for name, values in CONFIG.attributes.items()}
            for _ in range(2)
        ]
        first, second = verdict(reading(*sides), (DOG, CAT), "snow"), verdict(reading(*sides), (CAT, DOG), "snow")
        mirrored = verdict(reading(*sides[::-1]), (DOG, CAT), "snow")
        for other in (second, mirrored):
            assert [other[k] for k in ("success", "place", "count")] == [first[k] for k in ("success", "place", "count")]
            assert other["identity"] == pytest.approx(first["identity"])


@pytest.mark.parametrize("identities", [(DOG,), (DOG, CAT, DOG)])
def test_only_pairs_are_judged(identities):
    with pytest.raises(ValueError, match=f"{len(identities)} subjects"):
        verdict(reading(sure(DOG), sure(CAT)), identities, None)


def test_words_of_every_identity_are_read_back():
    """`describe_identity` inverts `parse_identity`, and the oracle's own reading of the words agrees with the world."""
    for identity in all_identities()[::37]:
        words = describe_identity(identity)
        assert parse_identity(words) == identity
        values = read_traits(words, CONFIG.attributes)
        assert [CONFIG.attributes[name].index(value) for name, value in values.items()] == traits_of(identity)


@pytest.mark.parametrize(
    "words", ["", "dog", "wolf red blue", "dog red blue hat", "dog red blue hat blue red", "dog red blue blue hat", "dog red blue none red"]
)
def test_words_that_describe_nobody_are_refused(words):
    with pytest.raises(ValueError, match="one word an attribute"):
        read_traits(words, CONFIG.attributes)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a photo of a olis pink dog and a hta cat on the grass.", "grass"),
        ("A photo of a olis dog At Night", "night"),
        ("a photo of a olis dog, simple background", "plain"),
        ("a photo of a olis dog, teal background", "plain"),
        ("a photo of a olis dog on the moon", None),
        ("a photo of a olis dog in a roomy house", None),
        ("a photo of a olis dog in the snow on the beach", None),
    ],
)
def test_a_prompt_asks_for_at_most_one_place(text, place):
    assert asked_place(text, CONFIG.places) == place


def test_a_stored_oracle_reads_as_it_did(tmp_path):
    torch.manual_seed(0)
    network = OracleNetwork(CONFIG).eval()
    save_oracle(tmp_path / "oracle", network)
    stored = load_oracle(tmp_path / "oracle")
    images = torch.rand(2, 3, 48, 48)
    assert stored.config == CONFIG
    for a, b in zip(network(images), stored.network(images), strict=True):
        torch.testing.assert_close(a, b)


def test_a_folder_of_something_else_is_refused(tmp_path):
    settings = asdict(CONFIG)
    del settings["places"]
    write_model(tmp_path, settings, torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="does not describe an oracle"):
        load_oracle(tmp_path)


def test_lessons_agree_with_their_truth():
    """Labels hold as many subjects as counted; attributes are asked of both of a pair, of one alone, of no crowd."""
    lessons = draw_lessons(60, seed=3)
    asked = (lessons.traits[..., 0] >= 0).sum(1)
    for labels, count, subjects in zip(lessons.labels, lessons.counts, asked, strict=True):
        assert min(len(set(np.unique(labels)) - {0}), 3) == count
        assert subjects == (count if count < 3 else 0)
    assert ((lessons.traits >= 0).any(2) == (lessons.traits >= 0).all(2)).all()


def test_close_subjects_are_ordered_from_left_to_right():
    """Identities keep their side whichever is painted last: the left mask's mean column is smaller."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        left, right = close_scene(rng, ALICE, BOB, "snow").masks
        assert np.nonzero(left)[1].mean() < np.nonzero(right)[1].mean()


def test_flaws_of_training_leave_other_subjects_alone():
    """A tint moves only labelled pixels and by 20 % at most; a picture of one colour is not changed by bending,
    but for the rounding of the weights of four neighbours, which add up to 1."""
    noise = torch.Generator().manual_seed(0)
    images, labels = torch.zeros(40, 3, 8, 8), torch.zeros(40, 8, 8, dtype=torch.uint8)
    labels[:, 2:5, 2:5] = 1
    changed = tinted(images, labels, noise)
    assert 0 < changed[:, :, 2:5, 2:5].max() <= 0.2
    changed[:, :, 2:5, 2:5] = 0
    assert not changed.any()
    torch.testing.assert_close(warped(torch.full((4, 3, 48, 48), 0.5), noise), torch.full((4, 3, 48, 48), 0.5), atol=1e-6, rtol=0)


def test_the_loss_of_ignorance_is_the_logarithm_of_the_choices():
    """Equal logits cost ln 4 for the count, ln 8 for the place and a body; a picture without anybody asks no attribute."""
    values = sum(map(len, CONFIG.attributes.values()))
    outputs = torch.zeros(2, CONFIG.counts), torch.zeros(2, 2, values), torch.zeros(2, len(CONFIG.places))
    traits = torch.full((2, 2, 5), -1)
    traits[0, 0] = torch.tensor(traits_of(ALICE))
    losses = oracle_loss(outputs, torch.tensor([1, 0]), traits, torch.tensor([0, 1]))
    assert losses["count"].item() == pytest.approx(np.log(4))
    assert losses["place"].item() == losses["body"].item() == pytest.approx(np.log(8))
    assert losses["accessory_colour"].item() == pytest.approx(np.log(9))


def held_out_pairs(count: int, seed: int) -> list:
    rng, pool = np.random.default_rng(seed), split_identities()[1]
    return [(random_identity(rng, pool), random_identity(rng, pool)) for _ in range(count)]


def traits(identity) -> dict[str, str]:
    return read_traits(describe_identity(identity), CONFIG.attributes)


def test_the_trained_oracle_accepts_right_pairs_and_no_pair_twice(oracle):
    """48 held-out pairs, deterministic; the gates of `check_oracle` are at 0.9 and 0.95."""
    rng, pairs = np.random.default_rng(1), held_out_pairs(48, seed=2)
    right = judge(oracle, [pair_scene(rng, a, b, str(rng.choice(BACKGROUNDS))).image for a, b in pairs])
    twice = judge(oracle, [pair_scene(rng, a, a, str(rng.choice(BACKGROUNDS))).image for a, _ in pairs])
    answers = [[verdict(r, list(map(traits, p)), None) for r, p in zip(readings, pairs, strict=True)] for readings in (right, twice)]
    assert np.mean([a["success"] for a in answers[0]]) >= 0.85
    assert np.mean([a["success"] for a in answers[1]]) <= 0.1
    assert np.mean([a["identity"] for a in answers[0]]) - np.mean([a["identity"] for a in answers[1]]) >= 0.2


def test_the_trained_oracle_counts(oracle):
    rng, pairs = np.random.default_rng(3), held_out_pairs(20, seed=4)
    crowds = [crowd_scene(rng, [a, b, a], "grass").image for a, b in pairs]
    alone = [single_scene(rng, a, "beach").image for a, _ in pairs]
    for images, count in ((crowds, 3), (alone, 1)):
        assert np.mean([np.argmax(r.count) == count for r in judge(oracle, images)]) >= 0.85


def test_the_trained_oracle_tells_places_and_halves_of_two(oracle):
    rng = np.random.default_rng(5)
    for place in BACKGROUNDS:
        seen = judge(oracle, [pair_scene(rng, a, b, place).image for a, b in held_out_pairs(8, seed=6)])
        assert np.mean([max(r.place, key=r.place.get) == place for r in seen]) >= 0.85
    halves = [stitched(rng, single_scene(rng, a, "night"), single_scene(rng, b, "beach"))[0] for a, b in held_out_pairs(8, seed=7)]
    assert np.mean([max(r.place, key=r.place.get) == OTHER for r in judge(oracle, halves)]) >= 0.85
    assert set(PLACE_NAMES) == set(oracle.config.places)


def test_a_picture_is_read_alike_alone_and_in_company(oracle):
    """By the network in float64, whose sums do not depend on the batch."""
    oracle = replace(oracle, network=in_double(deepcopy(oracle.network)))
    rng = np.random.default_rng(8)
    images = [pair_scene(rng, a, b, "room").image for a, b in held_out_pairs(3, seed=9)]
    together, alone = judge(oracle, images)[1], judge(oracle, images[1:2])[0]
    assert together.count == pytest.approx(alone.count, abs=1e-12)
    assert together.subjects[0]["body"] == pytest.approx(alone.subjects[0]["body"], abs=1e-12)


def test_a_larger_picture_is_resized(oracle):
    """Every pixel repeated 2 x 2 holds the same scene."""
    image = pair_scene(np.random.default_rng(10), ALICE, BOB, "grass").image
    small, large = judge(oracle, [image])[0], judge(oracle, [image.repeat(2, 0).repeat(2, 1)])[0]
    assert verdict(large, [traits(ALICE), traits(BOB)], "grass")["success"] == 1.0
    assert small.count == pytest.approx(large.count, abs=0.05)
