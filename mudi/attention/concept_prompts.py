"""What each path of several is told: the base path no identifier, a concept's own path its concept alone.

As in the released configuration of Concept Conductor (arXiv 2408.03632), where the base model reads "a cat on a chair and a dog on
the floor" and the cat's own model "a <cat> on a chair and a <cat> on the floor": an identifier means nothing to a model without its
adapter, and another concept's words would draw that concept into this one's box.
"""

import re
from collections.abc import Sequence

from mudi.backbone import Concept


def base_text(text: str, concepts: Sequence[Concept]) -> str:
    """The prompt with every concept named by its class noun."""
    return _renamed(text, {concept.phrase: concept.class_noun for concept in concepts})


def own_text(text: str, own: Concept, concepts: Sequence[Concept]) -> str:
    """The prompt of one concept's path: what a box holds is all of this concept, and styles are named by their class noun.

    In a style's own path it is the other way about: the style by its phrase, all else by class nouns.
    """
    names = {c.phrase: c.class_noun if c.style or own.style else own.phrase for c in concepts}
    return _renamed(text, names | {own.phrase: own.phrase})


def _renamed(text: str, names: dict[str, str]) -> str:
    """The text with whole phrases replaced, the longest first, at once: what is put in is not looked at again."""
    if not names:
        return text
    by_lower = {phrase.lower(): name for phrase, name in names.items()}
    longest_first = sorted(map(re.escape, by_lower), key=len, reverse=True)
    return re.sub(rf"\b(?:{'|'.join(longest_first)})\b", lambda found: by_lower[found[0].lower()], text, flags=re.IGNORECASE)
