"""Which subject a caption names: its own by the identifier as a whole word, and no other."""

import re
from collections.abc import Mapping


def check_caption(what: str, caption: str, key: str, identifiers: Mapping[str, str]) -> None:
    """ValueError that begins with `what` unless the caption of a photo of subject `key` names its identifier and no other's.

    `identifiers` by subject key. Without its own identifier the photo would be bound to nothing, with another's to that too.
    """
    if not names(caption, identifiers[key]):
        raise ValueError(f'{what} does not name "{identifiers[key]}"; write a caption that does')
    for other, identifier in identifiers.items():
        if other != key and names(caption, identifier):
            raise ValueError(
                f'{what} names "{identifier}", the identifier of "{other}", in a photo of "{key}"; '
                "describe what else is in the photo in ordinary words"
            )


def names(caption: str, identifier: str) -> bool:
    """Whether the caption has the identifier as a word, in upper or lower case: "polished" does not name "olis"."""
    return re.search(rf"(?<!\w){re.escape(identifier.lower())}(?!\w)", caption.lower()) is not None
