"""Where the subjects stand in a prompt, as tokens: what residuals are added to and attention is steered by."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from mudi.backbone import Backbone
from mudi.records import Combination
from mudi.text.mentions import in_turn

Span = tuple[int, ...]


def occurrences(backbone: Backbone, text: str, phrases: Sequence[str]) -> list[Span | None]:
    """The positions of each phrase's tokens among the encoders' states, the start mark being 0; None if it is not there.

    Phrases that are alike ("dog" and "dog") take the occurrences in turn: the first phrase the first one. Longer phrases
    come first, so that "dog" does not take a part of "pink dog" from another subject, and only whole words count. All
    tokenizers of a backbone share their merges, so the positions hold for all encoders. Raises ValueError for a phrase of
    no words and for one that the context cuts off.
    """
    words, context = _words(backbone, text), backbone.text_encoder.config.max_position_embeddings
    wanted = [_words(backbone, phrase) for phrase in phrases]
    if not all(wanted):
        raise ValueError(f"the phrase {phrases[wanted.index([])]!r} holds no word; name the subject by its class")
    # The start mark comes before the words.
    starts = list(accumulate(map(len, words), initial=1))
    found = [p and tuple(range(starts[p.start], starts[p.stop])) for p in in_turn(words, wanted)]
    for phrase, span in zip(phrases, found, strict=True):
        # The last position belongs to the end mark.
        if span is not None and span[-1] >= context - 1:
            raise ValueError(f"the prompt {text!r} is too long: {phrase!r} lies beyond its {context} tokens; shorten it")
    return found


def _words(backbone: Backbone, text: str) -> list[tuple[int, ...]]:
    """The tokens of each word, told by the mark that the last one carries, without which "hotdog" might end in a dog."""
    ids = backbone.tokenizer(text, add_special_tokens=False).input_ids
    tokens, added = backbone.tokenizer.convert_ids_to_tokens(ids), backbone.tokenizer.get_added_vocab()
    ends = [index + 1 for index, token in enumerate(tokens) if token.endswith("</w>") or token in added]
    return [tuple(ids[start:end]) for start, end in pairwise([0, *ends])]


def object_spans(backbone: Backbone, text: str, combination: Combination) -> list[Span]:
    """The `occurrences` of the subjects that a box can hold, in their order; ValueError if the text lacks one.

    Styles are looked for beside them, and may be absent, so that a word is the same subject's here and where residuals
    are added: in "a dog illustration of a dog" the first dog is the style's.
    """
    found = occurrences(backbone, text, [subject.phrase for subject in combination.subjects])
    spans = [span for subject, span in zip(combination.subjects, found, strict=True) if subject in combination.objects]
    _require(text, [subject.phrase for subject in combination.objects], spans)
    return spans


def token_spans(backbone: Backbone, text: str, phrases: Sequence[str]) -> list[Span]:
    """`occurrences` of phrases that the text must all hold, else ValueError."""
    found = occurrences(backbone, text, phrases)
    _require(text, phrases, found)
    return found


def _require(text: str, phrases: Sequence[str], found: Sequence[Span | None]) -> None:
    for phrase, span in zip(phrases, found, strict=True):
        if span is None:
            times = f" {phrases.count(phrase)} times" if phrases.count(phrase) > 1 else ""
            raise ValueError(f"the prompt {text!r} does not name {phrase!r}{times}; write it out for each subject, or use {{subjects}}")
