"""The rendered world keeps its promises: exact masks, one seed one scene, and a split that never leaks."""

import numpy as np
import pytest
import torch

from mudi.augment import tight_box
from mudi.miniature.captions import IDENTIFIERS, NAMES, TOKENS, build_tokenizer, caption, describe, name_table, vocabulary
from mudi.miniature.corpus import draw_scene, render_corpus
from mudi.miniature.render import pair_scene, single_scene
from mudi.miniature.training.judge_data import boxes_of, flawed, floats
from mudi.miniature.world import (
    BACKGROUNDS,
    CLASSES,
    PLAIN_BACKGROUNDS,
    SIZE,
    Identity,
    all_identities,
    attribute_distance,
    random_identity,
    split_identities,
    swap_accessories,
    swap_bodies,
)

ALICE = Identity(class_noun="dog", body="red", belly="yellow", accessory="hat", accessory_colour="blue")
BOB = Identity(class_noun="cat", body="green", belly="pink", accessory="none", accessory_colour=None)


def some_identities(count: int, seed: int = 0) -> list[Identity]:
    rng = np.random.default_rng(seed)
    return [random_identity(rng, all_identities()) for _ in range(count)]


def test_masks_are_disjoint_and_boxes_touch_them_on_all_sides():
    """Every mask pixel is in the box, and each of the box's four border lines holds one."""
    rng = np.random.default_rng(0)
    for a, b in zip(some_identities(20), some_identities(20, seed=1), strict=True):
        scene = pair_scene(rng, a, b, "beach")
        assert not (scene.masks[0] & scene.masks[1]).any()
        for mask, box in zip(scene.masks, scene.boxes, strict=True):
            x0, y0, x1, y1 = map(int, box)
            inside = mask[y0:y1, x0:x1]
            assert inside.sum() == mask.sum() > 0
            assert all(line.any() for line in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_subjects_stand_apart_from_left_to_right_and_inside_the_picture():
    rng = np.random.default_rng(1)
    for a, b in zip(some_identities(20), some_identities(20, seed=1), strict=True):
        left, right = pair_scene(rng, a, b, "room").boxes
        assert left[0] + left[2] < right[0] + right[2]
        assert 0 <= min(*left, *right) < max(*left, *right) <= SIZE


def test_the_mask_marks_just_the_pixels_that_a_subject_changes():
    """The same generator paints the same background, so a pixel that neither mask holds shows it purely."""
    bare, dressed = ALICE, swap_accessories(ALICE, BOB)[0]
    with_hat = single_scene(np.random.default_rng(5), bare, "white")
    without = single_scene(np.random.default_rng(5), dressed, "white")
    changed = (with_hat.image != without.image).any(-1)
    assert changed.any()
    assert not (changed & ~(with_hat.masks[0] | without.masks[0]))[1:-1, 1:-1].sum() > 0.1 * changed.sum()
    far = ~_grown(with_hat.masks[0])
    assert (with_hat.image[far] == 255).all()


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask and its eight neighbours: antialiased edges lie there."""
    padded = np.pad(mask, 1)
    return np.any([padded[y : y + SIZE, x : x + SIZE] for y in range(3) for x in range(3)], axis=0)


def test_one_seed_makes_one_scene_and_another_seed_another():
    pool = split_identities()[0]
    first, again, other = (draw_scene(np.random.default_rng(seed), pool, []) for seed in (3, 3, 4))
    assert (first.identities, first.boxes) == (again.identities, again.boxes)
    np.testing.assert_array_equal(first.image, again.image)
    assert other.image.tobytes() != first.image.tobytes()


def test_a_corpus_begins_with_the_same_scenes_however_long_it_is():
    short, long = render_corpus(20, seed=7), render_corpus(30, seed=7)
    np.testing.assert_array_equal(short.images, long.images[:20])
    np.testing.assert_array_equal(short.labels, long.labels[:20])


def test_held_out_and_training_identities_share_nobody_and_cover_everyone():
    train, held_out = split_identities()
    assert not set(train) & set(held_out)
    assert sorted(map(str, train + held_out)) == sorted(map(str, all_identities()))
    assert len(held_out) == round(0.1 * len(all_identities()))


def test_a_held_out_corpus_shows_only_held_out_identities():
    everyone, (train, held_out) = all_identities(), split_identities()
    for corpus, pool in ((render_corpus(20, seed=0), train), (render_corpus(20, seed=0, held_out=True), held_out)):
        assert {everyone[i] for i in corpus.identities.ravel() if i >= 0} <= set(pool)


def test_there_are_as_many_identities_as_choices():
    """4 classes x 8 bodies x 8 bellies x (bare + 2 accessories x the 7 colours that the body has not) = 3840."""
    assert len(set(all_identities())) == len(all_identities()) == 4 * 8 * 8 * (1 + 2 * 7)


def test_attribute_distance_is_symmetric_and_zero_just_for_the_same():
    people = some_identities(60)
    for a in people:
        for b in people:
            assert attribute_distance(a, b) == attribute_distance(b, a)
            assert (attribute_distance(a, b) == 0) == (a == b)
            assert 0 <= attribute_distance(a, b) <= 1


def test_swaps_exchange_one_attribute_and_undo_themselves():
    """ALICE and BOB share nothing (distance 1); an accessory weighs 0.25 and a body 0.35."""
    assert attribute_distance(ALICE, BOB) == pytest.approx(1)
    for swap, weight in ((swap_accessories, 0.25), (swap_bodies, 0.35)):
        first, second = swap(ALICE, BOB)
        assert attribute_distance(ALICE, first) == pytest.approx(weight)
        assert attribute_distance(BOB, first) == pytest.approx(1 - weight)
        assert swap(first, second) == (ALICE, BOB)


def test_each_vocabulary_word_is_one_token_of_its_own():
    tokenizer = build_tokenizer()
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in vocabulary()]
    assert all(len(i) == 1 for i in ids), [w for w, i in zip(vocabulary(), ids, strict=True) if len(i) != 1]
    assert len({i[0] for i in ids}) == len(vocabulary())


def test_identifiers_and_names_are_in_the_vocabulary():
    assert {*IDENTIFIERS, *NAMES, *CLASSES} <= set(vocabulary())


def test_captions_fit_the_context_without_unknown_words():
    """With both end marks a caption must not exceed the text encoders' positions, or its place would be cut off."""
    tokenizer, rng = build_tokenizer(), np.random.default_rng(0)
    train = split_identities()[0]
    names = name_table(train)
    words = set(vocabulary())
    for _ in range(300):
        text = caption(draw_scene(rng, train, list(names)), rng, names)
        assert len(tokenizer(text).input_ids) <= TOKENS, text
        assert set(text.lower().replace(",", " , ").replace(".", " . ").split()) <= words, text


def test_every_name_belongs_to_one_character_and_is_spoken_only_of_it():
    train = split_identities()[0]
    names = name_table(train)
    assert len(set(names.values())) == len(names) == len(NAMES)
    rng, nobody = np.random.default_rng(0), next(i for i in train if i not in names)
    assert not any(set(describe(nobody, rng, names).split()) & set(NAMES) for _ in range(100))
    character, name = next(iter(names.items()))
    said = {word for _ in range(100) for word in describe(character, rng, names).split()} & set(NAMES)
    assert said == {name}


def test_boxes_of_label_maps_agree_with_the_rendered_boxes():
    rng = np.random.default_rng(2)
    labels = np.zeros((2, SIZE, SIZE), np.uint8)
    pair, single = pair_scene(rng, ALICE, BOB, "snow"), single_scene(rng, BOB, "night")
    for n, scene in enumerate((pair, single)):
        for k, mask in enumerate(scene.masks):
            labels[n][mask] = k + 1
    boxes, present = boxes_of(labels)
    assert present.tolist() == [[True, True], [True, False]]
    np.testing.assert_array_equal(boxes[0], [tight_box(m) for m in pair.masks])
    np.testing.assert_array_equal(boxes[1], [single.boxes[0], (0, 0, 0, 0)])


def test_flaws_change_most_pictures_mildly_and_depend_on_the_generator_alone():
    """About 60 % of the pictures are touched; a colour (40 levels apart or more in the world) moves by less than that."""
    images = floats(render_corpus(100, seed=1).images)
    first, again = (flawed(images, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again)
    moved = (first - images).abs().mean((1, 2, 3))
    assert 0.4 < (moved > 0).float().mean() < 0.8
    assert 0 <= first.min() < first.max() <= 1
    assert moved.max() < 40 / 255


def test_all_places_can_be_rendered_and_differ():
    pictures = {single_scene(np.random.default_rng(0), ALICE, place).image.tobytes() for place in (*BACKGROUNDS, *PLAIN_BACKGROUNDS)}
    assert len(pictures) == len(BACKGROUNDS) + len(PLAIN_BACKGROUNDS)
    with pytest.raises(ValueError, match="unknown background"):
        single_scene(np.random.default_rng(0), ALICE, "moon")
