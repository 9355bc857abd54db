"""Where the subjects stand in a prompt, as tokens: what residuals are added to and attention is steered by."""

from collections.abc import Sequence

from mudi.models import Backbone

Span = tuple[int, ...]


def occurrences(backbone: Backbone, text: str, phrases: Sequence[str]) -> list[Span | None]:
    """The positions of each phrase's tokens among the encoders' states, the start mark being 0; None if it is not there.

    Phrases that are alike ("dog" and "dog") take the occurrences in turn: the first phrase the first one. Longer phrases
    come first, so that "dog" does not take a part of "pink dog" from another subject. All tokenizers of a backbone share
    their merges, so the positions hold for all encoders. Raises ValueError for a phrase of no words and for one that the
    context cuts off.
    """
    ids = backbone.tokenizer(text, add_special_tokens=False).input_ids
    context = backbone.text_encoder.config.max_position_embeddings
    taken: set[int] = set()
    wanted = [backbone.tokenizer(phrase, add_special_tokens=False).input_ids for phrase in phrases]
    spans: list[Span | None] = [None] * len(phrases)
    for index in sorted(range(len(phrases)), key=lambda index: -len(wanted[index])):
        phrase, words = phrases[index], wanted[index]
        if not words:
            raise ValueError(f"the phrase {phrase!r} holds no word; name the subject by its class")
        places = (range(start, start + len(words)) for start in range(len(ids) - len(words) + 1))
        place = next((p for p in places if ids[p.start : p.stop] == words and not taken & set(p)), None)
        if place is None:
            continue
        taken |= set(place)
        # The start mark comes before the words, and the last position belongs to the end mark.
        if place[-1] + 1 >= context - 1:
            raise ValueError(f"the prompt {text!r} is too long: {phrase!r} lies beyond its {context} tokens; shorten it")
        spans[index] = tuple(position + 1 for position in place)
    return spans


def token_spans(backbone: Backbone, text: str, phrases: Sequence[str]) -> list[Span]:
    """`occurrences` of phrases that the text must all hold, else ValueError."""
    found = occurrences(backbone, text, phrases)
    for phrase, span in zip(phrases, found, strict=True):
        if span is None:
            times = f" {phrases.count(phrase)} times" if phrases.count(phrase) > 1 else ""
            raise ValueError(f"the prompt {text!r} does not name {phrase!r}{times}; write it out for each subject, or use {{subjects}}")
    return found
