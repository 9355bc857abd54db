"""Whether filled prompts name subjects as steered words need it, asked before anything is loaded."""

from collections.abc import Sequence

from mudi.personalization import Personalization
from mudi.records import Combination
from mudi.text.mentions import folded, places
from pipeline.plan import pieces


def require_named(place: str, options: Personalization, combination: Combination, templates: Sequence[str]) -> None:
    """Raise ValueError, naming the method's `place` in the file, for the first template that fills to a prompt in which words
    that are steered would be no subject's, or another's.

    Guidance by layout needs every subject that has a box, as often as subjects share its words. It and residuals find a
    subject by its words, so words that the template itself holds must not be taken for one that a placeholder names: of
    "a dog house behind a {a}", where a is a "dog", the first. Methods that steer no words take any prompt.
    """
    guided, named = options.sampling.layout_guidance is not None, options.view(combination)
    if not (guided or options.residuals):
        return
    phrases = [subject.phrase for subject in named.subjects]
    for template in templates:
        text, put = _filled(named, template)
        for subject, found in zip(named.subjects, places(text, phrases), strict=True):
            boxed = guided and subject in named.objects
            if boxed and found is None:
                times = f" {phrases.count(subject.phrase)} times" if phrases.count(subject.phrase) > 1 else ""
                raise ValueError(
                    f"{place}: prompt {template!r} does not name {subject.phrase!r}{times}, and sampling.layout_guidance holds every "
                    "subject to its box; name each, as {subjects} does, or leave layout_guidance out"
                )
            if (boxed or options.residuals) and subject.key in put and found not in put[subject.key]:
                raise ValueError(
                    f"{place}: prompt {template!r}: {{{subject.key}}} is told by {subject.phrase!r} alone, and other words would be taken "
                    "for it; put spaces around it, and do not write its words out beside it"
                )


def _filled(combination: Combination, template: str) -> tuple[str, dict[str, list[tuple[int, int]]]]:
    """The prompt as it is compared, and where in it each placeholder put its subject."""
    text, put = "", {}
    for key, words in pieces(combination, template):
        start, text = len(text), text + folded(words)
        if key is not None:
            put.setdefault(key, []).append((start, len(text)))
    return text, put
