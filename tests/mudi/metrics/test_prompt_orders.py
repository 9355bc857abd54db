"""A prompt is asked in every order of its subjects, with no identifier in it and nothing else changed."""

from itertools import permutations
from math import factorial

import pytest

from mudi.metrics.prompt_orders import orders
from mudi.records import Combination, Subject

PHRASES = ("olis corgi", "hta chow chow", "ult teddy bear", "amg robot toy", "lun castle")


def combination(*phrases):
    subjects = [
        Subject(key="abcde"[n], identifier=p.split()[0], class_noun=p.split(" ", 1)[1], detection_query="dog", references=())
        for n, p in enumerate(phrases)
    ]
    return Combination(key="test", subjects=tuple(subjects))


def test_two_subjects_are_named_in_both_orders():
    assert orders("a olis corgi and a hta chow chow, floating on the pool", combination(*PHRASES[:2])) == [
        "a corgi and a chow chow, floating on the pool",
        "a chow chow and a corgi, floating on the pool",
    ]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (3, 6), (4, 24), (5, 5)])
def test_up_to_four_subjects_are_permuted_and_more_are_shifted(count, expected):
    """n! orders for n <= 4, and five cyclic shifts of five; the prompt's own order comes first."""
    texts = orders(" and ".join(PHRASES[:count]), combination(*PHRASES[:count]))
    nouns = [p.split(" ", 1)[1] for p in PHRASES[:count]]
    assert len(texts) == expected == (factorial(count) if count <= 4 else count)
    assert texts[0] == " and ".join(nouns)
    assert set(texts) <= {" and ".join(order) for order in permutations(nouns)}


def test_swapping_the_subjects_gives_the_same_orders():
    """Swapped in the combination the list is the same, swapped in the prompt the set is."""
    prompt, swapped = "a olis corgi sees a hta chow chow", "a hta chow chow sees a olis corgi"
    assert orders(prompt, combination(*PHRASES[:2])) == orders(prompt, combination(*PHRASES[1::-1]))
    assert set(orders(prompt, combination(*PHRASES[:2]))) == set(orders(swapped, combination(*PHRASES[:2])))


@pytest.mark.parametrize("prompt", ["Olis corgi chases hta", "OLIS CORGI, olis corgi's friend hta chow chow", "olis and a hta"])
def test_no_identifier_is_left(prompt):
    """Whatever the case, and also where an identifier stands without its class."""
    for text in orders(prompt, combination(*PHRASES[:2])):
        assert not {"olis", "hta"} & set(text.lower().replace(",", " ").replace("'", " ").split())
        assert "corgi" in text
        assert "chow chow" in text


def test_a_subject_named_twice_is_replaced_twice_by_the_same_noun():
    text = "a olis corgi, a hta chow chow, and the olis corgi again"
    assert orders(text, combination(*PHRASES[:2]))[1] == "a chow chow, a corgi, and the chow chow again"


def test_an_unnamed_subject_stays_unnamed():
    assert orders("a hta chow chow on a sofa", combination(*PHRASES[:2])) == ["a chow chow on a sofa"]
    assert orders("a sofa", combination(*PHRASES[:2])) == ["a sofa"]


def test_a_phrase_inside_a_longer_one_does_no_harm():
    """ "a dog" is a whole phrase, the beginning of "a dog toy", and part of what replaces another phrase."""
    pair = combination("a dog", "hta dog toy")
    assert orders("a dog, hta dog toy", pair) == ["dog, dog toy", "dog toy, dog"]
    nested = Combination(
        key="nested",
        subjects=(
            Subject(key="a", identifier="a", class_noun="dog", detection_query="dog", references=()),
            Subject(key="b", identifier="olis", class_noun="a dog toy", detection_query="toy", references=()),
        ),
    )
    assert orders("olis a dog toy with a dog", nested) == ["a dog toy with dog", "dog with a dog toy"]


def test_part_of_a_word_is_no_identifier():
    assert orders("metropolis with a olis corgi", combination("olis corgi", "pol cat")) == ["metropolis with a corgi"]


def test_equal_nouns_need_no_second_order():
    assert orders("olis teddy bear and hta teddy bear", combination("olis teddy bear", "hta teddy bear")) == ["teddy bear and teddy bear"]
