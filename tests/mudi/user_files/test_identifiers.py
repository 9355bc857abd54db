"""An identifier is one rare token of every text encoder."""

import json

import pytest
from places import DOGS
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from mudi.checkpoints.clip_vocabulary import clip_tokenizer
from mudi.user_files.identifiers import CLIP_ENTRIES, IDENTIFIERS, check_identifier


@pytest.fixture(scope="module")
def sdxl():
    return [clip_tokenizer(), clip_tokenizer(pad_token="!")]


def test_every_listed_word_passes_in_sdxl_and_no_two_share_a_token(sdxl):
    """The five of MuDI's data come first, with the ids that its prompts have in SDXL."""
    for word in IDENTIFIERS:
        check_identifier(word, sdxl)
    ids = [sdxl[0](word, add_special_tokens=False).input_ids for word in IDENTIFIERS]
    assert ids[:5] == [[49397], [49384], [4380], [21324], [49390]]
    assert len({id for (id,) in ids}) == len(IDENTIFIERS)
    assert sdxl[0].vocab_size == CLIP_ENTRIES


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("dog", "too common: entry 1929 "),
        ("cat", "too common: entry 2368 "),
        ("weimaraner", r"is \d tokens"),
        ("olis corgi", "not one word"),
        ("", "not one word"),
        ("Olis", "not one word"),
        ("!", "not one word"),
        ("犬", "not one word"),
    ],
)
def test_what_is_refused_and_why(sdxl, word, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        check_identifier(word, sdxl)
    assert "olis" in str(caught.value)


def test_the_line_between_common_and_rare_is_entry_4000(sdxl):
    """Of CLIP's whole words of letters, those from entry 4000 on pass and those before do not."""
    words = {id: entry[:-4] for entry, id in sdxl[0].get_vocab().items() if entry.endswith("</w>") and entry[:-4].isalpha()}
    near = [id for id in sorted(words) if 3950 <= id < 4050 and words[id].isascii() and words[id].islower()]
    assert min(near) < 4000 <= max(near)
    for id in near:
        try:
            check_identifier(words[id], sdxl)
        except ValueError:
            assert id < 4000
        else:
            assert id >= 4000


def test_one_tokenizer_that_splits_the_word_is_enough_to_refuse_it(sdxl, miniature):
    """ "toid" is one token of CLIP and none of the miniature's."""
    check_identifier("toid", sdxl)
    with pytest.raises(ValueError, match="'toid' is"):
        check_identifier("toid", [*sdxl, miniature.tokenizer])


def test_the_miniature_takes_the_identifiers_of_its_own_photos(miniature):
    """Its vocabulary is 1,052 entries in no order of frequency: all of them are below 4000."""
    header = json.loads((DOGS / "metadata.jsonl").read_text().splitlines()[0])
    words = [phrase.split()[0] for phrase in header["id"].values()]
    assert words == ["olis", "hta"]
    for word in words:
        check_identifier(word, [miniature.tokenizer, miniature.tokenizer_2])


def test_a_token_that_stands_for_every_unknown_word_is_no_identifier():
    """With a vocabulary of whole words "olis" is one token, but that of all words it does not know."""
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"?": 0, "hta": 1}, unk_token="?")), unk_token="?")
    check_identifier("hta", [words])
    with pytest.raises(ValueError, match="no token of its own"):
        check_identifier("olis", [words])
