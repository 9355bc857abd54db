"""The tokenizer built from the shipped vocabulary is CLIP's and SDXL's own."""

import pytest
from open_clip.tokenizer import SimpleTokenizer

from mudi.checkpoints.clip_vocabulary import clip_tokenizer

PROMPTS = [
    "A photo of an olis corgi and an HTA chow chow, simple background.",
    "ult amg lun -- it's we'll they've 1024x768 (award-winning)!!",
    "café naïve Ünïcödé 日本語 🙂 ½ µm",
    "   several   spaces\tand\nlines ",
    "",
]


@pytest.mark.parametrize(
    ("word", "ids"), [("olis corgi", [49397, 31320]), ("hta", [49384]), ("ult", [4380]), ("amg", [21324]), ("lun", [49390])]
)
def test_identifiers_are_the_single_tokens_that_sdxl_knows(word, ids):
    assert clip_tokenizer()(word).input_ids == [49406, *ids, 49407]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_ids_equal_those_of_the_original_encoder(prompt):
    """The reference is open_clip's SimpleTokenizer, CLIP's published Python encoder."""
    expected = SimpleTokenizer(clean="whitespace").encode(prompt.lower())
    assert clip_tokenizer()(prompt).input_ids == [49406, *expected, 49407]


def test_the_two_tokenizers_of_sdxl_differ_only_in_padding():
    """SDXL pads the first text with the end token and the second with "!", entry 0; both to 77 tokens."""
    first, second = (t("olis corgi", padding="max_length").input_ids for t in (clip_tokenizer(), clip_tokenizer(pad_token="!")))
    assert first == [49406, 49397, 31320] + [49407] * 74
    assert second == [49406, 49397, 31320, 49407] + [0] * 73


def test_the_vocabulary_has_every_entry_once():
    assert sorted(clip_tokenizer().get_vocab().values()) == list(range(49_408))
