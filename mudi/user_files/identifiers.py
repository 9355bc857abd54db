"""The rare words that stand for subjects, and the test that a word can."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# In the order in which they are given to subjects. The first five are those of MuDI's published data. The
# others are among the last merges of CLIP's vocabulary, and no word, name or abbreviation with a look of its own.
IDENTIFIERS = (
    "olis", "hta", "ult", "amg", "lun", "inem", "ront", "toid", "gote", "veli", "phol", "yte", "oue", "teer", "ylor", "erra",
)  # fmt: skip
EXAMPLES = ", ".join(IDENTIFIERS[:5])
CLIP_ENTRIES = 49_408
COMMON = 4000


def check_identifier(word: str, tokenizers: Iterable["PreTrainedTokenizerBase"]) -> None:
    """Raises ValueError unless `word` can be bound to a subject with all of these tokenizers.

    It must be one token in each, because the fit teaches that token alone: an identifier of several pieces
    shares them with other words, which then change their meaning. And it must be rare. A byte-pair
    vocabulary is in the order in which its pairs were merged, the most frequent first, so in CLIP's of
    49,408 entries a low number is a common word, with a look of its own that the fit would have to
    overcome: "dog" is 1929, "cat" 2368. The line is drawn at 4000, below "ult" (4380), the most common
    word that MuDI published. Other vocabularies are asked for one token only: the miniature's 1,052
    entries stand in the order in which its word list names them, which says nothing of frequency.
    """
    if not re.fullmatch(r"[a-z]+", word):
        raise ValueError(f"identifier {word[:40]!r} is not one word of the letters a to z; use a rare word such as {EXAMPLES}")
    for tokenizer in tokenizers:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        # The second test is for vocabularies in which one token stands for every unknown word.
        if len(ids) != 1 or tokenizer.convert_ids_to_tokens(ids[0]) not in (word, f"{word}</w>"):
            raise ValueError(
                f"identifier {word!r} is {len(ids)} tokens to the text encoder and no token of its own; use a word such as {EXAMPLES}"
            )
        if tokenizer.vocab_size == CLIP_ENTRIES and ids[0] < COMMON:
            raise ValueError(
                f"identifier {word!r} is too common: entry {ids[0]} of CLIP's vocabulary, below {COMMON}; use one such as {EXAMPLES}"
            )
