"""Prompts from templates: placeholders filled with the subjects' words, which must name subjects as steered words need it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mudi.records import Combination, Prompt
from mudi.text.mentions import folded, places

if TYPE_CHECKING:
    from mudi.personalization import Personalization

WATCHED = "watch-"


def fill_prompts(combination: Combination, templates: Sequence[str], watched_templates: Sequence[str] = ()) -> Combination:
    """The combination with its prompts written out, "p00", "p01", ... and then "watch-00", ...

    "{subjects}" becomes "a olis corgi and a hta chow chow" and "{a}" the phrase of the subject with key a.
    The article is always "a", as in the captions that the subjects are learnt from. Raises ValueError for
    a placeholder that names no subject, for a template without any, which would draw no subject, and for one that names
    subjects of the same words in another order than the combination's, by which their occurrences are told apart.
    """
    drawn = [Prompt(prompt_id=f"p{i:02}", text=_text(combination, text)) for i, text in enumerate(templates)]
    texts = [_text(combination, text) for text in watched_templates]
    watched = [Prompt(prompt_id=f"{WATCHED}{i:02}", text=text, watched=True) for i, text in enumerate(texts)]
    return replace(combination, prompts=(*drawn, *watched))


def _text(combination: Combination, template: str) -> str:
    return "".join(words for _, words in pieces(combination, template))


def pieces(combination: Combination, template: str) -> list[tuple[str | None, str]]:
    """The parts of a filled template in their order: the key of the subject that a part names, or None, and the part's words.

    Raises ValueError as `fill_prompts` does.
    """
    phrases = {subject.key: subject.phrase for subject in combination.subjects}
    joints = ["a ", *[", a "] * (len(phrases) - 2), " and a "]
    listed = [piece for joint, named in zip(joints, phrases.items()) for piece in ((None, joint), named)]
    values = {"subjects": listed, **{key: [(key, phrase)] for key, phrase in phrases.items()}}
    allowed = ", ".join(f"{{{name}}}" for name in values)
    # Every other part is what braces hold.
    parts = re.split(r"\{([^{}]*)\}", template)
    if len(parts) == 1:
        raise ValueError(f"prompt {template!r}: names no subject; write one or more of {allowed} into it")
    if any("{" in literal or "}" in literal for literal in parts[::2]):
        raise ValueError(f"prompt {template!r}: unbalanced braces; braces hold one of {allowed}")
    for name in parts[1::2]:
        if name not in values:
            raise ValueError(f"prompt {template!r}: unknown placeholder {{{name}}}; combination {combination.key!r} allows {allowed}")
    found = [piece for i, part in enumerate(parts) for piece in (values[part] if i % 2 else [(None, part)])]
    _require_order(phrases, [key for key, _ in found if key is not None], template)
    return found


def _require_order(phrases: Mapping[str, str], mentioned: Sequence[str], template: str) -> None:
    """Of subjects that one phrase names, the first mention is the first subject's, the second the second's (`mudi.text.spans`)."""
    for phrase in set(phrases.values()):
        alike = [key for key, other in phrases.items() if other == phrase]
        mentions = [key for key in mentioned if key in alike][: len(alike)]
        if mentions != alike[: len(mentions)]:
            raise ValueError(
                f"prompt {template!r}: names {', '.join(mentions)}, all of them {phrase!r}, which only their order tells apart; "
                f"name them as {', '.join(alike)}, or give each its own identifier and a method that uses it"
            )


def require_named(place: str, options: "Personalization", combination: Combination, templates: Sequence[str]) -> None:
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
