"""Which words of a prompt name which subject, told from the text alone, before any tokenizer is there."""

import re
import unicodedata
from collections.abc import Sequence

# CLIP's tokenizer cuts a text so before it cuts words further: runs of letters, single digits, runs of all else.
WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+")


def folded(text: str) -> str:
    """The text as CLIP's tokenizer compares it: composed characters, lower case."""
    return unicodedata.normalize("NFC", text).lower()


def in_turn(sequence: Sequence[object], wanted: Sequence[Sequence[object]]) -> list[range | None]:
    """Where in `sequence` each of `wanted`, sequences of one item or more, stands; None where it does not.

    Longer ones choose first, so that "dog" does not take a part of another's "pink dog"; those that are alike take their
    occurrences in turn, the first one the first. No item is taken twice.
    """
    items, taken = list(sequence), set()
    found: list[range | None] = [None] * len(wanted)
    for index in sorted(range(len(wanted)), key=lambda index: -len(wanted[index])):
        words = list(wanted[index])
        places = (range(start, start + len(words)) for start in range(len(items) - len(words) + 1))
        found[index] = next((p for p in places if items[p.start : p.stop] == words and not taken & set(p)), None)
        taken |= set(found[index] or ())
    return found


def places(text: str, phrases: Sequence[str]) -> list[tuple[int, int] | None]:
    """Where each phrase begins and ends, as characters of the folded `text`; None where it is not there as whole words.

    By words what `spans.occurrences` finds by tokens. Raises ValueError for a phrase of no words.
    """
    words = list(WORD.finditer(folded(text)))
    wanted = [WORD.findall(folded(phrase)) for phrase in phrases]
    if not all(wanted):
        raise ValueError(f"the phrase {phrases[wanted.index([])]!r} holds no word; name the subject by its class")
    found = in_turn([word[0] for word in words], wanted)
    return [None if place is None else (words[place[0]].start(), words[place[-1]].end()) for place in found]


def token_id(tokenizer, word: str) -> int:
    """The one token of an identifier; ValueError if it is none or several: a row can stand for one token only."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(f"identifier {word!r} is {len(ids)} tokens; learning its row needs one token, such as olis, hta, ult, amg or lun")
    return ids[0]
