"""Who is named where: by words before anything is loaded, by tokens afterwards, and for residuals and attention alike."""

from itertools import product

import pytest
import torch

from mudi import models
from mudi.backbone import Residual
from mudi.records import Combination, Subject
from mudi.text.conditioning import encode_prompts
from mudi.text.mentions import folded, in_turn, places
from mudi.text.spans import object_spans, occurrences


@pytest.fixture(scope="module")
def loaded():
    return models.load("miniature")


def subjects_of(*nouns, styles=()):
    named = [
        Subject(key=f"s{i}", identifier="", class_noun=noun, detection_query="" if noun in styles else noun, references=())
        for i, noun in enumerate(nouns)
    ]
    return Combination(key="test", subjects=tuple(named))


TEXTS = (
    "a dog and a dog", "A DOG's house, a pink  dog; dogs", "the teddy-bear & (teddy bear)", "dog_house dog2 teddy\nbear",
    "a bear without a teddy", "a pink dog and a dog", "hotdog, dog.", "it's the dog'll teddy bear!?", "cafe\u0301 dog \u00c9dog",
)  # fmt: skip


@pytest.mark.parametrize(("text", "phrases"), product(TEXTS, (["dog", "dog"], ["dog", "pink dog"], ["teddy bear", "Bear"], ["caf\u00e9"])))
def test_words_are_found_where_tokens_are(loaded, text, phrases):
    """The same phrases are there, and before each the text holds as many tokens as its span says."""
    by_tokens, by_words = occurrences(loaded, text, phrases), places(text, phrases)
    before = [None if place is None else len(loaded.tokenizer(folded(text)[: place[0]], add_special_tokens=False).input_ids)
              for place in by_words]  # fmt: skip
    assert before == [None if span is None else span[0] - 1 for span in by_tokens]


def test_what_is_longer_chooses_first_and_what_is_alike_takes_turns():
    """Of 1 2 1 1 the pair (2, 1) has places 1 and 2, so two ones get 0 and 3, and a third one none."""
    assert in_turn([1, 2, 1, 1], [[1], [2, 1], [1], [1]]) == [range(1), range(1, 3), range(3, 4), None]


def test_a_phrase_without_words_is_refused():
    with pytest.raises(ValueError, match="holds no word"):
        places("a dog", ["dog", " "])


def test_attention_and_residuals_take_the_same_words_for_a_subject_beside_a_style(loaded):
    """The first "dog" of "a dog illustration of a dog" belongs to the style, the last one to the subject, for both."""
    text, pair = "a dog illustration of a dog", subjects_of("dog", "dog illustration", styles=("dog illustration",))
    (span,) = object_spans(loaded, text, pair)
    bare = encode_prompts(loaded, [text]).states
    values = torch.ones(len(span), bare.shape[-1])
    style_tokens = len(loaded.tokenizer("dog illustration", add_special_tokens=False).input_ids)
    loaded.residuals[:] = [
        Residual(key="s0", words="dog", values=values),
        Residual(key="s1", words="dog illustration", values=torch.zeros(style_tokens, bare.shape[-1])),
    ]
    moved = (encode_prompts(loaded, [text]).states - bare)[0].abs().sum(-1).nonzero().flatten().tolist()
    loaded.residuals.clear()
    assert moved == list(span)
    assert span[0] == len(loaded.tokenizer("a dog illustration of a", add_special_tokens=False).input_ids) + 1


def test_a_style_may_be_absent_and_an_object_may_not(loaded):
    pair = subjects_of("dog", "sepia", styles=("sepia",))
    assert object_spans(loaded, "a dog", pair) == [(2,)]
    with pytest.raises(ValueError, match="does not name 'dog'"):
        object_spans(loaded, "sepia", pair)
